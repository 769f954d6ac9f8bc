"""Hashed weights: the hash spreads evenly, signs are fair, and the fit is the least-squares solution."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from compressor.layers import Hashed, Metric, method
from compressor_converters.onnx_file import save_onnx


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("signed", [True, False])
def test_values_are_the_least_squares_solution_over_all_weights(signed) -> None:
    weight, x = drawn(9, 14), drawn(60, 14, seed=3) * torch.logspace(0, -1, 14, dtype=torch.float64)
    metric = Metric(x.T @ x / 60, torch.zeros(14).double())
    config = method("hashed").config({"buckets": 20, "signed": signed, "seed": 3})
    layer = Hashed.from_dense(weight, None, config, metric)
    outputs = [  # what each value alone makes of the inputs
        nn.functional.linear(x, layer.expand(one, layer.hashed())).flatten() for one in torch.eye(20).double()
    ]
    best = torch.linalg.lstsq(torch.stack(outputs, 1), (x @ weight.T).flatten()[:, None]).solution[:, 0]
    torch.testing.assert_close(layer.values.detach().float(), best.float())


def test_without_data_each_value_is_the_mean_of_its_weights() -> None:
    weight, config = drawn(6, 11), method("hashed").config({"buckets": 7})
    layer = Hashed.from_dense(weight, None, config, Metric.identity(11))
    places = layer.hashed()
    for bucket, value in enumerate(layer.values):
        plus, minus = weight.flatten()[places == bucket], weight.flatten()[places == bucket + 7]
        torch.testing.assert_close(value.detach(), (plus.sum() - minus.sum()) / (len(plus) + len(minus)))


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
@pytest.mark.parametrize("size", [(256, 256), (1000, 40), (3, 20000)])
def test_the_hash_spreads_weights_evenly_over_buckets_signs_rows_and_columns(seed, size) -> None:
    buckets = 50
    layer = Hashed(*size, buckets=buckets, seed=seed)
    places = layer.hashed()

    def chi_square(counts: Tensor) -> float:
        """How many standard deviations the spread of ``counts`` is from that of fair draws."""
        expected = counts.sum() / counts.numel()
        freedom = counts.numel() - 1
        return float(((counts - expected).square().sum() / expected - freedom) / (2 * freedom) ** 0.5)

    assert abs(chi_square(torch.bincount(places, minlength=2 * buckets).double())) < 5
    matrix = places.reshape(size[1], size[0])
    for one, other in (
        (matrix[1:], matrix[:-1]),
        (matrix[:, 1:], matrix[:, :-1]),
    ):  # neighbours know nothing of each other
        pairs = torch.bincount((one * 2 * buckets + other).flatten(), minlength=4 * buckets**2)
        assert abs(chi_square(pairs.double())) < 5
    assert not torch.equal(places, Hashed(*size, buckets=buckets, seed=seed + 1).hashed())


def test_only_values_bias_and_a_seed_are_stored(tmp_path: Path) -> None:
    layer = Hashed(300, 200, share=0.05)
    assert (layer.params(), layer.macs()) == (3000 + 200 + 1, 60_000)
    assert set(layer.state_dict()) == {"values", "bias"}
    model, path, x = nn.Sequential(layer).eval(), tmp_path / "model.onnx", drawn(4, 3, 300).float()
    assert save_onnx(model, (x[:2],), path, input_names=["x"]) is None
    assert path.stat().st_size < 4 * 3200 + 5_000
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(session.run(None, {"x": x.numpy()})[0]), model(x))


def test_the_hash_is_the_one_that_files_were_written_with() -> None:
    prime, (a, b, c) = 2**31 - 1, (727634595, 1459114250, 95804886)
    expected = [pow(a * i + b * j + c, 5, prime) % 200 for i in range(3) for j in range(5)]
    assert expected[:5] == [102, 42, 78, 7, 123]
    assert Hashed(5, 3, buckets=100, seed=7).hashed().tolist() == expected


def test_a_layer_used_in_inference_mode_can_be_trained_after() -> None:
    layer = Hashed(5, 3)
    with torch.inference_mode():
        layer(torch.ones(2, 5))
    layer(torch.ones(2, 5)).sum().backward()
    assert layer.values.grad is not None
