"""What is particular to circulant layers: their matrix, their optimum, their counts, their ONNX body."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_onnx_bodies import check
from torch import Tensor, nn

from compressor.layers import Metric, circulant, method
from compressor.layers.onnx_fourier import circulant_functions, fourier_split
from compressor_kernels import reference

Layer = method("circulant").layer


def data(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def metric_of(width: int, rank: int | None = None) -> Metric:
    x = data(3 * width, width)[: rank or 3 * width] * torch.linspace(2, 0.1, width, dtype=torch.float64)
    return Metric(x.T @ x / len(x), torch.zeros(width, dtype=torch.float64))


def circulant_matrix(c: Tensor) -> Tensor:
    c = c.tolist()
    return torch.tensor([[c[(i - j) % len(c)] for j in range(len(c))] for i in range(len(c))], dtype=torch.float64)


@pytest.mark.parametrize("n", [1, 2, 7, 64, 65, 66, 128])
def test_convolutions_are_circulant_matrices(n: int) -> None:
    x, c = data(2, 3, n), data(3, n)
    wanted = torch.stack([x[:, t] @ circulant_matrix(c[t]).T for t in range(3)], 1)
    torch.testing.assert_close(reference.convolve(x, c), wanted)
    torch.testing.assert_close(reference.convolve_sum(x, c), wanted.sum(1))
    torch.testing.assert_close(reference.convolve(x[:, :1], c)[:, 2], x[:, 0] @ circulant_matrix(c[2]).T)
    assert reference.convolve_sum(x[:0], c).shape == (0, n)
    half = reference.convolve_sum(x.bfloat16(), c.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.double(), wanted.sum(1), rtol=0.1, atol=0.1 * n**0.5)


@pytest.mark.parametrize("signs", ["fixed", "learned"])
@pytest.mark.parametrize("terms", [1, 2, 40])
def test_circulant_is_its_formula_however_many_terms_are_added(terms: int, signs: str) -> None:
    layer = Layer(66, 40, terms=terms, signs=signs, seed=4, bias=False).double()
    assert layer.size == 70
    assert layer.is_expanded == (terms == 40)
    assert set(layer.s.unique().tolist()) == {-1, 1}
    x = data(5, 66)
    padded = nn.functional.pad(x * layer.s[:, None], (0, 4))  # (T, 5, N)
    wanted = sum(padded[t] @ circulant_matrix(layer.c[t]).T for t in range(terms))
    torch.testing.assert_close(layer(x), wanted[:, :40])


@pytest.mark.parametrize("most", [10**6, 0], ids=["direct", "products"])
@pytest.mark.parametrize(("size", "terms", "rank"), [((9, 7), 1, None), ((6, 10), 2, None), ((13, 5), 2, 4)])
def test_fit_is_the_least_squares_solution_over_all_entries(
    size: tuple[int, int], terms: int, rank: int | None, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(circulant, "_DIRECT_UNKNOWNS", most)
    weight, metric = data(size[1], size[0]), metric_of(size[0], rank)
    layer = Layer.from_dense(weight, None, layer_config(terms=terms), metric)
    columns = []
    for number in range(layer.c.numel()):
        unit = torch.zeros(layer.c.numel(), dtype=torch.float64)
        unit[number] = 1
        along = [
            circulant_matrix(c)[: size[1], : size[0]] * s
            for c, s in zip(unit.reshape(layer.c.shape), layer.s, strict=True)
        ]
        columns.append((sum(along) @ metric.root()).flatten())
    aim = (weight @ metric.root()).flatten()
    best = torch.linalg.lstsq(torch.stack(columns, 1), aim, driver="gelsd").solution
    optimum = float((torch.stack(columns, 1) @ best - aim).norm() / aim.norm())
    found = metric.relative_error(weight, layer.dense()[0].detach())
    if most:
        assert found == pytest.approx(optimum, rel=1e-6, abs=1e-6)
    else:  # single precision
        assert found == pytest.approx(optimum, rel=1e-3, abs=1e-3)


def layer_config(**settings: object) -> object:
    return method("circulant").config(settings)


def test_without_data_the_fit_is_the_mean_along_each_diagonal() -> None:
    weight = data(8, 8)
    layer = Layer.from_dense(weight, None, layer_config(), Metric.identity(8))
    signed = weight * layer.s[0]
    means = [float(torch.stack([signed[(k + j) % 8, j] for j in range(8)]).mean()) for k in range(8)]
    torch.testing.assert_close(layer.c.detach()[0], torch.tensor(means, dtype=torch.float64))


def test_learned_diagonals_find_a_map_of_their_own_kind_and_beat_fixed_signs() -> None:
    own = Layer(12, 12, terms=2, signs="learned", bias=False).double()
    with torch.no_grad():
        own.s.add_(0.5 * data(2, 12))
        weight = own.dense()[0]
    fitted = Layer.from_dense(weight, None, own.config, Metric.identity(12))
    assert Metric.identity(12).relative_error(weight, fitted.dense()[0].detach()) < 1e-5
    weight, metric = data(9, 12), metric_of(12)
    errors = [
        metric.relative_error(
            weight, Layer.from_dense(weight, None, layer_config(signs=signs), metric).dense()[0].detach()
        )
        for signs in ("fixed", "learned")
    ]
    assert errors[1] < 0.9 * errors[0]


def test_signs_of_full_rank_hold_every_map() -> None:
    weight = data(6, 5)
    layer = Layer.from_dense(weight, None, layer_config(terms=15), metric_of(5))
    assert metric_of(5).relative_error(weight, layer.dense()[0].detach()) < 1e-6
    assert Layer.config_for_params(5, 6, True, 10**6, layer_config()).terms == 15


def test_circulant_counts_a_vector_a_term_and_the_operations_of_its_transforms() -> None:
    with torch.device("meta"):
        fixed = Layer(800, 500, bias=True, terms=2)
        learned = Layer(800, 500, bias=True, terms=2, signs="learned")
        assert Layer(1024, 1024, bias=False).macs() == 2 * 5 * 1024 * 10 // 4 + 3 * 1024
        assert Layer(64, 64, bias=False, terms=60).macs() == 64 * 64
    assert fixed.params() == 2 * 800 + 500 + 1
    assert learned.params() == 2 * 800 + 2 * 800 + 500


CASES = [  # in, out, N, T, expanded, rank
    (1, 1, 1, 1, False, 2),
    (48, 33, 48, 2, True, 3),
    (250, 101, 256, 2, False, 2),
    (262, 262, 262, 1, False, 3),
    (315, 200, 315, 3, False, 2),
    (100, 310, 311, 2, False, 2),
    (300, 20, 300, 4, True, 2),
    (1024, 10, 1024, 1, False, 3),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_circulant_body_is_the_formula_on_stock_runtimes(case: tuple[int, int, int, int, bool, int]) -> None:
    in_features, out, n, terms, expanded, rank = case
    rng = np.random.default_rng(0)
    c = (rng.standard_normal((terms, n)) / np.sqrt(n)).astype(np.float32)
    s = rng.choice([-1, 1], (terms, in_features)).astype(np.int8)
    index = np.arange(n)
    matrices = [c[t][(index[:, None] - index) % n][:out, :in_features] * s[t] for t in range(terms)]
    [function] = circulant_functions(in_features, out, size=n, terms=terms, expanded=expanded)
    check(function, {"c": c, "s": s}, lambda x: x @ sum(matrices).T.astype(np.float64), in_features, out, rank)


@pytest.mark.parametrize("n", [1, 97, 800, 4096, 9216])
@pytest.mark.parametrize("real", [True, False])
def test_the_split_multiplies_to_n_and_is_near_square_where_n_allows(n: int, real: bool) -> None:
    n1, n2 = fourier_split(n, real=real)
    assert n1 * n2 == n
    if n != 97:
        assert n / 16 <= n1 * n1 <= 16 * n


def test_learned_start_is_the_optimum_of_a_diagonal_metric() -> None:
    weight, spread = data(8, 8), torch.linspace(1, 9, 8, dtype=torch.float64)
    c, s = circulant._cut(weight, torch.diag(spread), 3, 8)
    metric = Metric(torch.diag(spread), torch.zeros(8, dtype=torch.float64))
    along = torch.stack([torch.stack([weight[(k + j) % 8, j] for j in range(8)]) for k in range(8)])
    tail = torch.linalg.svdvals(along * spread.sqrt())
    wanted = float(tail[3:].norm() / tail.norm())
    assert metric.relative_error(weight, circulant._expand(c, s, 8)) == pytest.approx(wanted, rel=1e-6)


def test_what_the_data_never_show_is_fitted_by_the_weights_alone() -> None:
    weight, nothing = data(7, 9), Metric(torch.zeros(9, 9), torch.zeros(9))
    fits = [Layer.from_dense(weight, None, layer_config(), metric).c for metric in (nothing, Metric.identity(9))]
    torch.testing.assert_close(*fits)
    assert fits[0].detach().norm() > 0.1
