"""Measuring: counts against arithmetic, timing against known waits, quality against the formula."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressor.data import as_dataset
from compressor.errors import CompressorError
from compressor.layers import LayerConfig, StructuredLayer
from compressor.measure import (
    check_metric,
    count_macs,
    count_params,
    evaluate,
    fidelity,
    first_output,
    latencies,
    one_thread,
    ort_session,
    run_ort,
)


class Diagonal(StructuredLayer):
    """A layer that says it costs 7 multiply-adds, written with a matrix product of many more."""

    method = "diagonal"
    Config = LayerConfig

    def make_parameters(self) -> None:
        self.scale = nn.Parameter(torch.ones(self.in_features))
        self.inner: nn.Module = nn.Identity()
        self.register_buffer("drawn", torch.ones(100), persistent=False)

    def transform(self, x: Tensor) -> Tensor:
        return self.inner(x @ torch.diag(self.scale))

    def macs(self) -> int:
        return 7

    @property
    def seeds(self) -> int:
        return 2

    @classmethod
    def from_dense(cls, weight: Tensor, bias: Tensor | None, config: Any, metric: Any) -> Any:
        raise NotImplementedError

    def fit_samples(self, x: Tensor, y: Tensor) -> float:
        raise NotImplementedError

    @classmethod
    def config_for_params(cls, in_features: int, out_features: int, bias: bool, params: int, base: Any) -> Any:
        raise NotImplementedError


# --- counts ---------------------------------------------------------------------------------------


def test_stored_numbers_are_parameters_persistent_buffers_and_seeds_with_tied_ones_once() -> None:
    shared = nn.Linear(5, 5)
    model = nn.Sequential(shared, nn.BatchNorm1d(5), shared, Diagonal(5, 5))
    model[1].register_buffer("not_stored", torch.zeros(9), persistent=False)
    model.append(nn.Linear(5, 5, bias=False))
    model[4].weight = shared.weight
    assert count_params(model) == (25 + 5) + (5 + 5) + (5 + 5 + 1) + (5 + 2)


class Attention(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(x, x, x)


class Vectors(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.ones(5, 3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.matrix @ row for row in x])


COUNTED = {
    "linear": (nn.Linear(7, 11), (7,), 77),
    "linear on tokens": (nn.Linear(7, 11), (13, 7), 13 * 77),
    "convolution": (nn.Conv2d(3, 5, 3, padding=1), (3, 9, 11), 9 * 11 * 27 * 5),
    "strided groups": (nn.Conv2d(4, 6, 3, stride=2, groups=2), (4, 9, 9), 4 * 4 * 6 * 2 * 9),
    "bilinear attention": (Attention(), (2, 5, 8), 2 * 2 * 5 * 5 * 8),
    "products with vectors": (Vectors(), (3,), 15),
    "encoder": (nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), (5, 16), 5 * 2048 + 2 * 5 * 5 * 16),
    "lstm": (nn.LSTM(16, 7, batch_first=True), (5, 16), 5 * 4 * 7 * (16 + 7)),
    "gru": (nn.GRU(3, 5, batch_first=True), (4, 3), 4 * 3 * 5 * (3 + 5)),
    "activations and norms": (nn.Sequential(nn.ReLU(), nn.BatchNorm1d(3)), (3,), 0),
    "structured": (Diagonal(7, 7), (13, 7), 13 * 7),
    "structured between": (nn.Sequential(nn.Linear(3, 7), Diagonal(7, 7), nn.Linear(7, 2)), (3,), 21 + 7 + 14),
}


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("name", COUNTED)
def test_macs_are_those_of_the_arithmetic_per_example_whatever_the_batch(name: str, device: str) -> None:
    model, shape, macs = COUNTED[name]
    model = copy.deepcopy(model).to(device)
    for rows in (1, 3):
        assert count_macs(model, (torch.ones(rows, *shape, device=device),)) == macs


def test_a_structured_layer_inside_another_belongs_to_the_outer_one() -> None:
    outer = Diagonal(7, 7)
    outer.inner = Diagonal(7, 7)
    assert count_macs(outer, (torch.ones(3, 7),)) == 7


def test_counting_leaves_the_model_and_torch_as_they_were() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(), Diagonal(3, 3))
    model.train()
    model[2].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    count_macs(model, (torch.ones(3, 3),))
    assert [module.training for module in model] == [True, True, False, True]
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name])
    assert not model[3]._forward_hooks
    assert torch.backends.mkldnn.enabled
    assert torch.backends.mha.get_fastpath_enabled()


# --- speed ----------------------------------------------------------------------------------------


class Clock:
    """Time that passes only in the calls that are timed, so that figures are exact."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_ns = 0
        self.order: list[str] = []
        monkeypatch.setattr(time, "perf_counter_ns", lambda: self.now_ns)
        monkeypatch.setattr(time, "perf_counter", lambda: self.now_ns / 1e9)

    def run(self, name: str, *milliseconds: float) -> Callable[[], None]:
        """A call that takes these times, the last one for ever."""
        left = list(milliseconds)

        def call() -> None:
            self.order.append(name)
            self.now_ns += round(1e6 * (left.pop(0) if len(left) > 1 else left[0]))

        return call


