"""Pruned layers: the values are the best for their places, the places beat the largest, training drops more."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import onnxruntime
import pytest
import torch
from conftest import Tiny
from torch import Tensor, nn

import compressor
from compressor.errors import CompressorError
from compressor.layers import Metric, Pruned, method, subset
from compressor.layers.base import build
from compressor.layers.semidefinite import unit_covariance
from compressor_converters.onnx_file import save_onnx


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def correlated(width: int) -> Metric:
    """Inputs that say much the same, some ten times as large as others."""
    x = (drawn(4 * width, width) @ drawn(width, width, seed=1)) * torch.logspace(0, -1, width, dtype=torch.float64)
    return Metric(x.T @ x / len(x), torch.zeros(width, dtype=torch.float64))


def lost(weight: Tensor, kept: Tensor, metric: Metric) -> float:
    missed = (weight - kept).double()
    return float(((missed @ metric.covariance) * missed).sum())


@pytest.mark.parametrize("block", [1, 4])
@pytest.mark.parametrize("exact_work", [subset._EXACT_WORK, 0.0], ids=["exact", "conjugate gradients"])
def test_values_are_the_least_squares_solution_on_their_places(exact_work, block, monkeypatch) -> None:
    monkeypatch.setattr(subset, "_EXACT_WORK", exact_work)
    monkeypatch.setattr(subset, "_CHUNK", 300)  # several chunks of rows
    weight, x = drawn(9, 14), drawn(60, 14, seed=3)
    metric = Metric(x.T @ x / 60, torch.zeros(14).double())
    layer = Pruned.from_dense(weight, None, method("pruned").config({"density": 0.3, "block": block}), metric)
    found = layer.positions.scatter(layer.values.detach())
    assert all((rows != 0).unique(dim=0).shape[0] == 1 for rows in found.split(block))
    assert sorted(found.count_nonzero(1).tolist()) != [found.count_nonzero() / 9] * 9  # rows differ in length
    for row, aim in zip(found, weight, strict=True):
        places = row.nonzero().flatten()
        best = torch.linalg.lstsq(x[:, places], (x @ aim)[:, None]).solution[:, 0]
        torch.testing.assert_close(row[places].float(), best.float())


@pytest.mark.parametrize("block", [1, 4])
@pytest.mark.parametrize("width", [7, 40])
@pytest.mark.parametrize("density", [0.1, 0.3, 0.6])
def test_it_beats_the_largest_weights_even_with_their_values_solved_again(width, density, block) -> None:
    weight, metric = drawn(17, width), correlated(width)
    rows = -(-17 // block)
    count = round(density * rows * width)
    mask, found = subset.best_subset(weight, metric, count, block)
    norms = torch.stack([row.norm(dim=0) for row in weight.split(block)])
    largest = (norms >= norms.flatten().sort(descending=True).values[count - 1]).repeat_interleave(block, 0)[:17]
    assert (mask.shape, int(mask.sum())) == ((rows, width), count)
    assert not found[~mask.repeat_interleave(block, 0)[:17]].any()
    assert lost(weight, found, metric) <= lost(weight, subset.refit(weight, unit_covariance(metric), largest), metric)
    assert lost(weight, found, metric) < lost(weight, weight * largest, metric)


@pytest.mark.parametrize("block", [1, 3])
def test_it_comes_near_the_best_of_all_choices_of_places(block: int) -> None:
    metric, sigma = correlated(10), unit_covariance(correlated(10))
    choices = list(combinations(range(10), 4))
    masks = torch.zeros(len(choices), 10, dtype=torch.bool)
    masks[torch.arange(len(choices))[:, None], torch.tensor(choices)] = True
    for seed in range(5):
        weight = drawn(block, 10, seed=seed)
        every = subset.refit(weight.repeat(len(choices), 1), sigma, masks.repeat_interleave(block, 0))
        best = min(lost(weight, rows, metric) for rows in every.split(block))
        found = subset.best_subset(weight, metric, 4, block)[1]
        assert best <= lost(weight, found, metric) * (1 + 1e-6)
        assert lost(weight, found, metric) < best + 0.1 * lost(weight, torch.zeros_like(weight), metric)


def test_a_matrix_with_zeros_is_kept_to_the_bit() -> None:
    weight = drawn(13, 300).float() * (drawn(13, 300, seed=1) > 1)
    weight[4] = 0
    weight[-1] = 0
    layer = Pruned.from_sparse(weight, torch.arange(13.0))
    assert torch.equal(layer.positions.scatter(layer.values), weight)
    assert layer.macs() == int(weight.count_nonzero())
    assert layer.positions.columns.dtype == torch.uint16
    assert layer.positions.lengths.dtype == torch.uint16
    again = build("pruned", 300, 13, bias=True, config=layer.config.model_dump())
    again.load_state_dict(layer.state_dict())
    x = drawn(3, 300).float()
    assert torch.equal(again(x), layer(x))
    nothing = Pruned.from_sparse(torch.zeros(3, 5), None)
    assert torch.equal(nothing(torch.ones(2, 5)), torch.zeros(2, 3))


def test_what_is_stored_is_two_numbers_a_weight_and_two_a_row() -> None:
    layer = build("pruned", 800, 500, bias=True, config={"density": 0.05})
    assert (layer.params(), layer.trained_params(), layer.macs()) == (41_000, 20_500, 20_000)
    assert sum(t.numel() * t.element_size() for t in layer.state_dict().values()) == 20_000 * 6 + 500 * 6


def test_vectors_are_stored_with_one_column_each() -> None:
    layer = build("pruned", 800, 500, bias=True, config={"density": 0.05, "block": 16})
    vectors = 1280  # a twentieth of 32 · 800; the last block row holds four outputs
    assert (layer.params(), layer.trained_params()) == (17 * vectors + 32 + 500, 16 * vectors + 500)
    assert layer.macs() == 16 * vectors
    stored = sum(t.numel() * t.element_size() for t in layer.state_dict().values())
    assert stored == vectors * (16 * 4 + 2) + 32 * 2 + 500 * 4


@pytest.mark.parametrize(("out", "block"), [(12, 4), (13, 4), (3, 2), (3, 16), (1, 16), (500, 16)])
def test_a_count_is_of_weights_whatever_the_block(out: int, block: int) -> None:
    layers = {
        count: build("pruned", 6, out, bias=False, config={"count": count, "block": block}) for count in (0, 1, 6 * out)
    }
    few = min(block, out)
    assert [len(layer.values) for layer in layers.values()] == [0, few, 6 * few * -(-out // few)]
    weight = layers[6 * out].positions.scatter(torch.ones(len(layers[6 * out].values)))
    assert torch.equal(weight, torch.ones(out, 6))
    assert torch.equal(layers[0](torch.ones(2, 6)), torch.zeros(2, out))


def test_vectors_are_chosen_by_their_norm_and_those_of_the_last_outputs_are_short() -> None:
    weight = torch.tensor([[3.0, 0.0, 2.0], [0.0, 4.0, 2.0], [0.0, 1.0, 9.0]])
    config = method("pruned").config({"count": 5, "block": 2, "criterion": "magnitude"})  # 5 · 2 / 3 vectors
    layer = Pruned.from_dense(weight, torch.arange(3.0), config, Metric.identity(3))
    kept = torch.tensor([[3.0, 0.0, 0.0], [0.0, 4.0, 0.0], [0.0, 0.0, 9.0]])
    assert torch.equal(layer.positions.scatter(layer.values), kept)
    assert layer.positions.columns.tolist() == [0, 1, 2]
    assert layer.positions.lengths.tolist() == [2, 1]
    assert layer.values.tolist() == [3.0, 0.0, 0.0, 4.0, 9.0, 0.0]


def test_vectors_are_dropped_whole_while_the_network_trains() -> None:
    weight, metric = drawn(22, 30), correlated(30)
    config = method("pruned").config({"density": 0.1, "iterative": True, "block": 4})
    layer = Pruned.from_dense(weight, drawn(22), config, metric)
    spread = metric.covariance.diagonal().sqrt()[layer.positions.columns.long()]
    scores = layer.values.detach().unflatten(0, (-1, 4)).norm(dim=1) * spread
    layer.anneal(0.3)
    assert 18 < int(layer.living().reshape(-1, 4).any(1).sum()) < len(layer.values) // 4
    layer.anneal(1.0)
    lean, x = layer.finished(), drawn(5, 30)
    assert len(lean.values) == 4 * 18  # a tenth of 6 · 30 vectors
    last = scores.sort(descending=True).values[17]
    assert torch.equal(lean.values, layer.values[(scores >= last).repeat_interleave(4)])
    torch.testing.assert_close(lean(x), layer(x))


def test_iterative_pruning_ends_at_its_density_and_the_lean_layer_is_the_same_map() -> None:
    weight, metric = drawn(20, 30), correlated(30)
    config = method("pruned").config({"density": 0.1, "iterative": True})
    layer = Pruned.from_dense(weight, drawn(20), config, metric)
    counts = []
    for step in range(11):
        layer.anneal(step / 10)
        counts.append(int(layer.dense()[0].abs().gt(1e-12).sum()))
        assert layer.is_settled == (step >= 5)
        with torch.no_grad():  # what has gone stays away, whatever an optimiser does to it
            layer.values += 0.01
    assert counts[0] == len(layer.values) == 190  # √(60 · 600) rounded up
    assert counts == sorted(counts, reverse=True)
    assert len(set(counts)) > 4
    assert counts[5:] == [60] * 6
    lean = layer.finished()
    assert (len(lean.values), lean.params()) == (60, 2 * 60 + 2 * 20)
    assert lean.is_settled
    x = drawn(5, 30)
    torch.testing.assert_close(lean(x), layer(x))
    assert "alive" not in lean.state_dict()


def test_the_smallest_where_it_counts_go_first_and_an_untrained_layer_ends_at_its_density_too() -> None:
    weight = torch.tensor([[3.0, 1.0, 0.0, 0.0], [0.0, 2.0, 0.5, 0.0]])
    metric = Metric(torch.diag(torch.tensor([0.01, 1.0, 100.0, 1.0])), torch.zeros(4))
    config = method("pruned").config({"count": 2, "iterative": True, "start": 4})
    layer = Pruned.from_dense(weight, None, config, metric)
    kept = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, 2.0, 0.5, 0.0]])  # 3 · 0.1 and 1 · 1 against 2 · 1 and 0.5 · 10
    torch.testing.assert_close(layer.finished().dense()[0], kept)
    torch.testing.assert_close(layer.dense()[0], weight)  # the layer itself goes on


def test_the_regulariser_is_the_sum_of_what_is_left() -> None:
    layer = build("pruned", 6, 4, bias=True, config={"count": 3, "regulariser": 0.5})
    with torch.no_grad():
        layer.values.copy_(torch.tensor([1.0, -2.0, 3.0]))
    assert layer.penalty().item() == 3.0
    assert build("pruned", 6, 4, bias=True, config={}).penalty() is None


def test_settings_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(CompressorError, match="start is for iterative"):
        method("pruned").config({"start": 4})
    with pytest.raises(CompressorError, match="block"):
        method("pruned").config({"block": 0})
    with pytest.raises(CompressorError, match="count=13 is more than the 12 weights"):
        build("pruned", 4, 3, bias=True, config={"count": 13})


def with_gaps(weight: Tensor, block: int) -> Pruned:
    weight[1:3] = 0  # rows without an entry
    if block == 1:
        return Pruned.from_sparse(weight, torch.arange(float(len(weight))))
    config = method("pruned").config({"density": 0.05, "block": block, "criterion": "magnitude"})
    return Pruned.from_dense(weight, torch.arange(float(len(weight))), config, Metric.identity(weight.shape[1]))


@pytest.mark.parametrize("block", [1, 2, 7, 16])
@pytest.mark.parametrize("weight", [drawn(300, 700).float() * (drawn(300, 700, seed=1) > 1.5), torch.zeros(3, 5)])
def test_the_onnx_file_holds_the_rows_compressed_and_runs_on_sequences(
    weight: Tensor, block: int, tmp_path: Path
) -> None:
    model = nn.Sequential(with_gaps(weight, block)).eval()
    x, path = drawn(4, 3, weight.shape[1]).float(), tmp_path / "model.onnx"
    assert save_onnx(model, (x[:2],), path, input_names=["x"]) is None
    stored = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    assert path.stat().st_size < stored + 5_000
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(session.run(None, {"x": x.numpy()})[0]), model(x))


def test_a_run_that_prunes_vectors_is_written_and_read_back(tiny: Tiny) -> None:
    job = ("weights.pth", "--arch", "nets.py:mlp", "--data", "train.npz", "--method", "pruned", "--epochs", "1")
    tiny.call(*job, "--set", "block=16", "--set", "density=0.3", "-o", "vectors", "-q")
    loaded = compressor.load(tiny.folder / "vectors", arch=f"{tiny.folder / 'nets.py'}:mlp")
    layers = [layer for layer in loaded.modules() if isinstance(layer, Pruned)]
    assert [layer.positions.count for layer in layers] == [round(0.3 * 24 * 3), round(0.3 * 37 * 3)]
    assert all(len(layer.values) == 16 * layer.positions.count for layer in layers)


def test_a_run_with_iterative_pruning_ends_lean_and_is_written_so(tiny: Tiny) -> None:
    job = ("weights.pth", "--arch", "nets.py:mlp", "--data", "train.npz", "--method", "pruned", "--epochs", "4")
    settings = ("--set", "density=0.4", "--set", "iterative=true", "--set", "regulariser=1e-5")
    tiny.call(*job, *settings, "-o", "pruned", "-q")
    loaded = compressor.load(tiny.folder / "pruned", arch=f"{tiny.folder / 'nets.py'}:mlp")
    layers = [layer for layer in loaded.modules() if isinstance(layer, Pruned)]
    assert [len(layer.values) for layer in layers] == [round(0.4 * 24 * 37), round(0.4 * 37 * 33)]
    assert not any(layer.config.iterative for layer in layers)
