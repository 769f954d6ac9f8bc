"""What cannot be written, loaded or run is said before the training; what changes its inputs is given copies."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

import compressor
from compressor import CompressorError
from compressor.bench import bench
from compressor.measure import first_output
from compressor.pipeline import make_recipe, plan_only
from compressor.recipe import read_recipe, refuse_code_in

pytestmark = pytest.mark.usefixtures("quick")


class Pair(NamedTuple):
    y: Tensor
    hidden: Tensor


class Net(nn.Module):
    """Two dense layers; what else it does is in ``kind``."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind = kind
        self.up, self.down = nn.Linear(16, 24), nn.Linear(24, 16)
        self.others = nn.ModuleDict({"ü": nn.Linear(16, 16)} if kind == "odd name" else {})
        self.silu = nn.SiLU(inplace=True)

    def forward(self, x: Tensor) -> Any:
        if self.kind == "inplace":
            x += 1
        if self.kind == "inplace activation":
            x = self.silu(x)
        hidden = torch.relu(self.up(x))
        if self.kind == "branch" and hidden.sum() > 1:
            hidden = hidden * 2
        y = self.down(hidden)
        if self.kind == "odd name":
            y = self.others["ü"](y)
        return [Pair(y, hidden)] if self.kind == "named tuple" else y


def rows(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def job(model: nn.Module | Path, data: np.ndarray, **options: Any) -> compressor.Result:
    return compressor.compress(model, "svd", settings={"rank": 4}, target=("*",), data=data, epochs=0, **options)


@pytest.mark.parametrize("kind", ["inplace", "inplace activation"])
def test_a_network_that_changes_its_input_is_compressed_and_the_data_stays(kind: str) -> None:
    x = rows(40, 16)
    result = job(Net(kind).eval(), x.copy(), eval_data=(given := torch.from_numpy(x.copy())))
    assert torch.equal(given, torch.from_numpy(x))
    with torch.no_grad():
        teacher, student = (net(torch.tensor(x)) for net in (Net(kind).eval(), result.model))
    assert result.report.after.fidelity is not None
    off = float((student - teacher).norm() / teacher.norm())
    assert result.report.after.fidelity.relative_error == pytest.approx(off, rel=1e-3)


def test_named_tuples_are_written_as_tuples() -> None:
    model, x = Net("named tuple").eval(), rows(40, 16)
    result = job(model, x)
    loaded = compressor.load(result.folder)
    with torch.no_grad():
        found = loaded(torch.from_numpy(x[:3]))
        torch.testing.assert_close(first_output(found), first_output(result.model(torch.from_numpy(x[:3]))))
    assert type(found[0]) is tuple


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("branch", r"cannot be written as an exported program: .*data-dependent"),
        ("odd name", r"model\.pt2: a parameter is named 'others\.ü\.weight'; give its module a name"),
    ],
)
@pytest.mark.usefixtures("untrained")
def test_a_network_that_cannot_be_exported_is_refused_before_the_work(
    kind: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(CompressorError, match=said):
        job(Net(kind).eval(), rows(40, 16))
    assert capsys.readouterr() == ("", "")


@pytest.mark.usefixtures("untrained")
def test_a_graph_that_onnxruntime_refuses_is_refused_before_the_work(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", [a, b], [c], name="same") for a, b, c in (("x", "w", "h"), ("h", "w", "y"))]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 16]) for name in "xy")
    graph = helper.make_graph(nodes, "g", [x], [y], [numpy_helper.from_array(rows(16, 16), "w")])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(made, tmp_path / "net.onnx")
    with pytest.raises(CompressorError, match=r"net\.onnx: onnxruntime does not load it"):
        job(tmp_path / "net.onnx", rows(40, 16))


class Projected(nn.Module):
    """The exporter writes its recurrent node so that onnxruntime does not run it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rnn, self.head = nn.LSTM(12, 16, proj_size=8, batch_first=True), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])


def test_an_original_that_onnxruntime_does_not_run_is_not_timed_there_and_it_is_said() -> None:
    report = job(Projected().eval(), rows(40, 3, 12)).report
    assert "onnxruntime" not in report.before.latency_ms
    assert "onnxruntime" in report.after.latency_ms
    assert any("the original is not timed in onnxruntime" in note for note in report.notes)


def test_a_file_that_onnxruntime_does_not_run_is_refused_in_one_line() -> None:
    said = r"model\.onnx: onnxruntime does not run it: .*; nothing was written"
    with pytest.raises(CompressorError, match=said):
        compressor.compress(Projected().eval(), "svd", settings={"rank": 2}, target=("head",), data=rows(40, 3, 12),
                            epochs=0)  # fmt: skip


def small_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, **fields: str) -> Path:
    """A finished folder as anybody may send it, with code inside, in the working directory."""
    folder = tmp_path / "small"
    folder.mkdir()
    (folder / code).write_text("raise SystemExit('code of the folder was run')\n")
    (folder / "model.onnx").touch()
    (folder / "recipe.yaml").write_text("".join(f"{name}: {value}\n" for name, value in fields.items()))
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.mark.parametrize(
    ("code", "named"),
    [
        ("evil.py", "small.evil:build"),
        ("evil.py", "small/evil.py:build"),
        ("__init__.py", "small:build"),
    ],
)
@pytest.mark.parametrize("field", ["model", "metric"])
def test_code_in_a_folder_is_not_run_however_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, named: str, field: str
) -> None:
    folder = small_folder(tmp_path, monkeypatch, code, **{"model": "net:build", field: f"'{named}'"})
    for original in (None, "net:build") if field == "metric" else (None,):
        with pytest.raises(CompressorError, match="names code inside of it"):
            bench(folder, original=original)


def test_a_module_of_the_folder_s_name_beside_it_may_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = small_folder(tmp_path, monkeypatch, "evil.py", model="small:build")
    refuse_code_in(folder, read_recipe(folder / "recipe.yaml"))
    (folder / "recipe.yaml").write_text("model: small.evil:build\n")
    refuse_code_in(folder, read_recipe(folder / "recipe.yaml"), is_original_given=True)  # the recipe's is not read then


def test_a_window_without_an_end_is_refused_in_words() -> None:
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16))
    with pytest.raises(CompressorError, match="window"):
        job(model, rows(60, 16), window="0..")


@pytest.mark.parametrize("method", ["pruned", "deep_compression", "sparse_fc"])
def test_more_weights_than_there_are_are_refused_in_words(method: str) -> None:
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16))
    with pytest.raises(CompressorError, match=f"method '{method}': count=9999 is more than the 256 weights"):
        compressor.compress(model, method, data=rows(60, 16), epochs=0, settings={"count": 9999}, target=("*",))


class Eight(nn.Module):
    """A network for eight examples at once, with an activation that is a plain function call."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(torch.relu(self.up(x))).reshape(8, -1)


def test_a_graph_of_one_batch_size_has_no_windows_over_function_calls() -> None:
    asked = make_recipe(method="acdc", settings={"relu": True, "depth": 2}, input_shape={"x": (1, 16)}, target=("*",))
    report = plan_only(asked, model=Eight().eval())
    assert [row.sites for row in report.layers] == [["up"], ["down"]]
    assert any("no window goes over an activation that is a plain function call" in note for note in report.notes)
