"""What is particular to Toeplitz-like layers: their matrices, the start of their fit, their counts, their ONNX body."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_onnx_bodies import check
from torch import Tensor, nn

from compressor.layers import Metric, method, solve, toeplitz
from compressor.layers.onnx_fourier import toeplitz_functions

Layer = method("toeplitz").layer


def data(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def metric_of(width: int) -> Metric:
    x = data(3 * width, width) * torch.linspace(2, 0.1, width, dtype=torch.float64)
    return Metric(x.T @ x / len(x), torch.zeros(width, dtype=torch.float64))


def shift_matrix(v: np.ndarray, f: int) -> np.ndarray:
    """``Z_f(v)``: v down the diagonals, times f where it wraps around."""
    n = len(v)
    return np.array([[v[i - j] if i >= j else f * v[n + i - j] for j in range(n)] for i in range(n)], dtype=np.float64)


def matrix(g: np.ndarray, h: np.ndarray) -> np.ndarray:
    return sum(shift_matrix(a, 1) @ shift_matrix(b, -1) for a, b in zip(g, h, strict=True))


def toeplitz_matrix(rows: int, columns: int) -> Tensor:
    entries = data(rows + columns)
    return torch.stack([torch.stack([entries[i - j + columns] for j in range(columns)]) for i in range(rows)])


@pytest.mark.parametrize(("size", "n", "rank"), [((5, 8), 8, 1), ((9, 4), 11, 3), ((66, 40), 70, 2)])
def test_toeplitz_is_its_formula(size: tuple[int, int], n: int, rank: int) -> None:
    layer = Layer(*size, rank=rank, size=n, bias=False).double()
    x = data(5, size[0])
    wanted = nn.functional.pad(x, (0, n - size[0])) @ torch.from_numpy(
        matrix(layer.G.detach().numpy(), layer.H.detach().numpy()).T
    )
    torch.testing.assert_close(layer(x), wanted[:, : size[1]])


def test_generators_of_full_displacement_rank_give_every_matrix_back() -> None:
    weight = data(7, 9)
    g, h = toeplitz._generators(weight, 10, 10)
    torch.testing.assert_close(torch.from_numpy(matrix(g.numpy(), h.numpy()))[:7, :9], weight)


@pytest.mark.parametrize(
    "weight",
    [toeplitz_matrix(12, 12), torch.linalg.inv(toeplitz_matrix(12, 12)), torch.outer(data(12), data(2, 12)[1])],
    ids=["toeplitz", "inverse", "rank one"],
)
def test_two_products_hold_toeplitz_matrices_their_inverses_and_rank_one(weight: Tensor) -> None:
    layer = Layer.from_dense(weight, None, method("toeplitz").config(), metric_of(12))
    assert metric_of(12).relative_error(weight, layer.dense()[0].detach()) < 1e-6


@pytest.mark.parametrize("rank", [2, 5])
def test_fit_is_nearer_than_the_low_rank_map_that_it_can_hold(rank: int) -> None:
    weight, metric = data(9, 12), metric_of(12)
    layer = Layer.from_dense(weight, None, method("toeplitz").config({"rank": rank}), metric)
    tail = torch.linalg.svdvals(weight @ metric.root())
    low_rank = float(tail[rank // 2 :].norm() / tail.norm())
    started = Layer(12, 9, rank=rank, bias=False).double()
    started._start_at(weight, metric)
    assert metric.relative_error(weight, started.dense()[0].detach()) <= low_rank + 1e-9
    assert metric.relative_error(weight, layer.dense()[0].detach()) < 0.9 * low_rank


def test_from_scratch_the_map_is_as_large_as_a_dense_layers() -> None:
    weight = Layer(800, 500, rank=3, bias=False).dense()[0].detach()
    assert float(weight.square().mean() * 800) == pytest.approx(1, rel=0.1)


def test_toeplitz_stores_two_vectors_a_product_and_counts_its_transforms() -> None:
    with torch.device("meta"):
        layer = Layer(1024, 1000, rank=3)
    assert layer.params() == 2 * 1024 * 3 + 1000
    assert layer.macs() == 8 * 5 * 1024 * 10 // 4 + 4 * 1024 + 3 * 2 * 2 * 1024


CASES = [  # in, out, N, r, rank of the input
    (1, 1, 1, 1, 2),
    (7, 10, 10, 2, 3),
    (90, 97, 97, 1, 2),
    (315, 20, 315, 3, 3),
    (800, 500, 800, 2, 2),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_toeplitz_body_is_the_formula_on_stock_runtimes(case: tuple[int, int, int, int, int]) -> None:
    in_features, out, n, r, rank = case
    rng = np.random.default_rng(0)
    g, h = (rng.standard_normal((r, n)).astype(np.float32) for _ in range(2))
    weight = matrix(g, h)[:out, :in_features]
    [function] = toeplitz_functions(in_features, out, size=n, rank=r)
    check(function, {"G": g, "H": h}, lambda x: x @ weight.T, in_features, out, rank)


def test_a_good_start_stands_where_the_search_ends_further_off(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = toeplitz_matrix(8, 8)
    layer = Layer(8, 8, bias=False).double()
    layer._start_at(weight, metric_of(8))
    start = layer.G.detach().clone()

    def spoil(layer: nn.Module, *_: object, order: int) -> None:
        assert order == 2
        layer.G.data.mul_(1.1)

    monkeypatch.setattr(solve, "fit_linear", spoil)
    solve.refine_linear(layer, weight, metric_of(8), order=2)
    torch.testing.assert_close(layer.G.detach(), start)
