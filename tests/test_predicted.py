"""What is particular to predicted parameters: the dictionaries, what they store, the choice of positions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from compressor.errors import CompressorError
from compressor.layers import Metric, Predicted
from compressor_converters.onnx_file import save_onnx


def metric_of(width: int, seed: int = 1) -> Metric:
    x = torch.randn(3 * width, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = x * torch.linspace(1, 0.1, width, dtype=torch.float64)
    return Metric(x.T @ x / len(x), torch.zeros(width, dtype=torch.float64))


def weights(out_features: int, in_features: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(out_features, in_features, generator=generator, dtype=torch.float64)


def fitted(weight: Tensor, metric: Metric, **settings: Any) -> Predicted:
    return Predicted.from_dense(weight, None, Predicted.Config(**settings), metric)


def dense(layer: Predicted) -> Tensor:
    with torch.no_grad():
        return layer.dense()[0]


def test_se_predicts_all_weights_by_kernel_ridge_regression_from_those_at_its_positions() -> None:
    layer = Predicted(24, 5, dictionary="se", grid="3x4", width=1.5, damping=0.2, atoms=6, bias=False)
    assert layer.positions is not None
    alpha = layer.positions[0].long().tolist()

    def k(i: int, j: int) -> float:  # two maps of 3 rows and 4 columns
        if i // 12 != j // 12:
            return 0.0
        down, across = i % 12 // 4 - j % 12 // 4, i % 4 - j % 4
        return float(torch.tensor(-(down**2 + across**2) / (2 * 1.5**2), dtype=torch.float64).exp())

    k_alpha = torch.tensor([[k(a, i) for i in range(24)] for a in alpha], dtype=torch.float64)
    own = torch.tensor([[k(a, b) for b in alpha] for a in alpha], dtype=torch.float64)
    u = k_alpha.T @ torch.linalg.inv(own + 0.2 * torch.eye(6, dtype=torch.float64))
    torch.testing.assert_close(dense(layer), (u @ layer.V.detach().double()).T.float())


def test_the_covariance_dictionary_is_ridge_regression_on_the_inputs_that_are_seen() -> None:
    metric = metric_of(9)
    layer = fitted(weights(4, 9), metric, dictionary="covariance", atoms=3, damping=0.5)
    assert layer.dictionary is not None
    u, sigma = layer.dictionary[0], metric.covariance
    level = 0.5 * sigma.diagonal().mean() * torch.eye(3, dtype=torch.float64)
    alpha = [  # the columns whose ridge regression this is
        chosen
        for chosen in torch.cartesian_prod(*[torch.arange(9)] * 3).tolist()
        if torch.allclose(u, sigma[:, chosen] @ torch.linalg.inv(sigma[chosen][:, chosen] + level))
    ]
    assert len(alpha) == 1


@pytest.mark.parametrize(
    ("settings", "params"),
    [
        ({"dictionary": "se", "columns": 3}, 20 * 90 + 90 + 3 * 20),
        ({"dictionary": "se", "columns": 3, "positions": "random"}, 20 * 90 + 90 + 1),
        ({"dictionary": "identity", "columns": 3}, 20 * 90 + 90 + 3 * 20),
        ({"dictionary": "gaussian", "columns": 3}, 20 * 90 + 90 + 1),
        ({"dictionary": "covariance", "columns": 3}, 20 * 90 + 90 + 3 * 20 * 120),
    ],
)
def test_stored_are_the_learned_weights_and_no_more_of_the_dictionary_than_must_be(
    settings: dict[str, Any], params: int
) -> None:
    layer = Predicted(120, 90, atoms=20, **settings)
    assert layer.params() == params
    assert layer.trained_params() == 20 * 90 + 90


@pytest.mark.parametrize("atoms", [5, 80])
@pytest.mark.parametrize("dictionary", ["se", "gaussian", "identity", "covariance"])
def test_macs_are_those_of_pooling_or_of_the_dense_map_whichever_are_fewer(dictionary: str, atoms: int) -> None:
    layer = Predicted(120, 90, dictionary=dictionary, atoms=atoms, columns=2, bias=False)
    pooled = atoms * (90 + (0 if dictionary == "identity" else 2 * 120))
    assert layer.macs() == min(pooled, 120 * 90)
    with FlopCounterMode(display=False) as one, torch.no_grad():
        layer(torch.ones(1, 120))
    with FlopCounterMode(display=False) as two, torch.no_grad():
        layer(torch.ones(2, 120))
    assert layer.macs() == (two.get_total_flops() - one.get_total_flops()) // 2  # without what is once for all rows


@pytest.mark.parametrize(
    "settings",
    [
        {"dictionary": "se", "grid": "4x5", "width": 1.3},
        {"dictionary": "se", "grid": "4x5", "folded": True},
        {"dictionary": "gaussian"},
        {"dictionary": "covariance2"},
    ],
)
def test_the_learned_weights_are_least_squares_in_the_metric(settings: dict[str, Any]) -> None:
    weight, metric = weights(7, 20), metric_of(20)
    layer = fitted(weight, metric, atoms=6, columns=2, **settings)
    root, best = metric.root(), torch.empty(7, 20, dtype=torch.float64)
    assert layer.dictionary is not None
    for u, rows in zip(layer.dictionary.double(), (slice(0, 4), slice(4, 7)), strict=True):
        best[rows] = (u @ torch.linalg.lstsq(root @ u, root @ weight[rows].T).solution).T
    torch.testing.assert_close(dense(layer) @ root, best @ root, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("settings", [{"dictionary": "identity"}, {"dictionary": "se", "grid": "5x6", "width": 0.8}])
def test_positions_that_a_map_was_made_from_are_found(settings: dict[str, Any]) -> None:
    torch.manual_seed(0)
    made = Predicted(30, 40, atoms=4, bias=False, seed=3, **settings).double()
    found = fitted(dense(made), metric_of(30), atoms=4, **settings)
    assert made.positions is not None
    assert found.positions is not None
    assert sorted(found.positions[0].tolist()) == sorted(made.positions[0].tolist())


@pytest.mark.parametrize("dictionary", ["se", "identity", "covariance"])
def test_fitted_positions_are_better_than_drawn_ones(dictionary: str) -> None:
    weight, metric = weights(12, 24), metric_of(24)
    errors = [
        metric.relative_error(
            weight, dense(fitted(weight, metric, dictionary=dictionary, atoms=6, positions=positions, seed=seed))
        )
        for positions, seed in [("fitted", 0), *(("random", seed) for seed in range(5))]
    ]
    assert errors[0] < min(errors[1:])


def test_each_group_of_outputs_has_positions_of_its_own() -> None:
    weight, metric = weights(9, 20), metric_of(20)
    whole = dense(fitted(weight, metric, dictionary="identity", atoms=4, columns=3))
    parts = [dense(fitted(part, metric, dictionary="identity", atoms=4)) for part in weight.split(3)]
    torch.testing.assert_close(whole, torch.cat(parts))


def test_a_loaded_layer_predicts_from_the_loaded_positions() -> None:
    one, other = (Predicted(20, 6, dictionary="se", grid="4x5", atoms=5, seed=seed) for seed in (1, 2))
    other.load_state_dict(one.state_dict())
    assert torch.equal(dense(other), dense(one))


@pytest.mark.parametrize("columns", [1, 3])
def test_a_finished_layer_is_the_same_map_and_needs_no_inverse(columns: int) -> None:
    layer = fitted(weights(7, 20), metric_of(20), dictionary="se", grid="4x5", atoms=5, columns=columns)
    lean = layer.finished()
    assert isinstance(lean, Predicted)
    assert lean.finished() is lean
    assert lean.inverse is None
    torch.testing.assert_close(dense(lean), dense(layer))
    assert lean.params() == layer.params()


@pytest.mark.parametrize("settings", [{"dictionary": "se", "grid": "20x30"}, {"dictionary": "gaussian"}])
def test_the_onnx_file_holds_no_dictionary(settings: dict[str, Any], tmp_path: Path) -> None:
    layer = Predicted(600, 40, atoms=60, **settings).eval().finished()
    save_onnx(nn.Sequential(layer), (torch.ones(2, 600),), tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").stat().st_size < 4 * 600 * 60 / 4


def test_more_positions_than_inputs_are_refused() -> None:
    with pytest.raises(CompressorError, match=r"atoms=21 is more than the 20 inputs"):
        Predicted(20, 6, dictionary="se", atoms=21)
