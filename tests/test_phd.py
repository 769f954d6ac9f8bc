"""What is particular to sparse Hadamard projections: their formula, optimum, kernels, counts and ONNX body."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from test_onnx_bodies import check, hadamard_matrix
from torch import Tensor

from compressor.errors import CompressorError
from compressor.layers import Metric, StructuredLayer, method, phd, seeded
from compressor.layers.onnx_phd import phd_functions

Layer = method("phd").layer


def data(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def metric_of(width: int, rank: int | None = None) -> Metric:
    x = data(3 * width, width)[: rank or 3 * width] * torch.linspace(2, 0.1, width, dtype=torch.float64)
    return Metric(x.T @ x / len(x), torch.zeros(width, dtype=torch.float64))


def mixing(layer: StructuredLayer) -> Tensor:
    """``H D`` as a dense matrix, ``(d, in)``."""
    h = torch.from_numpy(hadamard_matrix(layer.d)) * layer.signs
    return h[:, : layer.in_features]


def sparse_rows(layer: StructuredLayer) -> Tensor:
    """P as a dense matrix, ``(n, d)``."""
    p = torch.zeros(layer.width, layer.d, dtype=torch.float64)
    for i, row in enumerate(layer.positions.tolist()):
        for place, value in zip(row, layer.P[i].tolist(), strict=True):
            p[i, place] += value
    return p


@pytest.mark.parametrize(("features", "width"), [("linear", None), ("relu", 21), ("rbf", 21)])
def test_phd_is_its_formula(features: str, width: int | None) -> None:
    layer = Layer(9, 5, features=features, width=width, nonzeros=4, sigma=2.0, seed=6).double()
    layer.bias.data.copy_(data(5))
    x = data(7, 9)
    y = x @ mixing(layer).T @ sparse_rows(layer).T / (2.0 * 2)
    if features == "relu":
        y = y.clamp_min(0)
    if features == "rbf":
        y = torch.cat((y.cos(), y.sin()), 1) / math.sqrt(21)
    y = y if features == "linear" else y @ layer.readout.T
    torch.testing.assert_close(layer(x), y + layer.bias)


@pytest.mark.parametrize("most", [1e9, 0], ids=["direct", "products"])
@pytest.mark.parametrize(("size", "count", "rank"), [((8, 5), 3, None), ((9, 6), 5, None), ((12, 3), 7, 4)])
def test_fit_is_the_least_squares_solution_of_every_row(
    size: tuple[int, int], count: int, rank: int | None, most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(phd, "_DIRECT_MACS", most)
    monkeypatch.setattr(phd, "_SOLVED_AT_ONCE", 2 * count**2)  # in several goes
    weight, metric = data(size[1], size[0]), metric_of(size[0], rank)
    layer = Layer.from_dense(weight, None, method("phd").config({"nonzeros": count, "sigma": 3.0}), metric)
    missed = 0.0
    for i, places in enumerate(layer.positions.long()):
        rows = (mixing(layer)[places] @ metric.root()).T  # (in, count)
        aim = weight[i] @ metric.root()
        best = torch.linalg.lstsq(rows, aim[:, None], driver="gelsd").solution[:, 0]
        missed += float((rows @ best - aim).square().sum())
    optimum = math.sqrt(missed) / float((weight @ metric.root()).norm())
    found = metric.relative_error(weight, layer.dense()[0].detach())
    if most:
        assert found == pytest.approx(optimum, rel=1e-6, abs=1e-6)
    else:  # single precision
        assert found == pytest.approx(optimum, rel=1e-3, abs=1e-3)


def test_with_every_entry_all_maps_are_held() -> None:
    weight = data(3, 9)
    settings = {"nonzeros": 99}
    layer = Layer.from_dense(weight, None, method("phd").config(settings), metric_of(9))
    assert layer.P.shape == (3, 16)
    assert metric_of(9).relative_error(weight, layer.dense()[0].detach()) < 1e-6
    assert Layer.config_for_params(9, 3, True, 10**6, method("phd").config()).nonzeros == 16


def test_random_features_approximate_the_rbf_kernel() -> None:
    settings = {"features": "rbf", "adaptive": False, "width": 8192, "sigma": 3.0, "seed": 1}
    layer = Layer(20, 1, **settings).double()
    x = data(12, 20)
    kernel = torch.exp(-torch.cdist(x, x).square() / (2 * 3.0**2))
    features = layer.features(x)
    assert (features @ features.T - kernel).abs().max() < 6 / math.sqrt(8192)


def test_random_phd_stores_the_read_out_and_a_seed_alone() -> None:
    layer = method("phd-random").layer(10, 3, config=method("phd-random").config())
    assert set(layer.state_dict()) == {name for name, _ in layer.named_parameters()} == {"readout", "bias"}
    assert layer.params() == 3 * 16 + 3 + 1


def test_phd_counts_its_entries_and_half_the_additions_of_the_transform() -> None:
    with torch.device("meta"):
        layer = Layer(800, 500, nonzeros=32)
        features = Layer(800, 10, nonzeros=32, features="rbf", width=100)
    assert layer.params() == 500 * 32 + 500 + 1
    assert layer.macs() == 1024 * 10 // 2 + 800 + 500 * 32
    assert features.params() == 100 * 32 + 200 * 10 + 10 + 1
    assert features.macs() == 1024 * 10 // 2 + 800 + 100 * 32 + 200 * 10


def test_positions_are_one_from_each_stretch_and_never_change() -> None:
    assert seeded.positions(7, 1, 2, 3, 10).tolist() == [[0, 3, 6], [1, 3, 7]]
    many = seeded.positions(0, 2, 500, 7, 40).int()
    edges = [math.floor(m * 40 / 7) for m in range(8)]
    for m in range(7):
        assert set(many[:, m].tolist()) == set(range(edges[m], edges[m + 1]))
    assert seeded.positions(0, 2, 1, 3, 2**16 + 1).dtype == torch.int32


@pytest.mark.parametrize(
    ("settings", "why"),
    [({"width": 64}, "linear grows by nonzeros"), ({"adaptive": False}, "nothing to learn"), ({"nonzeros": 0}, "1")],
)
def test_settings_that_make_no_sense_are_refused(settings: dict, why: str) -> None:
    with pytest.raises(CompressorError, match=why):
        method("phd").config(settings)


CASES = [  # in, d, n, count, rank
    (1, 1, 3, 1, 2),
    (7, 8, 20, 5, 3),
    (33, 64, 30, 2, 2),
    (800, 1024, 500, 16, 3),
    (2000, 2048, 10, 100, 2),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_phd_body_is_the_formula_on_stock_runtimes(case: tuple[int, int, int, int, int]) -> None:
    in_features, d, n, count, rank = case
    rng = np.random.default_rng(0)
    signs = rng.choice([-1, 1], d).astype(np.int8)
    values = rng.standard_normal((n, count)).astype(np.float32)
    positions = np.stack([np.sort(rng.permutation(d)[:count]) for _ in range(n)]).astype(np.uint16)
    p = np.zeros((n, d))
    np.put_along_axis(p, positions.astype(int), values, 1)
    weight = (p @ hadamard_matrix(d) * signs)[:, :in_features]
    [function] = phd_functions(in_features, n, d=d, count=count)
    inputs = {"D": signs, "positions": positions, "P": values}
    check(function, inputs, lambda x: x @ weight.T, in_features, n, rank)
