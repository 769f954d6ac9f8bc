"""How graphs are run: no part twice while the sites are walked, and never with more memory than there is room for."""

from __future__ import annotations

import resource
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from compressor import CompressorError, compress
from compressor.layers import build, replace
from compressor.prefix import Prefix, rows_at
from compressor.verify import check
from compressor_converters.load import load_model
from compressor_converters.onnx_in import OnnxNetwork, room
from compressor_converters.onnx_in.segment import Segment

node = helper.make_node
LAYERS = 6


def saved(
    path: Path, nodes: list[onnx.NodeProto], stored: dict[str, np.ndarray], *, width: int = 8,
    kind: int = TensorProto.FLOAT, rows: int | str = "n",
) -> Path:  # fmt: skip
    x, y = (helper.make_tensor_value_info(name, kind, [rows, width]) for name in "xy")
    arrays = [numpy_helper.from_array(array, name) for name, array in stored.items()]
    graph = helper.make_graph(nodes, "g", [x], [y], arrays)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


def residual(tmp_path: Path, rows: int | str = "n", weights: int = LAYERS) -> OnnxNetwork:
    """Six dense maps, each with a part of the graph before it, and a value that lives from the first to the last.

    With fewer ``weights`` the maps are called several times each.
    """
    rng = np.random.default_rng(0)
    nodes, value = [], "x"
    for i in range(LAYERS):
        nodes += [node("Sin", [value], [f"s{i}"])]
        nodes += [node("MatMul", [f"s{i}", f"w{i % weights}"], [f"m{i}"], name=f"fc{i}")]
        nodes += [node("Add", [f"m{i}", "x" if i % 2 else value], [f"a{i}" if i < LAYERS - 1 else "y"])]
        value = f"a{i}"
    stored = {f"w{i}": rng.normal(size=(8, 8)).astype(np.float32) for i in range(weights)}
    model = load_model(str(saved(tmp_path / "net.onnx", nodes, stored, rows=rows))).model
    assert isinstance(model, OnnxNetwork)
    model(torch.randn(3, 8))  # any number of rows: settled at the first call
    return model


@pytest.mark.parametrize(("rows", "passes"), [("n", 2), (1, 7), (2, 4)])
def test_rows_at_the_sites_are_those_of_whole_passes_and_no_part_runs_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int | str, passes: int
) -> None:
    model = residual(tmp_path, rows)
    batches = [(torch.randn(4, 8),), (torch.randn(3, 8),)]
    names = [f"fc{i}" for i in range(LAYERS)]
    runs: Counter[Any] = Counter()
    run = Segment.run
    expected, found = [], []
    prefix = Prefix(model)
    for name in names:
        expected.append([rows_at(model, name, batch, every=rows != "n") for batch in batches])
        with monkeypatch.context() as patch:
            patch.setattr(Segment, "run", lambda self, values: (runs.update([id(self)]), run(self, values))[1])
            asked = enumerate(batches)
            found.append([prefix.rows_at(name, batch, number, every=rows != "n") for number, batch in asked])
        replace(model, name, build("svd", 8, 8, bias=False, config={"rank": 2}))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert len(runs) == LAYERS
    assert set(runs.values()) == {passes}


