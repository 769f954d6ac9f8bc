"""Networks, labels and data as users bring them: kept, judged or refused for what they are, before the work begins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.utils.prune
from torch import Tensor, nn

import compressor
from compressor import CompressorError
from compressor.candidate import export_original
from compressor.case import open_case
from compressor.data import as_dataset
from compressor.distill import _whole_loss
from compressor.measure import IGNORED, difference, evaluate, fidelity, first_output, output_place
from compressor.recipe import Recipe
from compressor.training import Training

ROWS = torch.randn(60, 16, generator=torch.Generator().manual_seed(0))

pytestmark = pytest.mark.usefixtures("quick")


class Net(nn.Module):
    """Two dense layers, and what ``end(net, x, hidden, y)`` makes of their outputs."""

    def __init__(self, end: Callable[..., Any] = lambda net, x, hidden, y: y, outputs: int = 12) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down, self.end = nn.Linear(16, 16), nn.Linear(16, outputs), end

    def forward(self, x: Tensor) -> Any:
        hidden = torch.relu(self.up(x))
        return self.end(self, x, hidden, self.down(hidden))


def job(model: nn.Module, **options: Any) -> compressor.Result:
    given = {"data": ROWS, "epochs": 1, "settings": {"rank": 4}, "target": ("up", "down"), **options}
    return compressor.compress(model, method="svd", **given)


def kept(result: compressor.Result) -> dict[str, str | None]:
    return {row.name: row.kept_because for row in result.report.layers}


# --- layers that are more than their weights ----------------------------------------------------


@pytest.mark.parametrize("register", ["register_forward_hook", "register_forward_pre_hook"])
def test_a_layer_with_hooks_is_kept(register: str) -> None:
    model = Net()
    getattr(model.up, register)(lambda *_: None)
    why = kept(job(model, epochs=0))
    assert why == {"up": "it has hooks, which would be lost with it", "down": None}


def test_a_layer_that_is_called_by_name_is_kept() -> None:
    model = Net(lambda net, x, hidden, y: net.down(input=hidden))
    assert "given by name" in (kept(job(model, epochs=0))["down"] or "")


def test_no_window_goes_over_an_activation_with_hooks() -> None:
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16))
    runs = open_case(Recipe(method="svd"), model=model, data=ROWS).runs
    assert runs is not None
    assert runs[0].activations[0] == ("1",)
    model[1].register_forward_hook(lambda *_: None)
    runs = open_case(Recipe(method="svd"), model=model, data=ROWS).runs
    assert runs is not None
    assert runs[0].activations[0] is None


def pruned(model: Net) -> None:
    torch.nn.utils.prune.l1_unstructured(model.up, "weight", 0.5)


def normed(model: Net) -> None:
    torch.nn.utils.parametrizations.weight_norm(model.up)


def of_a_class_of_its_own(model: Net) -> None:
    model.up = type("Mine", (nn.Linear,), {})(16, 16)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (pruned, "its weight is computed (by prune, weight_norm or the like): make it a parameter again"),
        (normed, "its weight is computed (by prune, weight_norm or the like): make it a parameter again"),
        (of_a_class_of_its_own, "a Mine is no torch.nn.Linear"),
    ],
)
def test_dense_layers_that_are_none_of_ours_are_named(change: Callable[[Net], None], why: str) -> None:
    model = Net()
    change(model)
    with torch.no_grad():
        model(ROWS)  # what is computed is computed without gradients, so that the network can be copied
    report = job(model, target=("down",)).report
    assert f"left as it is: up: {why}" in report.notes
    assert [row.name for row in report.layers if row.method] == ["down"]


def test_a_network_that_cannot_be_copied_is_refused_with_the_remedy() -> None:
    model = Net()
    pruned(model)
    with pytest.raises(CompressorError, match=r"cannot be copied.*prune\.remove"):
        job(model)


def test_a_single_layer_is_not_said_to_be_none() -> None:
    with pytest.raises(CompressorError, match=r"the whole model: put it into a torch\.nn\.Sequential"):
        job(nn.Linear(16, 4))


# --- labels -------------------------------------------------------------------------------------


def test_the_loss_of_values_knows_no_units() -> None:
    student, teacher, labels = torch.randn(3, 8, 2, generator=torch.Generator().manual_seed(0)).unbind()
    once, large = (_whole_loss(f * student, f * teacher, f * labels, Training(), False) for f in (1.0, 1e3))
    assert large.item() == pytest.approx(once.item(), rel=1e-5)
    assert once != _whole_loss(student, teacher, None, Training(), False)


def test_targets_of_logits_do_not_pull_at_them() -> None:
    model = Net(outputs=1)
    with torch.no_grad():
        model.down.weight *= 30
        model.down.bias -= model(ROWS).median()
        yes = (model(ROWS) > 0).float()
    result = job(model, data=(ROWS, yes), eval_data=(ROWS, yes), epochs=8, target=("up",))
    note = "trained without the labels: they are not values that the original's outputs come near"
    assert note in result.report.notes
    with torch.no_grad():
        spread = result.model(ROWS).std() / model(ROWS).std()
    assert spread > 0.7  # labels of 0 and 1 would draw the scores together
    values = model(ROWS).detach()
    assert note not in job(model, data=(ROWS, values), eval_data=(ROWS, values), target=("up",)).report.notes


def test_labels_of_what_does_not_count_do_not() -> None:
    scores = torch.tensor([[[2.0, 1.0], [1.0, 2.0], [2.0, 1.0]]])
    labels = torch.tensor([[0, 0, IGNORED]])
    data = as_dataset((torch.zeros(1, 3), labels), ("x",))
    found = evaluate(lambda _: scores, data, None)
    assert (found.metric, found.value) == ("accuracy", 0.5)
    small = torch.tensor([[0, 156, 1]], dtype=torch.uint8)  # 156 is -100 there
    assert evaluate(lambda _: scores, as_dataset((torch.zeros(1, 3), small), ("x",)), None).value == pytest.approx(
        1 / 3
    )


def test_padded_class_labels_are_trained_by_and_wrong_ones_refused_before_the_fit(untrained: None) -> None:
    labels = torch.arange(60) % 12
    with pytest.raises(AssertionError, match="the work began"):
        job(Net(), data=(ROWS, torch.where(labels > 2, IGNORED, labels)))
    with pytest.raises(CompressorError, match="labels go from 1 to 12, the model gives 12 classes"):
        job(Net(), data=(ROWS, labels + 1), eval_data=(ROWS, labels))


def test_class_labels_as_floats_are_told_what_to_become() -> None:
    with pytest.raises(CompressorError, match=r"save class labels as whole numbers \(int64\)"):
        job(Net(), data=(ROWS, (torch.arange(60) % 12).float()))


# --- outputs ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "place"),
    [
        (lambda net, x, hidden, y: {"features": hidden, "logits": y}, 1),
        (lambda net, x, hidden, y: {"loss": y.mean(), "scores": y}, 1),
        (lambda net, x, hidden, y: (None, [y, hidden]), 0),
    ],
)
def test_the_main_output_is_told_apart_in_every_file(end: Callable[..., Any], place: int, tmp_path: Path) -> None:
    model = Net(end)
    assert output_place(model(ROWS)) == place
    result = job(model)
    result.save(tmp_path / "out")
    session = onnxruntime.InferenceSession(str(tmp_path / "out/model.onnx"), providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: ROWS.numpy()})[place]
    with torch.no_grad():
        expected = first_output(result.model(ROWS))
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-5)


def test_scores_that_are_ruled_out_stay_so_and_cost_nothing() -> None:
    model = Net(lambda net, x, hidden, y: y.masked_fill(x[:, :12] < -0.5, -torch.inf))
    labels = model(ROWS).argmax(1)
    report = job(model, data=(ROWS, labels), eval_data=(ROWS, labels), epochs=2).report
    assert not any("diverged" in note for note in report.notes)
    values = job(model, epochs=2).report
    assert not any("diverged" in note for note in values.notes)
    assert values.after.fidelity is not None
    assert values.after.fidelity.relative_error < 1


def test_equal_infinities_differ_by_nothing() -> None:
    one = torch.tensor([1.0, -torch.inf, torch.inf, torch.nan])
    other = torch.tensor([0.5, -torch.inf, -torch.inf, torch.nan])
    assert difference(one, other)[:3].tolist() == [0.5, 0.0, torch.inf]
    assert difference(one, other)[3].isnan()
    data = as_dataset(torch.zeros(1, 1), ("x",))
    found = fidelity(lambda _: torch.tensor([[3.0, -torch.inf]]), lambda _: torch.tensor([[6.0, -torch.inf]]), data)
    assert found.relative_error == pytest.approx(1)


@pytest.mark.parametrize(
    ("end", "why"),
    [
        (lambda net, x, hidden, y: y * torch.nan, "gives NaN"),
        (lambda net, x, hidden, y: y + torch.rand_like(y), "other outputs for the same input"),
        (lambda net, x, hidden, y: torch.stack([row * 2 for row in y]), "does not take a batch of 1, which the model"),
        (lambda net, x, hidden, y: y.missing, r"does not take this input \(\(8, 16\) float32\): AttributeError"),
        (lambda net, x, hidden, y: y.detach(), "switches gradients off"),
    ],
)
def test_what_cannot_be_checked_or_trained_is_refused_first(end: Callable[..., Any], why: str, untrained: None) -> None:
    with pytest.raises(CompressorError, match=why):
        job(Net(end))


def test_evaluation_data_that_does_not_fit_is_refused_first(untrained: None) -> None:
    with pytest.raises(CompressorError, match=r"evaluation data: the model does not take this input \(\(2, 9\)"):
        job(Net(), eval_data=torch.randn(20, 9))


def test_a_figure_of_ones_own_that_is_none_is_refused_first(untrained: None) -> None:
    with pytest.raises(CompressorError, match="eval_fn gave None"):
        job(Net(), eval_fn=lambda model: None)  # type: ignore[arg-type,return-value]


def test_a_torchscript_module_in_memory_is_refused() -> None:
    with pytest.raises(CompressorError, match="TorchScript"):
        job(torch.jit.trace(nn.Sequential(nn.Linear(16, 4)), ROWS))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_caller_may_have_switched_gradients_off(mode: Callable[[], Any]) -> None:
    model = Net()
    with mode():
        report = job(model).report
    assert report.status == "complete"


def test_the_original_s_program_is_tried_before_the_training() -> None:
    case = open_case(Recipe(method="svd"), model=Net(), data=ROWS)
    assert export_original(case).sizes()


# --- what comes back ----------------------------------------------------------------------------


def test_what_is_loaded_is_a_module_like_any_other(tmp_path: Path) -> None:
    model = Net()
    model.unused = nn.Linear(3, 3)
    model.register_buffer("fixed", torch.ones(12), persistent=False)
    model.end = lambda net, x, hidden, y: y + net.fixed
    result = job(model)
    result.save(tmp_path / "out")
    loaded = compressor.load(tmp_path / "out")
    assert not loaded.training
    assert loaded.train().training
    assert not loaded.eval().training
    with torch.no_grad():
        torch.testing.assert_close(loaded(x=ROWS), result.model(ROWS))
    assert {"unused.weight", "unused.bias"} <= loaded.state_dict().keys()
    assert "fixed" not in loaded.state_dict()
    torch.save(loaded, tmp_path / "whole.pt")


def test_live_data_is_read_as_the_options_say(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}
    monkeypatch.setattr("compressor.pipeline.check_case", lambda case: seen.update(data=case.data.head(4)))
    given = {"rows": (10 * ROWS).round(), "kind": torch.arange(60) % 12, "target": torch.zeros(60)}
    with pytest.raises(CompressorError, match="holds kind, rows, target"):
        job(Net(), data=given)
    given.pop("target")
    job(Net(), data=given, label_key="kind", normalize="1,2", epochs=0)
    assert seen["data"].labels is not None
    scaled = (given["rows"] - 1) / 2
    assert all((scaled == row).all(1).any() for row in seen["data"].inputs[0])


def test_a_metric_of_ones_own_on_outputs_of_several_shapes_is_refused_first(untrained: None, tmp_path: Path) -> None:
    (tmp_path / "figures.py").write_text(
        "def off(outputs, labels): return float((outputs[..., 0] - labels).abs().max())"
    )
    steps = [(torch.randn(8, length, 16), torch.randn(8, length)) for length in (5, 5, 7)]
    with pytest.raises(CompressorError, match=r"their shapes differ from batch to batch.*pad the evaluation data"):
        job(Net(), data=steps[:2], eval_data=steps, metric=f"{tmp_path / 'figures.py'}:off")
