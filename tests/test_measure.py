"""Measuring against counts by hand, against plain torch, and against a second runtime."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from compressor import measure
from compressor.data import Dataset, TensorDataset
from compressor.errors import CompressorError
from compressor.layers import LayerConfig, StructuredLayer
from compressor.measure import (
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
    """The plainest structured layer: one number for each output, two seeds, and its own count of multiply-adds."""

    method = "diagonal"
    Config = LayerConfig

    def __init__(self, in_features: int, out_features: int, **options: object) -> None:
        super().__init__(in_features, out_features, bias=False)
        self.diagonal = nn.Parameter(torch.randn(out_features))
        self.register_buffer("signs", torch.ones(out_features), persistent=False)

    @property
    def seeds(self) -> int:
        return 2

    def transform(self, x: Tensor) -> Tensor:
        return x @ torch.diag(self.diagonal * self.signs)

    def macs(self) -> int:
        return self.out_features

    @classmethod
    def from_dense(cls, *arguments: object) -> Diagonal:
        raise NotImplementedError

    @classmethod
    def config_for_params(cls, *arguments: object) -> LayerConfig:
        raise NotImplementedError


def structured(width: int) -> StructuredLayer:
    return Diagonal(width, width)


def test_tied_parameters_count_once_and_temporary_buffers_not_at_all() -> None:
    net = nn.Sequential(nn.Linear(7, 7, bias=False), nn.Linear(7, 7, bias=False), nn.BatchNorm1d(3))
    net[1].weight = net[0].weight
    net.register_buffer("scratch", torch.zeros(1000), persistent=False)
    assert count_params(net) == 7 * 7 + (2 * 3 + 2 * 3 + 1)


def test_a_structured_layer_counts_what_it_stores_seeds_included() -> None:
    layer = structured(37)
    assert count_params(nn.Sequential(layer, nn.Linear(37, 3))) == (37 + 2) + 37 * 3 + 3
    assert count_params(nn.ModuleList([layer, layer])) == layer.params() == 37 + 2


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("rows", [1, 3])
def test_macs_of_convolution_and_dense_maps_are_those_counted_by_hand(device: str, rows: int) -> None:
    with torch.device(device):
        net = nn.Sequential(nn.Conv2d(2, 5, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 3 * 4, 11))
        x = torch.zeros(rows, 2, 7, 9)
    assert count_macs(net, (x,)) == 5 * 2 * 9 * (3 * 4) + 5 * 3 * 4 * 11


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_macs_of_attention_are_those_of_its_matrix_products(device: str) -> None:
    tokens, width = 5, 12
    with torch.device(device):
        net = nn.TransformerEncoderLayer(width, 4, dim_feedforward=17, batch_first=True)
        x = torch.zeros(3, tokens, width)
    projections = tokens * (4 * width * width + 2 * width * 17)
    assert count_macs(net.eval(), (x,)) == projections + 2 * tokens * tokens * width
    assert count_macs(net.train(), (x,)) == projections + 2 * tokens * tokens * width
    assert net.training
    assert net.dropout.training


def test_macs_of_a_recurrent_network_count_each_step() -> None:
    net = nn.LSTM(5, 7, batch_first=True)
    assert count_macs(net, (torch.zeros(2, 3, 5),)) == 3 * 4 * 7 * (5 + 7)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_structured_layer_counts_its_own_macs_for_each_row(device: str) -> None:
    with torch.device(device):
        layer = structured(37)
        net = nn.Sequential(nn.Linear(5, 37), layer, layer, nn.Linear(37, 3))
        x = torch.zeros(4, 11, 5)
    assert count_macs(net, (x,)) == 11 * (5 * 37 + 2 * 37 + 37 * 3)


def test_counting_leaves_the_model_as_it_was() -> None:
    net = nn.Sequential(structured(9), nn.BatchNorm1d(9)).train()
    x = torch.randn(3, 9)
    before = net(x)
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    count_macs(net, (x[:1],))
    assert net.training
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    torch.testing.assert_close(net(x), before)


def test_candidates_are_called_in_turn_equally_often_and_none_always_first() -> None:
    calls: list[str] = []
    found = latencies({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, seconds=0.0, min_rounds=8)
    rounds = ["".join(calls[i : i + 2]) for i in range(0, len(calls), 2)]
    assert set(rounds) == {"ab", "ba"}
    assert rounds[-8:].count("ab") == 4
    assert {name: latency.rounds for name, latency in found.items()} == {"a": 8, "b": 8}
    assert len(rounds) > 8, "there was no warm-up"


def test_median_and_spread_are_those_of_the_calls_after_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    took = iter([50.0] * measure._WARM_UP_ROUNDS + [0.001 * n for n in range(1, 12)])
    monkeypatch.setattr(measure.time, "perf_counter", lambda: clock[0])

    def run() -> None:
        clock[0] += next(took)

    found = latencies({"a": run}, seconds=0.0, min_rounds=11)["a"]
    assert (found.p10_ms, found.median_ms, found.p90_ms) == pytest.approx((2.0, 6.0, 10.0))


def test_timing_goes_on_for_the_seconds_given(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(measure.time, "perf_counter", lambda: clock[0])

    def run() -> None:
        clock[0] += 0.25

    assert latencies({"a": run}, seconds=10.0, min_rounds=2)["a"].rounds == 40


def test_one_thread_is_one_thread_and_gives_back_what_was_there() -> None:
    torch.set_num_threads(2)
    try:
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


@pytest.fixture
def subtraction(tmp_path: Path) -> Path:
    text = (
        '<ir_version: 8, opset_import: ["" : 18]> g (float[n, 3] b, float[n, 3] a) => (float[n, 3] c) { c = Sub(b, a) }'
    )
    onnx.save(onnx.parser.parse_model(text), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def test_onnxruntime_takes_the_inputs_in_the_order_of_the_file(subtraction: Path) -> None:
    first, second = torch.randn(5, 3), torch.randn(5, 3, requires_grad=True)
    (found,) = run_ort(ort_session(subtraction), (first, second.T.contiguous().T))
    torch.testing.assert_close(torch.from_numpy(found), (first - second).detach())
    with pytest.raises(ValueError, match=r"takes 2 inputs \(b, a\), 1 were given"):
        run_ort(ort_session(subtraction), (first,))


def test_the_session_runs_on_the_processor_with_the_threads_asked_for_and_does_not_spin(subtraction: Path) -> None:
    session = ort_session(subtraction)
    options = session.get_session_options()
    assert session.get_providers() == ["CPUExecutionProvider"]
    assert options.intra_op_num_threads == 1
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert ort_session(subtraction, threads=2).get_session_options().intra_op_num_threads == 2
    with pytest.raises(CompressorError, match=r"nothing\.onnx"):
        ort_session(subtraction.with_name("nothing.onnx"))


@pytest.mark.parametrize("wrap", [list, tuple, lambda pair: {"loss": torch.zeros(()), "out": pair[0], "x": pair[1]}])
def test_the_main_output_is_the_first_tensor(wrap: type) -> None:
    one, two = torch.ones(3), torch.zeros(3)
    assert first_output(wrap([one, two])) is one
    assert first_output({"hidden": two, "logits": one}) is one
    with pytest.raises(CompressorError, match="no tensor"):
        first_output({"a": None})


def labelled(outputs: Tensor, labels: Tensor) -> Dataset:
    return TensorDataset([outputs], labels)


def same(inputs: tuple[Tensor, ...]) -> Tensor:
    return inputs[0]


def test_accuracy_is_the_default_for_class_numbers_whatever_the_batch_size() -> None:
    scores = torch.randn(137, 7)
    labels = torch.randint(0, 7, (137,))
    expected = float((scores.argmax(1) == labels).double().mean())
    for batch_size in (1, 10, 137, 500):
        found = evaluate(same, labelled(scores, labels), batch_size=batch_size)
        assert (found.metric, found.higher_is_better, found.examples) == ("accuracy", True, 137)
        assert found.value == pytest.approx(expected, abs=1e-12)
    error = evaluate(same, labelled(scores, labels), "error")
    assert error.value == pytest.approx(1 - expected)
    assert not error.higher_is_better
    five = scores.topk(5).indices.eq(labels[:, None]).any(1).double().mean()
    assert evaluate(same, labelled(scores, labels), "top5").value == pytest.approx(float(five))


def test_accuracy_over_positions_leaves_out_the_ignored_ones() -> None:
    scores = torch.randn(5, 11, 3)
    labels = scores.argmax(-1)
    labels[:, ::2] = -100
    labels[0, 1] = (labels[0, 1] + 1) % 3
    assert evaluate(same, labelled(scores, labels)).value == pytest.approx(24 / 25)
    images = scores.movedim(-1, 1)  # classes on axis 1, as in segmentation
    assert evaluate(same, labelled(images, labels)).value == pytest.approx(24 / 25)


def test_the_default_for_other_labels_is_the_squared_error_and_never_of_every_pair() -> None:
    x, labels = torch.randn(13, 1), torch.randn(13)
    expected = float((x[:, 0] - labels).square().mean())
    found = evaluate(same, labelled(x, labels), batch_size=5)
    assert (found.metric, found.higher_is_better) == ("mse", False)
    assert found.value == pytest.approx(expected, rel=1e-6)
    assert evaluate(same, labelled(x, labels), "rmse").value == pytest.approx(math.sqrt(expected), rel=1e-6)
    mae = float((x[:, 0] - labels).abs().mean())
    assert evaluate(same, labelled(x, labels), "mae").value == pytest.approx(mae, rel=1e-6)


def test_a_metric_of_ones_own_sees_all_outputs_at_once() -> None:
    def spread(outputs: Tensor, labels: Tensor) -> float:
        return float((outputs[:, 0] - labels).std())

    spread.higher_is_better = False  # type: ignore[attr-defined]
    x, labels = torch.randn(13, 1), torch.randn(13)
    found = evaluate(same, labelled(x, labels), spread, batch_size=5)
    assert found.value == pytest.approx(float((x[:, 0] - labels).std()))
    assert (found.metric, found.higher_is_better) == ("spread", False)


def test_a_metric_can_be_named_as_code(tmp_path: Path) -> None:
    (tmp_path / "score.py").write_text("def worst(outputs, labels):\n    return (outputs - labels).abs().max()\n")
    x, labels = torch.randn(13), torch.randn(13)
    found = evaluate(same, labelled(x, labels), f"{tmp_path}/score.py:worst", batch_size=5)
    assert found.value == pytest.approx(float((x - labels).abs().max()))


@pytest.mark.parametrize(
    ("metric", "outputs", "labels", "said"),
    [
        ("acuracy", torch.randn(3, 4), torch.zeros(3, dtype=torch.long), "did you mean 'accuracy'"),
        ("accuracy", torch.randn(3, 4), torch.randn(3), "one class number to a row"),
        ("accuracy", torch.randn(3, 1), torch.zeros(3, dtype=torch.long), "one class number to a row"),
        (None, torch.randn(3, 4), torch.tensor([0, 1, 4]), "the labels go from 0 to 4; the model knows classes 0 to 3"),
        ("mse", torch.randn(3, 4), torch.randn(3), "cannot be compared"),
        (lambda outputs, labels: outputs, torch.randn(3, 4), torch.randn(3), "must return one number"),
        (lambda outputs, labels: math.nan, torch.randn(3, 4), torch.randn(3), "finite"),
        ("accuracy", torch.randn(3, 4), torch.full((3,), -100), "no labelled example"),
    ],
)
def test_what_cannot_be_measured_is_said_in_one_line(
    metric: object, outputs: Tensor, labels: Tensor, said: str
) -> None:
    with pytest.raises(CompressorError, match=said) as refused:
        evaluate(same, labelled(outputs, labels), metric)  # type: ignore[arg-type]
    assert "\n" not in str(refused.value)


def test_a_metric_without_labels_is_refused() -> None:
    with pytest.raises(CompressorError, match="needs labels"):
        evaluate(same, TensorDataset([torch.randn(3, 4)]))


def test_fidelity_is_agreement_and_relative_error_over_all_batches() -> None:
    x = torch.randn(137, 7)
    noise = 0.3 * torch.randn(137, 7)
    lookup = iter(noise.split(10))
    found = fidelity(same, lambda inputs: inputs[0] + next(lookup), TensorDataset([x]), batch_size=10)
    assert found.agreement == pytest.approx(float((x.argmax(1) == (x + noise).argmax(1)).double().mean()))
    assert found.relative_error == pytest.approx(float(noise.norm() / x.norm()), rel=1e-5)
    assert found.examples == 137


def test_fidelity_of_outputs_that_are_no_classes_has_no_agreement() -> None:
    data = TensorDataset([torch.randn(5, 1)])
    assert fidelity(same, same, data).agreement is None
    assert fidelity(same, same, data).relative_error == 0
    nothing = fidelity(lambda inputs: 0 * inputs[0], same, data)
    assert nothing.relative_error == np.inf