@pytest.mark.parametrize("rows", ["n", 2])
@pytest.mark.parametrize("output", [False, True])
def test_all_calls_of_a_map_count_and_those_of_others_are_not_run_again(
    tmp_path: Path, rows: int | str, output: bool
) -> None:
    model = residual(tmp_path, rows, weights=LAYERS // 2)
    prefix, batch = Prefix(model), (torch.randn(4, 8),)
    for name in ("fc0", "fc1", "fc2", "fc2"):
        expected = rows_at(model, name, batch, output=output, every=True)
        found = prefix.rows_at(name, batch, 0, output=output, every=True)
        assert len(found) == 2 * 4  # twice each
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert {one.step for one in prefix.frontiers[0]} == {model.steps_calling("fc2")[0]}
    first = rows_at(model, "fc2", batch, output=output)
    torch.testing.assert_close(prefix.rows_at("fc2", batch, 0, output=output), first, rtol=0, atol=0)


def test_a_site_before_the_last_one_other_inputs_and_no_room_start_anew(tmp_path: Path) -> None:
    model = residual(tmp_path)
    one, other = (torch.randn(4, 8),), (torch.randn(4, 8),)
    prefix = Prefix(model)
    for name, batch in (("fc3", one), ("fc1", one), ("fc2", other), ("fc4", other)):
        torch.testing.assert_close(prefix.rows_at(name, batch, 0), rows_at(model, name, batch), rtol=0, atol=0)
    narrow = Prefix(model, kept_bytes=140)  # the batch is 128 bytes
    for name in ("fc1", "fc2"):
        torch.testing.assert_close(narrow.rows_at(name, one, 0), rows_at(model, name, one), rtol=0, atol=0)
    assert [one.values for one in narrow.frontiers[0]] == [None]


def test_no_more_is_kept_of_all_passes_of_all_batches_than_there_is_room_for(tmp_path: Path) -> None:
    model = residual(tmp_path, rows=2)
    prefix = Prefix(model, kept_bytes=128 + 200)  # a batch is 128 bytes, and so are two values of 2 rows
    for number in range(2):
        prefix.rows_at("fc3", (torch.randn(4, 8),), number, every=True)
    kept = [[one.kept_bytes for one in prefix.frontiers[number]] for number in range(2)]
    assert kept == [[128, 0], []]
    assert list(prefix.inputs) == [0]


def test_a_constant_turned_without_saying_how_is_a_weight(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32)
    nodes = [
        node("Constant", [], ["v"], value=numpy_helper.from_array(values)), node("Identity", ["v"], ["same"]),
        node("Transpose", ["same"], ["turned"]), node("MatMul", ["x", "turned"], ["y"], name="fc"),
    ]  # fmt: skip
    model = load_model(str(saved(tmp_path / "net.onnx", nodes, {}))).model
    torch.testing.assert_close(model.get_submodule("fc").weight, torch.from_numpy(values))


def greedy(path: Path, kind: str) -> OnnxNetwork:
    """A graph of a few bytes that asks for 1 GB, which is there: by a constant, by a shape, by a loop."""
    stored = {
        "w": np.ones((8, 8), np.float32),
        "axis": np.array([0]),
        "n": np.array([2**28]),
        "k": np.array([2**31, 1]),
    }
    last = [node("ReduceSum", ["big", "axis"], ["sum"], keepdims=0), node("MatMul", ["x", "w"], ["m"])]
    last += [node("Add", ["m", "sum"], ["y"])]
    first = [node("ConstantOfShape", ["n"], ["big"])]
    if kind == "shape":
        first = [node("Shape", ["x"], ["size"]), node("Mul", ["size", "k"], ["n2"])]
        first += [node("ConstantOfShape", ["n2"], ["big"])]
    if kind == "loop":
        value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None]) for name in ("v", "v2")]
        flags = [helper.make_tensor_value_info(name, TensorProto.BOOL, []) for name in ("go", "go2")]
        count = helper.make_tensor_value_info("i", TensorProto.INT64, [])
        body = helper.make_graph(
            [node("Concat", ["v", "v"], ["v2"], axis=0), node("Identity", ["go"], ["go2"])], "body",
            [count, flags[0], value[0]], [flags[1], value[1]],
        )  # fmt: skip
        stored |= {"times": np.array(18), "yes": np.array(True), "start": np.ones(1024, np.float32)}
        first = [node("Loop", ["times", "yes", "start"], ["big"], body=body)]
    read = {name for one in [*first, *last] for name in one.input}
    model = load_model(str(saved(path, [*first, *last], {k: v for k, v in stored.items() if k in read}))).model
    assert isinstance(model, OnnxNetwork)
    return model


@pytest.mark.parametrize("kind", ["constant", "shape", "loop"])
def test_a_graph_that_asks_for_too_much_memory_is_refused(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "LEAST", 200 << 20)
    model = greedy(tmp_path / "net.onnx", kind)
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with pytest.raises(room.RoomError, match=r"net.onnx: running it takes more than 0.2 GB"):
        model(torch.randn(4, 8))
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


