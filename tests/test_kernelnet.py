"""What is particular to KernelNet: the formulas of its kernels, places on grids, noise, a closed form."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from compressor.errors import CompressorError
from compressor.layers import KernelNet, Metric
from compressor_converters.onnx_file import save_onnx

FORMULAS = {
    "dot": lambda u, v: sum(a * b for a, b in zip(u, v, strict=True)),
    "polynomial": lambda u, v: (1 + sum(a * b for a, b in zip(u, v, strict=True))) ** 2,
    "gaussian": lambda u, v: math.exp(-sum((a - b) ** 2 for a, b in zip(u, v, strict=True))),
    "finite": lambda u, v: max(0.0, 1 - 0.7 * sum((a - b) ** 2 for a, b in zip(u, v, strict=True))),
    "tanh": lambda u, v: math.tanh(sum(a * b for a, b in zip(u, v, strict=True))),
}


def metric_of(width: int) -> Metric:
    x = torch.randn(3 * width, width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = x * torch.linspace(1, 0.1, width, dtype=torch.float64)
    return Metric(x.T @ x / len(x), torch.zeros(width, dtype=torch.float64))


def dense(layer: KernelNet) -> Tensor:
    with torch.no_grad():
        return layer.dense()[0]


@pytest.mark.parametrize("kernel", FORMULAS)
def test_the_weights_are_the_kernels_formula_times_the_inputs_factor(kernel: str) -> None:
    layer = KernelNet(4, 3, kernel=kernel, d=2, a=0.7, bias=False).double()
    assert layer.u is not None
    assert layer.v is not None
    assert layer.scales is not None
    u, v, scales = layer.u.tolist(), layer.v.tolist(), layer.scales[0].tolist()
    expected = [[scales[i] * FORMULAS[kernel](u[i], v[j]) for i in range(4)] for j in range(3)]
    torch.testing.assert_close(dense(layer), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize(
    ("settings", "params"),
    [
        ({"d": 5}, 5 * (300 + 200) + 300 + 200),
        ({"d": 5, "scales": False}, 5 * (300 + 200) + 200),
        ({"d": 2, "kernel": "gaussian", "grid": "10x15", "out_grid": "10x10"}, 2 * (300 + 200) + 2 * 300 + 200),
        ({"d": 2, "kernel": "gaussian", "grid": "10x15", "learn": False}, 2 * 200 + 300 + 200),
        ({"d": 3, "kernel": "finite", "grid": "20x15", "learn": False}, 300 + 3 * 200 + 300 + 200),
    ],
)
def test_stored_are_places_that_are_not_fixed_and_a_factor_for_each_input_and_map_of_outputs(
    settings: dict[str, object], params: int
) -> None:
    layer = KernelNet(300, 200, **settings)
    assert layer.params() == layer.trained_params() == params
    assert layer.macs() == 300 * 200


def test_a_dot_product_runs_as_two_thin_layers() -> None:
    layer = KernelNet(300, 200, kernel="dot", d=5)
    with FlopCounterMode(display=False) as counter:
        layer(torch.ones(1, 300))
    assert layer.macs() == counter.get_total_flops() // 2 + 300  # and λ, elementwise


def test_pixels_of_several_maps_stand_on_one_grid_and_hidden_units_over_the_same_picture() -> None:
    layer = KernelNet(2 * 4 * 6, 2 * 3, kernel="gaussian", d=2, grid="4x6", out_grid="2x3", learn=False, spacing=0.5)
    u, v = layer.places()
    assert torch.equal(u[:24], u[24:])
    torch.testing.assert_close(u[1] - u[0], torch.tensor([0.0, 0.5]))
    torch.testing.assert_close(u[6] - u[0], torch.tensor([0.5, 0.0]))
    for output, pixels in ((0, [0, 1, 6, 7]), (2, [4, 5, 10, 11]), (5, [16, 17, 22, 23])):  # cells of 2 x 2 pixels
        torch.testing.assert_close(v[output], u[pixels].mean(0))


@pytest.mark.parametrize(("maps", "out_maps"), [(1, 4), (3, 1), (3, 4)])
def test_between_fixed_grids_rows_and_columns_are_taken_in_turn_and_are_the_same_map(maps: int, out_maps: int) -> None:
    sides = {"grid": "5x4", "out_grid": "2x3", "learn": False}
    layer = KernelNet(20 * maps, 6 * out_maps, kernel="gaussian", d=2, **sides).double()
    assert layer.bias is not None
    nn.init.normal_(layer.bias)
    x = torch.randn(2, 7, 20 * maps, dtype=torch.float64)
    torch.testing.assert_close(layer(x), nn.functional.linear(x, layer.weight(*layer.places()), layer.bias))
    assert layer(x[:, :0]).shape == (2, 0, 6 * out_maps)
    # λ for each input and map of outputs; 5x4 to 5x3 by columns, 5x3 to 2x3 by rows
    assert layer.macs() == out_maps * (20 * maps + 5 * 4 * 3 + 5 * 3 * 2)


def test_each_map_of_hidden_units_has_factors_of_its_own() -> None:
    layer = KernelNet(16, 8, kernel="gaussian", d=2, grid="4x4", out_grid="2x2", learn=False, bias=False)
    with torch.no_grad():
        layer.scales[1] *= -3
        layer.scales[1, 0] = 0
    first, second = dense(layer).split(4)
    assert not torch.equal(first[:, 0], second[:, 0])
    assert torch.equal(second[:, 0], torch.zeros(4))


@pytest.mark.parametrize("out_grid", ["auto", "3x3"])
def test_with_fixed_places_the_fit_is_least_squares_in_the_metric(out_grid: str) -> None:
    settings = {"kernel": "gaussian", "d": 2, "grid": "4x5", "out_grid": out_grid, "learn": False}
    weight = torch.randn(18, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    metric = metric_of(20)
    layer = KernelNet.from_dense(weight, None, KernelNet.Config.from_settings("kernelnet", settings), metric)
    assert layer.is_exact
    k, root = layer.kernel(*(places.double() for places in layer.places())), metric.root()
    maps = layer.scales.shape[0]
    assert maps == (2 if out_grid == "3x3" else 1)
    columns = []  # vec(∂W/∂λ_mi Σ^½) for each factor
    for m in range(maps):
        for i in range(20):
            basis = torch.zeros(18, 20, dtype=torch.float64)
            rows = slice(m * 18 // maps, (m + 1) * 18 // maps)
            basis[rows, i] = k[rows, i]
            columns.append((basis @ root).flatten())
    best = torch.linalg.lstsq(torch.stack(columns, 1), (weight @ root).flatten()).solution
    torch.testing.assert_close(layer.scales.detach().flatten(), best, rtol=1e-6, atol=1e-8)


def test_a_tanh_layer_is_fitted_no_worse_than_the_best_map_of_its_rank() -> None:
    weight, metric = torch.randn(30, 24, generator=torch.Generator().manual_seed(2), dtype=torch.float64), metric_of(24)
    errors = [
        metric.relative_error(
            weight,
            dense(
                KernelNet.from_dense(
                    weight,
                    None,
                    KernelNet.Config.from_settings("kernelnet", {"kernel": kernel, "d": 3}),
                    metric,
                )
            ),
        )
        for kernel in ("tanh", "dot")
    ]
    assert errors[0] < errors[1]


def test_outputs_start_where_their_weights_are() -> None:
    pixels = torch.cartesian_prod(torch.arange(9.0), torch.arange(9.0)).double()
    centres = torch.tensor([[1.0, 1.0], [1.0, 7.0], [7.0, 2.0], [6.0, 6.0]]).double()
    weight = 3 * (-0.25 * torch.cdist(centres, pixels).square()).exp()
    config = KernelNet.Config(kernel="gaussian", d=2, grid="9x9", learn=False)
    layer = KernelNet.from_dense(weight, None, config, Metric.identity(81))
    assert Metric.identity(81).relative_error(weight, dense(layer)) < 0.01


@pytest.mark.parametrize("kernel", FORMULAS)
def test_without_factors_a_zero_weight_is_still_fitted(kernel: str) -> None:
    config = KernelNet.Config.from_settings("kernelnet", {"kernel": kernel, "d": 3, "scales": False, "a": 0.2})
    layer = KernelNet.from_dense(torch.zeros(6, 5), None, config, Metric.identity(5))
    torch.testing.assert_close(dense(layer), torch.zeros(6, 5))


def test_noise_moves_the_places_of_the_inputs_while_training_only() -> None:
    layer = KernelNet(6, 4, kernel="gaussian", d=2, grid="2x3", learn=False, noise=0.2)
    x = torch.ones(1, 6)
    with torch.no_grad():
        quiet = layer.eval()(x)
        assert torch.equal(layer(x), quiet)
        noisy = layer.train()(x)
        assert not torch.equal(noisy, quiet)
        assert not torch.equal(layer(x), noisy)
    layer.fit_samples(torch.eye(6), torch.eye(6)[:, :4])
    assert layer.training


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"kernel": "tanh", "grid": "2x3"}, "kernel=gaussian"),
        ({"kernel": "gaussian", "grid": "2x3", "d": 1}, "d=1"),
        ({"kernel": "gaussian", "learn": False}, "give grid"),
        ({"kernel": "gaussian", "grid": "2x3", "out_grid": "2x2", "d": 2, "learn": False, "scales": False}, "nothing"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        KernelNet.Config(**settings)


def test_a_grid_that_the_inputs_do_not_fill_is_refused_with_both_counts() -> None:
    with pytest.raises(CompressorError, match=r"28x28 has 784 places, and 800 units"):
        KernelNet(800, 10, kernel="gaussian", grid="28x28", d=2)


@pytest.mark.parametrize("kernel", ["tanh", "gaussian"])
def test_the_onnx_file_holds_the_places_and_not_the_matrix(kernel: str, tmp_path: Path) -> None:
    model = nn.Sequential(KernelNet(400, 300, kernel=kernel, d=2)).eval()
    save_onnx(model, (torch.ones(2, 400),), tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").stat().st_size < 4 * 2 * model[0].params() < 4 * 400 * 300 / 10
