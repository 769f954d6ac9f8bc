"""`compress export`: each format does what the folder's network does, in full, dense and half precision."""

from __future__ import annotations

import contextlib
import copy
import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from conftest import NETS, Tiny
from safetensors.torch import load_file
from torch import nn

from compressor import CompressorError, load
from compressor.export import FORMATS, export
from compressor.measure import ort_session, run_ort
from compressor.verify import run_onnx
from compressor_converters import executorch_file, ort_file, storage
from compressor_converters.folder import load_folder
from compressor_converters.pt2 import load_pt2

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def done(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished folder of a linear method, made without data."""
    return finished(tiny, tmp_path_factory.mktemp("done") / "small", "svd", "rank=6")


def finished(tiny: Tiny, out: Path, method: str, setting: str) -> Path:
    """The folder ``out`` of a job without data on two of the three layers."""
    tiny.call(
        "weights.pth", "--arch", "nets.py:mlp", "--method", method, "--set", setting, "--input-shape", "1,24",
        "--target", "0", "--target", "3", "-o", str(out), "--quiet",
    )  # fmt: skip
    return out


def rows() -> torch.Tensor:
    return torch.randn(5, 24, generator=torch.Generator().manual_seed(3))


def network() -> nn.Module:
    scope: dict = {}
    exec(NETS, scope)
    return scope["mlp"]().eval()


@torch.no_grad()
def outputs(folder: Path) -> torch.Tensor:
    return load(folder)(rows())


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("to", ["pt2", "onnx", "ort", "safetensors"])
def test_every_format_gives_the_outputs_of_the_folder(done: Path, tmp_path: Path, to: str, dtype: str) -> None:
    made = export(done, to, tmp_path / "out", dtype=dtype)
    assert made.checks
    out, expected = tmp_path / "out", outputs(done)
    if to == "pt2":
        got = load_pt2(out / "model.pt2").module()(rows())
    elif to == "safetensors":
        (out / "model.pt2").write_bytes((done / "model.pt2").read_bytes())
        got = load_folder(out)(rows())
    else:
        got = run_onnx(out / {"onnx": "model.onnx", "ort": "model.ort"}[to])((rows(),))
    bound = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 2e-2}[dtype]
    off = float((got - expected).abs().max() / expected.abs().max())
    assert off <= bound
    if dtype != "float32":
        assert off > 1e-6, "nothing was rounded"
        assert made.error == pytest.approx(json.loads((out / "export.json").read_text())["error"])
        assert 1e-6 < made.error < bound


@pytest.mark.parametrize(("to", "file"), [("pt2", "model.pt2"), ("onnx", "model.onnx"), ("safetensors", None)])
def test_half_precision_halves_the_numbers(tmp_path: Path, to: str, file: str | None) -> None:
    name = file or "model.safetensors"
    folder = wide(tmp_path)
    whole = export(folder, to, tmp_path / "a").size_bytes[name]
    half = export(folder, to, tmp_path / "b", dtype="float16").size_bytes[name]
    assert half < 0.62 * whole


def wide(tmp_path: Path) -> Path:
    """A folder whose numbers outweigh everything else in its files."""
    from compressor import compress

    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 200))
    compress(
        net, method="svd", settings={"rank": 100}, input_shape={"input": (1, 256)}, output=tmp_path / "wide",
        target=("*",),
    )  # fmt: skip
    return tmp_path / "wide"


@pytest.mark.parametrize("to", ["safetensors", "pt2", "onnx", "ort"])
def test_the_dense_model_has_only_plain_layers_and_the_same_outputs(done: Path, tiny: Tiny, tmp_path: Path, to: str):
    tiny.call("export", str(done), "--to", to, "--dense", "-o", str(tmp_path / "out"))
    out = tmp_path / "out"
    if to == "safetensors":
        net = network()
        net.load_state_dict(load_file(out / "model.safetensors"))
        got = net(rows())
    elif to == "pt2":
        got = load_pt2(out / "model.pt2").module()(rows())
    else:
        got = run_onnx(out / ("model.onnx" if to == "onnx" else "model.ort"))((rows(),))
    torch.testing.assert_close(got, outputs(done), rtol=1e-4, atol=1e-5)
    if to == "onnx":
        assert {node.op_type for node in onnx.load(str(out / "model.onnx")).graph.node} <= {"Gemm", "Relu", "Identity"}
    assert not (out / ort_file.NATIVE).exists()


def test_the_command_says_sizes_checks_and_the_error(done: Path, tiny: Tiny, tmp_path: Path) -> None:
    said = tiny.call("export", str(done), "--to", "onnx", "--dtype", "float16", "-o", str(tmp_path / "out")).stdout
    assert "verified  model.onnx" in said
    assert "stored as float16: the outputs are off" in said
    plain = tiny.call("export", str(done), "--to", "ort", "-o", str(tmp_path / "ort"), "--json").stdout
    assert json.loads(plain)["size_bytes"]["model.ort"] > 0


def test_a_stock_ort_file_needs_no_other_node_than_standard_ones(done: Path, tmp_path: Path) -> None:
    export(done, "ort", tmp_path / "out")
    session = ort_session(tmp_path / "out" / "model.ort")
    got = torch.from_numpy(np.asarray(run_ort(session, (rows(),))[0]))
    torch.testing.assert_close(got, outputs(done), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("to", sorted(FORMATS))
def test_a_difference_is_an_error_and_leaves_nothing(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str
) -> None:
    """Numbers that are rounded in the file and not in memory, and of graphs, which may round more, other numbers."""
    from compressor import export as module

    def not_rounded(model: nn.Module, dtype: torch.dtype) -> nn.Module:
        model = copy.deepcopy(model)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.1 if to in ("onnx", "ort") else 1)
        return model

    monkeypatch.setattr(storage, "rounded", not_rounded)
    if to in ("hf", "pte"):
        pytest.skip("needs a model of transformers, or executorch")
    with pytest.raises(CompressorError, match="differs from the model in memory"):
        module.export(done, to, tmp_path / "out", dtype="bfloat16")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--to", "tflite"), "there is no format 'tflite'"),
        (("--to", "onnx", "--dtype", "int4"), "there is no storage type 'int4'"),
        (("--to", "hf"), "no network of transformers"),
        (("--to", "safetensors", "--dense", "--original", "nothing.pth"), "there is no such file"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    done: Path, tiny: Tiny, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    out = tiny.call("export", str(done), *arguments, "-o", str(tmp_path / "out"), status=2)
    assert said in out.stderr
    assert out.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_without_executorch_it_is_said_what_is_missing(
    done: Path, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "executorch", None)  # as where it is not installed
    monkeypatch.setitem(sys.modules, "executorch.exir", None)
    said = tiny.call("export", str(done), "--to", "pte", "-o", str(tmp_path / "out"), status=2).stderr
    assert "model.pte needs the package executorch" in said
    assert "structured-compress[pte]" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dense", [False, True])
def test_a_program_for_executorch_gives_the_outputs_of_the_folder(
    done: Path, tiny: Tiny, tmp_path: Path, dense: bool
) -> None:
    pytest.importorskip("executorch.runtime", reason="needs the extra pte")
    with contextlib.chdir(tiny.folder):
        made = export(done, "pte", tmp_path / "out", dense=dense)
    assert [one.file for one in made.checks] == ["model.pte"]
    got = executorch_file.run_pte(tmp_path / "out" / "model.pte")((rows(),))
    torch.testing.assert_close(got, outputs(done), rtol=1e-4, atol=1e-5)


def test_numbers_beyond_float16_are_refused_by_name() -> None:
    net = network()
    with torch.no_grad():
        net[3].weight[0, 0] = 1e6
    with pytest.raises(CompressorError, match=r"'3.weight' holds numbers up to 1e\+06.*bfloat16"):
        storage.rounded(net, torch.float16)
    assert float(storage.rounded(net, torch.bfloat16)[3].weight[0, 0]) == pytest.approx(1e6, rel=1e-2)


def test_a_nonlinear_block_cannot_be_written_dense(tiny: Tiny, tmp_path: Path) -> None:
    tiny.call(
        "weights.pth", "--arch", "nets.py:mlp", "--method", "acdc", "--set", "relu=true", "--set", "depth=2",
        "--input-shape", "1,24", "--target", "0", "--set", "window=off", "-o", str(tmp_path / "small"), "--quiet",
    )  # fmt: skip
    with contextlib.chdir(tiny.folder), pytest.raises(CompressorError, match="nonlinearity inside"):
        export(tmp_path / "small", "onnx", tmp_path / "out", dense=True, original=str(tiny.folder / "weights.pth"))


def test_an_export_is_replaced_only_with_force(done: Path, tmp_path: Path) -> None:
    export(done, "pt2", tmp_path / "out")
    with pytest.raises(CompressorError, match="--force"):
        export(done, "onnx", tmp_path / "out")
    export(done, "onnx", tmp_path / "out", force=True)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"model.onnx", "export.json"}


@pytest.fixture(scope="module")
def pruned(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished folder whose layers hold ``values``."""
    return finished(tiny, tmp_path_factory.mktemp("pruned") / "small", "pruned", "density=0.2")


@pytest.mark.parametrize(("folder", "dense"), [("pruned", False), ("pruned", True), ("done", True)])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("to", ["pt2", "onnx", "safetensors"])
def test_sparse_and_dense_layers_are_halved_too(
    request: pytest.FixtureRequest, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str, dtype: str,
    folder: str, dense: bool,
) -> None:  # fmt: skip
    monkeypatch.chdir(tiny.folder)
    made = export(request.getfixturevalue(folder), to, tmp_path / "out", dtype=dtype, dense=dense)
    assert made.checks


def test_a_parameter_held_in_half_precision_is_given_in_full_whatever_its_name() -> None:
    module = nn.Module()
    module.values = nn.Parameter(torch.rand(100))
    held = storage.held_in(module, torch.float16)
    assert held.values.dtype == torch.float32
    assert {name: value.dtype for name, value in held.state_dict().items()} == {"values_float16": torch.float16}
    torch.testing.assert_close(held.values, module.values.half().float())
