"""`--stream` from ONNX to ONNX: what the job in memory makes, with one mapped weight after the other."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import Tiny, environment
from onnx import TensorProto, helper, numpy_helper

from compressor import CompressorError
from compressor.measure import ort_session
from compressor.pipeline import compress, make_recipe
from compressor.stream import stream
from compressor_converters.load import load_model

pytestmark = pytest.mark.slow

WIDTH = 24


def write(path: Path, layers: int, width: int = WIDTH, *, last: str = "Softmax") -> Path:
    """Dense maps with an activation after each, their weights in a file beside ``path``."""
    rng = np.random.default_rng(0)
    nodes, stored, value = [], [], "x"
    for i in range(layers):
        stored.append(
            numpy_helper.from_array((rng.normal(size=(width, width)) / width**0.5).astype(np.float32), f"w{i}")
        )
        nodes.append(helper.make_node("MatMul", [value, f"w{i}"], [f"m{i}"], name=f"fc{i}"))
        nodes.append(helper.make_node("Tanh", [f"m{i}"], [f"a{i}"]))
        value = f"a{i}"
    nodes.append(helper.make_node(last, [value], ["y"]))
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", width]) for name in "xy")
    graph = helper.make_graph(nodes, "g", [x], [y], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(path), save_as_external_data=True, location=f"{path.name}.data", size_threshold=0)
    return path


def recipe(path: Path, **options: Any) -> Any:
    given = {"model": str(path), "method": "svd", "settings": {"rank": 6}, "stream": True}
    return make_recipe(**{**given, **options})


@pytest.mark.parametrize(("name", "settings"), [("svd", {"rank": 6}), ("monarch", {}), ("acdc", {"depth": 2})])
def test_the_file_does_what_that_of_the_job_in_memory_does(tmp_path: Path, name: str, settings: dict[str, Any]) -> None:
    path = write(tmp_path / "net.onnx", 3)
    report = stream(recipe(path, method=name, settings=settings, ignore=("fc1",)), tmp_path / "streamed")
    assert [row.method for row in report.layers] == [name, None, name]
    whole = compress(path, name, settings=settings, ignore=("fc1",), window="off", output=tmp_path / "whole").report
    assert report.before.params == whole.before.params
    assert report.after.params == whole.after.params
    x = np.random.default_rng(1).normal(size=(5, WIDTH)).astype(np.float32)
    outputs = [ort_session(tmp_path / which / "model.onnx").run(None, {"x": x})[0] for which in ("streamed", "whole")]
    np.testing.assert_allclose(*outputs, rtol=1e-3, atol=1e-5)
    kept = onnx.load(tmp_path / "streamed" / "model.onnx").graph.initializer
    original = next(t for t in onnx.load(path).graph.initializer if t.name == "w1")
    (same,) = (t for t in kept if t.name == "w1")
    assert numpy_helper.to_array(same).tobytes() == numpy_helper.to_array(original).tobytes()


def test_the_command_streams_a_graph(tiny: Tiny, tmp_path: Path) -> None:
    path, out = write(tmp_path / "net.onnx", 2), str(tmp_path / "out")
    said = tiny.call(str(path), "--method", "svd", "--set", "rank=6", "--stream", "-o", out).stdout
    assert "streamed" in said
    report = json.loads(tiny.call("report", out, "--json").stdout)
    assert report["after"]["size_bytes"]["model.onnx"] < report["before"]["size_bytes"]["model.onnx"]
    again = tiny.call("--recipe", f"{out}/recipe.yaml", "-o", str(tmp_path / "again"), "--quiet")
    assert again.returncode == 0
    assert (tmp_path / "again" / "model.onnx").read_bytes() == Path(out, "model.onnx").read_bytes()


def test_the_digest_of_a_graph_depends_on_its_external_data(tmp_path: Path) -> None:
    path = write(tmp_path / "net.onnx", 1)
    before = load_model(str(path)).sha256
    assert load_model(str(path)).sha256 == before
    data = bytearray((tmp_path / "net.onnx.data").read_bytes())
    data[0] ^= 1
    (tmp_path / "net.onnx.data").write_bytes(data)
    assert load_model(str(path)).sha256 != before


def test_a_graph_that_cannot_be_streamed_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    path = write(tmp_path / "net.onnx", 2)
    (tmp_path / "net.onnx.data").write_bytes(np.full(2 * WIDTH * WIDTH, np.nan, np.float32).tobytes())
    with pytest.raises(CompressorError, match="'fc0' holds numbers that are NaN"):
        stream(recipe(path), tmp_path / "out")
    path = write(tmp_path / "other.onnx", 2)
    with pytest.raises(CompressorError, match="fitted to samples"):
        stream(recipe(path, method="acdc", settings={"depth": 2, "relu": True}), tmp_path / "out")
    with pytest.raises(CompressorError, match="there is no such file"):
        stream(recipe(tmp_path / "none.onnx"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_file_that_does_something_else_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from compressor import stream_graph

    save = stream_graph.save_network

    def wrong(network: Any, path: Path) -> None:
        save(network, path)
        proto = onnx.load(path)
        for tensor in proto.graph.initializer:
            if tensor.name.startswith("compressor/"):
                tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * 1.01, tensor.name))
        path.write_bytes(proto.SerializeToString())

    monkeypatch.setattr(stream_graph, "save_network", wrong)
    with pytest.raises(CompressorError, match="differs from the model in memory"):
        stream(recipe(write(tmp_path / "net.onnx", 2)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


PEAK = """
from pathlib import Path
import torch
torch.set_num_threads(1)
from compressor.pipeline import make_recipe
from compressor.stream import stream
how = {"method": "monarch", "stream": True, "threads": 1}
stream(make_recipe(model="small.onnx", **how), Path("first"))
def held(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))
Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here on
before = held("VmRSS:")
stream(make_recipe(model="wide.onnx", **how), Path("out"))
print(held("VmHWM:") - before)
"""


def test_memory_is_that_of_some_layers_and_not_of_the_model(tmp_path: Path) -> None:
    write(tmp_path / "small.onnx", 2)  # what is imported and made once is not counted
    write(tmp_path / "wide.onnx", 40, 1024)
    size = (tmp_path / "wide.onnx.data").stat().st_size
    freed_at_once = {**environment(), "MALLOC_MMAP_THRESHOLD_": str(1 << 18)}  # what is freed goes back to the system
    done = subprocess.run(
        [sys.executable, "-c", PEAK], cwd=tmp_path, env=freed_at_once, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert size > 150_000_000
    assert int(done.stdout.splitlines()[-1]) < 0.75 * size


@pytest.mark.parametrize("ignore", [(), ("fc1",)])
def test_bytes_are_those_of_the_graph_with_its_data_before_and_after(tmp_path: Path, ignore: tuple[str, ...]) -> None:
    path, out = write(tmp_path / "net.onnx", 3), tmp_path / "out"
    report = stream(recipe(path, ignore=ignore), out)
    sizes = [
        {"model.onnx": sum(file.stat().st_size for file in (graph, Path(f"{graph}.data")) if file.exists())}
        for graph in (path, out / "model.onnx")
    ]
    assert [report.before.size_bytes, report.after.size_bytes] == sizes
    assert (out / "model.onnx.data").exists() == bool(ignore)  # what is kept dense stays where it was
