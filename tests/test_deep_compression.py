"""Deep compression: few values, shared by k-means, the best codebook in the metric, and a packed form that is exact."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Tiny
from torch import Tensor, nn

import compressor
from compressor.layers import DeepCompression, Metric, method
from compressor.layers.deep_compression import _clustered, _gaps, _places
from compressor_converters.onnx_file import save_onnx


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def correlated(width: int) -> Metric:
    x = drawn(4 * width, width) @ drawn(width, width, seed=1)
    return Metric(x.T @ x / len(x), torch.zeros(width, dtype=torch.float64))


def test_the_codebook_is_the_least_squares_solution_for_its_codes() -> None:
    weight, x = drawn(9, 14), drawn(60, 14, seed=3)
    metric = Metric(x.T @ x / 60, torch.zeros(14).double())
    layer = DeepCompression.from_dense(
        weight, None, method("deep_compression").config({"density": 0.4, "bits": 2}), metric
    )
    matrices = [layer.positions.scatter((layer.codes == code).double()) for code in range(4)]
    outputs = torch.stack([(x @ m.T).flatten() for m in matrices], 1)
    best = torch.linalg.lstsq(outputs, (x @ weight.T).flatten()[:, None]).solution[:, 0]
    torch.testing.assert_close(layer.codebook.detach().float(), best.float())


def test_by_magnitude_it_is_the_papers_the_largest_weights_at_the_means_of_their_clusters() -> None:
    weight = drawn(20, 30)
    settings = {"count": 60, "bits": 2, "criterion": "magnitude"}
    layer = DeepCompression.from_dense(weight, None, method("deep_compression").config(settings), correlated(30))
    kept = layer.positions.gather(weight)
    torch.testing.assert_close(kept.abs().sort().values, weight.abs().flatten().sort().values[-60:])
    book = layer.codebook.detach()
    for code in range(4):
        torch.testing.assert_close(book[code], kept[layer.codes == code].mean())
    assert torch.equal(layer.codes.long(), (kept[:, None] - book).abs().argmin(1))


def test_clusters_are_those_of_the_costly_values() -> None:
    values = torch.tensor([0.0, 0.1, 0.2, 5.0, 5.1, 9.0]).double()
    cheap = torch.tensor([1.0, 1, 1, 1, 1, 1e-9]).double()
    assert _clustered(values, torch.ones(6).double(), 3).tolist() == [0, 0, 0, 1, 1, 2]
    two = _clustered(values, cheap, 2)
    assert two.tolist() == [0, 0, 0, 1, 1, 1]
    assert _clustered(torch.zeros(5).double(), torch.ones(5).double(), 4).unique().numel() == 1


def test_a_codes_gradient_is_the_sum_over_the_weights_that_share_it() -> None:
    layer = DeepCompression(7, 5, density=0.6, bits=2).double()
    x, g = drawn(3, 7), drawn(3, 5, seed=1)
    (layer(x) * g).sum().backward()
    by_weight = layer.positions.gather(g.T @ x)
    expected = torch.stack([by_weight[layer.codes == code].sum() for code in range(4)])
    assert layer.codebook.grad is not None
    torch.testing.assert_close(layer.codebook.grad, expected)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("density", "bits"), [(0.3, 5), (0.0005, 1), (0.00003, 3), (1.0, 8)])
def test_packed_and_unpacked_it_is_the_same_layer(density, bits, bias) -> None:
    layer = DeepCompression(300, 200, bias=bias, density=density, bits=bits)
    if layer.bias is not None:
        nn.init.normal_(layer.bias)
    data = layer.packed()
    again = DeepCompression.unpack(data, 300, 200, bias=bias, config=layer.config)
    assert layer.packed_bytes() == len(data)
    assert again.state_dict().keys() == layer.state_dict().keys()
    for name, tensor in layer.state_dict().items():
        assert torch.equal(again.state_dict()[name].double(), tensor.double()), name


def test_packed_it_takes_little_more_than_its_entropy() -> None:
    weight = drawn(500, 800).float()
    settings = {"density": 0.05, "bits": 5, "criterion": "magnitude"}
    layer = DeepCompression.from_dense(weight, None, method("deep_compression").config(settings), Metric.identity(800))
    gap_bits = -(np.log2(0.05) + 0.95 / 0.05 * np.log2(0.95))  # entropy of a geometric gap
    assert layer.packed_bytes() < 20_000 * (5 + gap_bits + 0.1) / 8 + 32 * 5 + 256 + 20
    assert sum(t.numel() * t.element_size() for t in layer.state_dict().values()) == 20_000 * 3 + 500 * 2 + 32 * 4


@pytest.mark.parametrize("places", [[0], [254], [255], [256], [0, 1, 255, 511, 512, 100_000]])
def test_gaps_of_any_length_are_coded_in_bytes(places) -> None:
    gaps = _gaps(np.array(places))
    assert gaps.max() <= 255
    assert _places(gaps).tolist() == places


def test_packed_bytes_of_another_layer_are_refused() -> None:
    layer = DeepCompression(30, 20, density=0.3)
    for data, sides in ((layer.packed()[:-4], (30, 20)), (layer.packed(), (20, 20)), (layer.packed(), (3, 20))):
        with pytest.raises(ValueError, match="bytes hold no layer of"):
            DeepCompression.unpack(data, *sides, bias=True, config=layer.config)


def test_what_is_stored_is_counted_and_the_onnx_file_holds_no_more(tmp_path: Path) -> None:
    layer = DeepCompression(800, 500, density=0.05, bits=5)
    assert (layer.params(), layer.trained_params(), layer.macs()) == (41_032, 532, 20_000)
    path = tmp_path / "model.onnx"
    assert save_onnx(nn.Sequential(layer).eval(), (torch.ones(2, 800),), path) is None
    assert path.stat().st_size < 20_000 * 3 + 500 * 6 + 32 * 4 + 5_000


def test_a_run_says_how_many_bytes_its_layers_take_entropy_coded(tiny: Tiny) -> None:
    job = (
        "weights.pth",
        "--arch",
        "nets.py:mlp",
        "--data",
        "train.npz",
        "--method",
        "deep_compression",
        "--epochs",
        "1",
    )
    report = json.loads(tiny.call(*job, "-o", "deep", "-q", "--json").stdout)
    loaded = compressor.load(tiny.folder / "deep", arch=f"{tiny.folder / 'nets.py'}:mlp")
    sizes = [len(layer.packed()) for layer in loaded.modules() if isinstance(layer, DeepCompression)]
    assert len(sizes) == 2
    assert f"entropy-coded, the 2 deep_compression layers take {sum(sizes):,} bytes" in report["notes"]