def test_candidates_are_timed_alternately(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    found = latencies({"a": clock.run("a", 3), "b": clock.run("b", 5)}, seconds=0, min_rounds=4)
    assert [found[name].median_ms for name in "ab"] == [3, 5]
    assert {latency.rounds for latency in found.values()} == {4}
    timed = "".join(clock.order).removeprefix("aaaabbbb")
    assert timed == "abbaabba"
    assert latencies({}, seconds=1) == {}


def test_percentiles_are_over_all_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    times = [10.0 + i for i in range(11)]
    found = latencies({"a": clock.run("a", 9, 9, 9, 9, *times)}, seconds=0, min_rounds=11)["a"]
    assert (found.p10_ms, found.median_ms, found.p90_ms) == (11, 15, 19)


def test_what_is_slow_only_at_first_or_after_another_is_timed_as_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    cold_first = [90.0, 0.5, 0.5, 0.5, *[8.0, 0.5, 0.5, 0.5, 0.5] * 3]  # found out, then turns of 1 + 4 calls
    found = latencies({"a": clock.run("a", *cold_first), "b": clock.run("b", 3)}, seconds=0, min_rounds=3)["a"]
    assert found.p90_ms == 0.5


def test_timing_goes_on_for_the_time_given_and_at_least_the_rounds_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    runs = {"a": clock.run("a", 10), "b": clock.run("b", 40)}
    assert latencies(runs, seconds=1, min_rounds=2)["a"].rounds == 20
    assert latencies(runs, seconds=0, min_rounds=2)["a"].rounds == 2


def test_one_thread_is_set_back() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


def test_stock_onnxruntime_gives_what_torch_gives_inputs_in_order(tmp_path: Path) -> None:
    class Difference(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.map = nn.Linear(5, 3)

        def forward(self, zebra: Tensor, apple: Tensor) -> tuple[Tensor, Tensor]:
            return self.map(zebra) - apple, 2 * apple

    model, path = Difference().eval(), tmp_path / "model.onnx"
    inputs = (torch.randn(5, 7).T, torch.randn(7, 3, requires_grad=True))
    torch.onnx.export(model, inputs, path, dynamo=True, verbose=False)
    session = ort_session(path)
    assert session.get_providers() == ["CPUExecutionProvider"]
    assert session.get_session_options().intra_op_num_threads == 1
    got = run_ort(session, inputs)
    torch.testing.assert_close(torch.from_numpy(got[0]), model(*inputs)[0].detach())
    assert len(got) == 2
    with pytest.raises(ValueError, match=r"2 inputs \(zebra, apple\), 1 were given"):
        run_ort(session, inputs[:1])


def test_a_file_that_is_no_onnx_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"nothing of the kind")
    for name, said in (("bad.onnx", "onnxruntime does not load it"), ("none.onnx", "no such file")):
        with pytest.raises(CompressorError, match=f"{name}: {said}") as caught:
            ort_session(tmp_path / name)
        assert "\n" not in str(caught.value)


# --- quality --------------------------------------------------------------------------------------

Y = torch.randn(137, 7, generator=torch.Generator().manual_seed(0))
CLASSES = torch.arange(137) % 7
VALUES = torch.randn(137, 7, generator=torch.Generator().manual_seed(1))
HIT = (Y.argmax(1) == CLASSES).double().mean().item()
RANK = (Y.gather(1, CLASSES[:, None]) < Y).sum(1)


def identity(inputs: tuple[Tensor, ...]) -> Tensor:
    return inputs[0]


@pytest.mark.parametrize(
    ("metric", "labels", "value", "higher"),
    [
        ("accuracy", CLASSES, HIT, True),
        ("error", CLASSES, 1 - HIT, False),
        ("top5", CLASSES, (RANK < 5).double().mean().item(), True),
        ("mse", VALUES, F.mse_loss(Y, VALUES).item(), False),
        ("rmse", VALUES, F.mse_loss(Y, VALUES).item() ** 0.5, False),
        ("mae", VALUES, F.l1_loss(Y, VALUES).item(), False),
    ],
)
@pytest.mark.parametrize("batch_size", [1, 10, 500])
def test_each_metric_is_its_formula_over_all_examples(
    metric: str, labels: Tensor, value: float, higher: bool, batch_size: int
) -> None:
    found = evaluate(identity, as_dataset((Y, labels), ["x"]), metric, batch_size)
    assert (found.metric, found.higher_is_better, found.examples) == (metric, higher, 137)
    assert found.value == pytest.approx(value, rel=1e-6)


def test_the_metric_is_accuracy_for_classes_and_mse_otherwise() -> None:
    assert evaluate(identity, as_dataset((Y, CLASSES), ["x"]), None).metric == "accuracy"
    assert evaluate(identity, as_dataset((Y, VALUES), ["x"]), None).metric == "mse"
    one = evaluate(identity, as_dataset((Y[:, :1], CLASSES), ["x"]), None)
    assert one.metric == "mse"
    assert one.value == pytest.approx(F.mse_loss(Y[:, 0], CLASSES.float()).item())


def test_accuracy_counts_each_token_and_each_pixel() -> None:
    scores, labels = torch.randn(3, 5, 4), torch.arange(15).reshape(3, 5) % 4
    expected = (scores.argmax(-1) == labels).float().mean().item()
    assert evaluate(identity, as_dataset((scores, labels), ["x"]), None).value == pytest.approx(expected)
    pixels = scores.movedim(-1, 1)
    assert evaluate(identity, as_dataset((pixels, labels), ["x"]), None).value == pytest.approx(expected)


def test_a_metric_of_ones_own_gets_everything_at_once() -> None:
    def spread(outputs: Tensor, labels: Tensor) -> Tensor:
        assert outputs.shape == (137, 7)
        return (outputs[:, 0].std() + labels.float().std()).double()

    found = evaluate(identity, as_dataset((Y, CLASSES), ["x"]), spread, 10)
    assert (found.metric, found.higher_is_better) == ("spread", None)
    assert found.value == pytest.approx((Y[:, 0].std() + CLASSES.float().std()).item())


def test_a_metric_in_a_file_is_found_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def largest(outputs, labels):\n    return float(outputs.max())\n")
    metric = f"{tmp_path / 'mine.py'}:largest"
    check_metric(metric)
    assert evaluate(identity, as_dataset((Y, CLASSES), ["x"]), metric).value == pytest.approx(Y.max().item())


def test_a_metric_that_does_not_exist_or_does_not_fit_is_said_in_one_line() -> None:
    data = as_dataset((Y, CLASSES), ["x"])
    with pytest.raises(CompressorError, match="there is no metric 'acuracy'; did you mean 'accuracy'"):
        check_metric("acuracy")
    with pytest.raises(CompressorError, match=r"labels \(137,\) int64 do not fit the model's outputs \(137, 7\)"):
        evaluate(identity, data, "mse")
    with pytest.raises(CompressorError, match=r"labels \(137, 7\) float32 do not fit .* as classes"):
        evaluate(identity, as_dataset((Y, VALUES), ["x"]), "accuracy")
    with pytest.raises(CompressorError, match="the metric accuracy needs labels"):
        evaluate(identity, data.without_labels(), None)
    for name in (None, "accuracy", "rmse"):
        check_metric(name)


def test_fidelity_is_agreement_and_relative_error_over_all_examples() -> None:
    data = as_dataset(Y, ["x"])
    found = fidelity(identity, lambda inputs: inputs[0] + VALUES[0], data, 10)
    other = Y + VALUES[0]
    assert found.examples == 137
    assert found.agreement == pytest.approx((other.argmax(1) == Y.argmax(1)).double().mean().item())
    assert found.relative_error == pytest.approx(((other - Y).norm() / Y.norm()).item(), rel=1e-5)
    same = fidelity(identity, identity, data)
    assert (same.agreement, same.relative_error) == (1.0, 0.0)


def test_fidelity_has_no_agreement_without_classes_and_no_division_by_zero() -> None:
    assert fidelity(identity, identity, as_dataset(torch.ones(5, 1), ["x"])).agreement is None
    zeros = as_dataset(torch.zeros(5, 3), ["x"])
    assert fidelity(identity, identity, zeros).relative_error == 0
    assert math.isinf(fidelity(identity, lambda inputs: inputs[0] + 1, zeros).relative_error)


def test_the_main_output_is_found_in_what_models_return() -> None:
    main, other = torch.ones(2), torch.zeros(1)
    for returned in (
        main, (main, other), [main], ((main,), other), {"loss": other, "out": main}, (None, main),
        {"hidden": other, "logits": main}, {"loss": other, "out": (main, other)},
    ):  # fmt: skip
        assert first_output(returned) is main
    for returned in (None, 3, (), {"loss": other}, "text"):
        with pytest.raises(CompressorError, match="without a tensor"):
            first_output(returned)