def test_what_takes_too_much_memory_in_a_large_batch_is_not_timed_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each example is spread over 32 MB: four of them fit, thirty-two do not."""
    nodes = [
        node("MatMul", ["x", "w"], ["m"], name="fc"), node("Unsqueeze", ["m", "last"], ["each"]),
        node("Expand", ["each", "wide"], ["many"]), node("Sin", ["many"], ["waves"]),
        node("ReduceMean", ["waves"], ["y"], axes=[2], keepdims=0),
    ]  # fmt: skip
    stored = {"w": np.ones((8, 8), np.float32), "last": np.array([2]), "wide": np.array([1, 1, 2**20])}
    path = saved(tmp_path / "net.onnx", nodes, stored)
    monkeypatch.setattr(room, "LEAST", 400 << 20)
    x = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
    result = compress(path, "svd", settings={"rank": 2}, target=("*",), data=x, epochs=0, output=tmp_path / "out")
    assert set(result.report.after.latency_ms["onnxruntime"]) == {"1"}
    assert any("not timed at batch 32: " in note for note in result.report.notes)


def test_the_room_grows_with_the_model_and_other_errors_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "LEAST", 1)
    with room.bounded(tmp_path, 10 << 20):
        assert len(bytearray(200 << 20)) == 200 << 20
    with pytest.raises(room.RoomError), room.bounded(tmp_path, 1 << 20):
        bytearray(200 << 20)
    with pytest.raises(RuntimeError, match="another"), room.bounded(tmp_path, 0):
        raise RuntimeError("another")


def fixed_rows(tmp_path: Path, rows: int) -> Path:
    """A Gemm that takes ``rows`` examples a call, no more and no less."""
    path = saved(tmp_path / "net.onnx", [node("MatMul", ["x", "w"], ["y"], name="fc")], {"w": random(8, 8)})
    proto = onnx.load(str(path))
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = rows
    path.write_bytes(proto.SerializeToString())
    return path


def random(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng(1).normal(size=shape).astype(dtype)


def test_one_call_of_a_graph_for_several_rows_is_filled_up_to_them(tmp_path: Path) -> None:
    model = load_model(fixed_rows(tmp_path, 3)).model
    x = torch.randn(4, 8)
    (one,) = model.one_call((x[:1],))
    assert torch.equal(one, x[:1].expand(3, 8))
    assert model.one_call((x,)) is None


def test_a_graph_for_several_rows_is_compressed_and_timed_at_one_example(tmp_path: Path) -> None:
    path = fixed_rows(tmp_path, 3)
    result = compress(path, "svd", settings={"rank": 2}, target=("*",), data=random(7, 8), epochs=0)
    for side in (result.report.before, result.report.after):
        assert set(side.latency_ms["onnxruntime"]) == {"1"}


def test_a_graph_without_inputs_is_refused(tmp_path: Path) -> None:
    nodes = [node("MatMul", ["c", "w"], ["y"], name="fc")]
    path = saved(tmp_path / "net.onnx", nodes, {"c": random(4, 8), "w": random(8, 8)})
    proto = onnx.load(str(path))
    del proto.graph.input[:]
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(CompressorError, match=r"net\.onnx: the graph has no inputs"):
        load_model(path)


@pytest.mark.parametrize("kind", ["half precision inside and outside", "inside only"])
def test_a_graph_in_half_precision_is_compressed_within_its_own_rounding(kind: str, tmp_path: Path) -> None:
    outside = kind != "inside only"
    nodes = [node("MatMul", ["h0", "w0"], ["h1"], name="a"), node("Relu", ["h1"], ["h2"], name="r"),
             node("MatMul", ["h2", "w1"], ["h3"], name="b")]  # fmt: skip
    nodes = [
        node("Identity", ["x"], ["h0"]) if outside else node("Cast", ["x"], ["h0"], to=TensorProto.FLOAT16), *nodes,
        node("Identity", ["h3"], ["y"]) if outside else node("Cast", ["h3"], ["y"], to=TensorProto.FLOAT),
    ]  # fmt: skip
    stored = {f"w{i}": random(64, 64, dtype=np.float16) for i in range(2)}
    type_outside = TensorProto.FLOAT16 if outside else TensorProto.FLOAT
    path = saved(tmp_path / "net.onnx", nodes, stored, width=64, kind=type_outside)
    report = compress(path, "svd", settings={"rank": 2}, target=("*",)).report
    assert {one.against for one in report.verification} == {"model in memory (half precision)"}
    assert all(1e-4 < one.max_rel < 5e-3 for one in report.verification if "parts" in one.file)


def test_a_file_that_is_off_by_more_than_half_precision_is_refused() -> None:
    x = torch.randn(4, 8)
    with pytest.raises(CompressorError, match=r"\(half precision\) by 2\.00e-02 of the largest output, over 0\.01"):
        check("model.onnx", torch.nn.Identity(), (x,), lambda batch: batch[0] * 1.02, half=True)
