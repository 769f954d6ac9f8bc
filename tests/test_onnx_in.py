"""ONNX files in: dense maps behind every pattern are found, replaced and written back, all else stays as it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from compressor import CompressorError, compress
from compressor.candidate import NATIVE
from compressor.layers import build
from compressor_converters.load import load_model
from compressor_converters.onnx_in import OnnxNetwork, check_untouched, macs_outside, read_onnx, save_network
from compressor_kernels import native

pytestmark = pytest.mark.slow

RNG = np.random.default_rng(0)
IN, OUT = 24, 20


def weight(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    """Of rank 3, so that a low rank map can be exact."""
    flat = (int(np.prod(shape[1:])), 3) if len(shape) > 1 else (0, 0)
    if len(shape) == 1:
        return RNG.normal(size=shape).astype(dtype)
    return (RNG.normal(size=(shape[0], 3)) @ RNG.normal(size=flat).T / 5).reshape(shape).astype(dtype)


def model(
    nodes: list[onnx.NodeProto], stored: dict[str, np.ndarray], *, opset: int = 17, shape: tuple[Any, ...] = ("n", IN),
    outputs: dict[str, tuple[Any, ...]] | None = None, ir: int = 8, kind: int = TensorProto.FLOAT,
) -> onnx.ModelProto:  # fmt: skip
    outputs = outputs or {"y": ("n", OUT)}
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", kind, list(shape))],
        [helper.make_tensor_value_info(name, kind, list(sizes)) for name, sizes in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in stored.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir, producer_name="test")
    helper.set_model_props(made, {"author": "somebody", "labels": "a,b"})
    return made


def written(proto: onnx.ModelProto, tmp_path: Path, name: str = "net.onnx") -> Path:
    path = tmp_path / name
    onnx.checker.check_model(proto)
    path.write_bytes(proto.SerializeToString())
    return path


def run(path: Path, **inputs: np.ndarray) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()  # with all optimisations, dequantised weights are multiplied in 8 bits
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]).run(None, inputs)


def node(kind: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, [output], name=attributes.pop("name", f"{kind}_{output}"), **attributes)


def quantized() -> onnx.ModelProto:
    scale = RNG.uniform(0.01, 0.02, OUT).astype(np.float32)
    stored = {
        "q": RNG.integers(-100, 100, (IN, OUT)).astype(np.int8), "s": scale, "z": np.zeros(OUT, np.int8),
        "b": weight(OUT),
    }  # fmt: skip
    nodes = [node("DequantizeLinear", ["q", "s", "z"], "w", axis=1), node("MatMul", ["x", "w"], "h"),
             node("Add", ["b", "h"], "y")]  # fmt: skip
    return model(nodes, stored)


def behind_chain() -> onnx.ModelProto:
    nodes = [
        node("Identity", ["w"], "same"),
        node("Transpose", ["same"], "turned", perm=[1, 0]),
        node("Cast", ["turned"], "cast", to=TensorProto.FLOAT),
        node("MatMul", ["x", "cast"], "h"),
        node("Add", ["h", "b"], "y"),
    ]
    return model(nodes, {"w": weight(OUT, IN, dtype=np.float64), "b": weight(OUT)})


def in_constant_node() -> onnx.ModelProto:
    value = numpy_helper.from_array(weight(IN, OUT))
    return model([helper.make_node("Constant", [], ["w"], value=value), node("MatMul", ["x", "w"], "y")], {})


def convolution() -> onnx.ModelProto:
    nodes = [node("Conv", ["x", "w", "b"], "y", strides=[2, 1], kernel_shape=[1, 1])]
    sizes = {"y": ("n", OUT, 3, 4)}
    return model(nodes, {"w": weight(OUT, IN, 1, 1), "b": weight(OUT)}, shape=("n", IN, 5, 4), outputs=sizes)


def half() -> onnx.ModelProto:
    nodes = [node("Gemm", ["x", "w", "b"], "y", transB=1)]
    stored = {"w": weight(OUT, IN, dtype=np.float16), "b": weight(OUT, dtype=np.float16)}
    return model(nodes, stored, kind=TensorProto.FLOAT16)


def scaled() -> onnx.ModelProto:
    nodes = [node("Gemm", ["x", "w", "b"], "y", alpha=0.5, beta=2.0)]
    return model(nodes, {"w": weight(IN, OUT), "b": weight(1, OUT)})


def three_axes() -> onnx.ModelProto:
    nodes = [node("MatMul", ["x", "w"], "h"), node("Add", ["h", "b"], "y")]
    stored = {"w": weight(IN, OUT), "b": weight(OUT)}
    return model(nodes, stored, shape=("n", "t", IN), outputs={"y": ("n", "t", OUT)})


PATTERNS: dict[str, Callable[[], onnx.ModelProto]] = {
    "DequantizeLinear": quantized, "Identity, Transpose, Cast": behind_chain, "Constant": in_constant_node,
    "1x1 Conv with strides": convolution, "half precision": half, "Gemm with alpha and beta": scaled,
    "three axes": three_axes,
}  # fmt: skip


def given(proto: onnx.ModelProto, rows: int = 5) -> np.ndarray:
    dims = [d.dim_value or {"n": rows, "t": 3}[d.dim_param] for d in proto.graph.input[0].type.tensor_type.shape.dim]
    kind = helper.tensor_dtype_to_np_dtype(proto.graph.input[0].type.tensor_type.elem_type)
    return np.random.default_rng(1).normal(size=dims).astype(kind)


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("method", ["svd", "acdc"])
def test_each_pattern_is_one_dense_map_that_can_be_replaced(name: str, method: str, tmp_path: Path) -> None:
    proto = PATTERNS[name]()
    path = written(proto, tmp_path)
    network = OnnxNetwork(read_onnx(path))
    (call,) = network.calls
    linear = network.get_submodule(call.module)
    x = given(proto)
    expected = run(path, x=x)[0]
    low = 2e-3 if expected.dtype == np.float16 else 1e-5
    torch.testing.assert_close(network(torch.from_numpy(x)), torch.from_numpy(expected), rtol=low, atol=low)

    torch.manual_seed(0)
    layer = build(method, IN, OUT, bias=linear.bias is not None, config={"rank": 4} if method == "svd" else {})
    *owner, last = call.module.split(".")
    setattr(network.get_submodule(".".join(owner)), last, layer)
    save_network(network.eval(), tmp_path / "out.onnx")
    check_untouched(network, tmp_path / "out.onnx")
    onnx.checker.check_model(onnx.load(tmp_path / "out.onnx"))
    with torch.no_grad():
        wanted = network(torch.from_numpy(x))
    got = torch.from_numpy(run(tmp_path / "out.onnx", x=x)[0])
    assert not torch.allclose(got.float(), torch.from_numpy(expected).float(), rtol=0.01, atol=0.01)
    torch.testing.assert_close(got, wanted, rtol=10 * low, atol=10 * low)
    kept = {tensor.name for tensor in onnx.load(tmp_path / "out.onnx").graph.initializer}
    assert kept & {"w", "q", "s", "z", "b"} == set(), "the weights of the map are still there"


def net(opset: int = 17, ir: int = 8) -> onnx.ModelProto:
    """``Gemm - Relu - MatMul + Add``, an odd one out that stays, and two outputs."""
    nodes = [
        node("Gemm", ["x", "w1", "b1"], "h1", transB=1, name="/fc1/Gemm"),
        node("Relu", ["h1"], "a1", name="/act/Relu"),
        node("MatMul", ["a1", "w2"], "h2", name="/fc2/MatMul"),
        node("Add", ["h2", "b2"], "z", name="/fc2/Add"),
        node("Softmax", ["z"], "y", name="/Softmax"),
        node("Mul", ["a1", "scale"], "features", name="/Mul"),
    ]
    stored = {"w1": weight(32, IN), "b1": weight(32), "w2": weight(32, OUT), "b2": weight(OUT), "scale": weight(1)}
    outputs = {"y": ("n", OUT), "features": ("n", 32)}
    return model(nodes, stored, opset=opset, ir=ir, outputs=outputs)


@pytest.mark.parametrize("opset", [9, 11, 12, 13, 15, 17, 18, 21])
def test_a_file_keeps_its_opset_its_face_and_its_other_nodes(opset: int, tmp_path: Path) -> None:
    path = written(net(opset), tmp_path)
    x = np.random.default_rng(2).normal(size=(300, IN)).astype(np.float32)
    method, settings = ("svd", {"rank": 3}) if opset < 11 else ("acdc", {"depth": 1})
    result = compress(path, method, settings=settings, data=x, epochs=1, output=tmp_path / "out")
    made = onnx.load(tmp_path / "out" / "model.onnx")
    assert made.opset_import[0] == helper.make_opsetid("", opset)
    assert {p.key: p.value for p in made.metadata_props} == {"author": "somebody", "labels": "a,b"}
    before = onnx.load(path).graph
    for face in ("input", "output"):
        assert list(getattr(made.graph, face)) == list(getattr(before, face))
    names = {one.name: one for one in made.graph.node}
    for kept in ("/act/Relu", "/Softmax", "/Mul"):
        assert names[kept] == next(one for one in before.node if one.name == kept)
    assert "/fc1/Gemm" not in names
    report = result.report
    assert report.after.params is not None
    assert report.after.params < (report.before.params or 0)
    assert report.before.macs == IN * 32 + 32 * OUT
    assert report.after.fidelity is not None
    natively = opset >= 11 and native.library() is not None
    checked = {"model.onnx", "the original in parts"} | ({"model.onnx, native kernels"} if natively else set())
    assert {check.file for check in report.verification} == checked
    timed = {"onnxruntime"} | ({NATIVE} if natively else set())
    assert set(report.after.latency_ms) == set(report.before.latency_ms) == timed


def test_low_rank_weights_are_found_again_and_training_goes_through_the_graph(tmp_path: Path) -> None:
    path = written(net(), tmp_path)
    x = np.random.default_rng(2).normal(size=(600, IN)).astype(np.float32)
    exact = compress(path, "svd", settings={"rank": 3}, data=x, epochs=0)
    assert exact.report.after.fidelity is not None
    assert exact.report.after.fidelity.relative_error < 1e-4
    fitted = compress(path, "svd", settings={"rank": 1}, data=x, epochs=0).report.after.fidelity
    trained = compress(path, "svd", settings={"rank": 1}, data=x, epochs=8).report.after.fidelity
    assert fitted is not None
    assert trained is not None
    assert trained.relative_error < 0.97 * fitted.relative_error


def test_a_block_with_a_nonlinearity_stands_for_a_window(tmp_path: Path) -> None:
    proto = net()
    proto.graph.node.pop()  # without the second reader of the activation, fc1 - act - fc2 is one window
    proto.graph.output.pop()
    path = written(proto, tmp_path)
    x = np.random.default_rng(2).normal(size=(500, IN)).astype(np.float32)
    result = compress(path, "fastfood", data=x, epochs=1, target=("fc1", "fc2"), window="fc1..fc2")
    assert [row.sites for row in result.report.layers] == [["fc1", "fc2"]]
    kinds = [one.op_type for one in onnx.load(result.folder / "model.onnx").graph.node]
    assert "Relu" not in kinds
    assert "Gemm" not in kinds
    assert kinds[-1] == "Softmax"


def shared(second: str = "b") -> onnx.ModelProto:
    nodes = [
        node("MatMul", ["x", "w"], "h1"),
        node("Add", ["h1", "b"], "a1"),
        node("Tanh", ["a1"], "t"),
        node("Gemm", ["t", "w", second], "y"),
    ]
    return model(nodes, {"w": weight(IN, IN), "b": weight(IN), "c": weight(IN)}, outputs={"y": ("n", IN)})


def test_a_shared_weight_becomes_one_layer_at_all_places(tmp_path: Path) -> None:
    result = compress(written(shared(), tmp_path), "svd", settings={"rank": 3})
    (row,) = result.report.layers
    assert row.calls == 2
    assert row.method == "svd"
    graph = onnx.load(result.folder / "model.onnx").graph
    stored = sum(int(np.prod(tensor.dims)) for tensor in graph.initializer)
    assert stored == 2 * 3 * IN + IN + IN  # two factors and a bias once, and "c", which nothing read before either


def test_a_weight_that_something_else_reads_stays_dense(tmp_path: Path) -> None:
    with pytest.raises(CompressorError, match="shares its weight"):
        compress(written(shared("c"), tmp_path), "svd", settings={"rank": 3})
    proto = shared()
    proto.graph.node.extend([node("Unsqueeze", ["t", "i"], "each"), node("Mul", ["each", "w"], "scaled")])
    proto.graph.initializer.append(numpy_helper.from_array(np.array([1]), "i"))
    proto.graph.output.append(helper.make_tensor_value_info("scaled", TensorProto.FLOAT, ["n", IN, IN]))
    with pytest.raises(CompressorError, match=r"shares its weight.*read_by_Mul"):
        compress(written(proto, tmp_path), "svd", settings={"rank": 3})


def test_a_graph_for_one_row_and_one_with_a_state_are_called_once_for_each_example(tmp_path: Path) -> None:
    proto = model([node("Gemm", ["x", "w"], "h"), node("Add", ["h", "state"], "y")], {"w": weight(IN, OUT)},
                  shape=(1, IN), outputs={"y": (1, OUT)})  # fmt: skip
    proto.graph.input.append(helper.make_tensor_value_info("state", TensorProto.FLOAT, [OUT]))
    path = written(proto, tmp_path)
    x = np.random.default_rng(2).normal(size=(7, IN)).astype(np.float32)
    state = np.random.default_rng(3).normal(size=(7, OUT)).astype(np.float32)
    network = load_model(path).model
    with torch.no_grad():
        got = network(torch.from_numpy(x), torch.from_numpy(state))
    expected = np.concatenate([run(path, x=x[i : i + 1], state=state[i])[0] for i in range(7)])
    torch.testing.assert_close(got, torch.from_numpy(expected))
    result = compress(path, "svd", settings={"rank": 2}, data={"x": x, "state": state}, epochs=2)
    assert result.report.before.macs == IN * OUT
    assert result.report.layers[0].calls == 1


def test_macs_beside_the_dense_maps_are_counted(tmp_path: Path) -> None:
    nodes = [node("Conv", ["x", "k"], "h", pads=[1, 1, 1, 1]), node("Conv", ["h", "w"], "y")]
    stored = {"k": weight(6, 2, 3, 3), "w": weight(4, 6, 1, 1)}
    path = written(model(nodes, stored, shape=("n", 2, 5, 7), outputs={"y": ("n", 4, 5, 7)}), tmp_path)
    network = OnnxNetwork(read_onnx(path))
    assert macs_outside(network, (torch.zeros(3, 2, 5, 7),)) == 6 * 2 * 9 * 5 * 7
    assert network.numbers_outside() == 6 * 2 * 9


def test_without_a_gradient_it_is_said_and_the_layers_are_fitted_one_by_one(tmp_path: Path) -> None:
    nodes = [
        node("Gemm", ["x", "w"], "h"),
        helper.make_node("TopK", ["h", "k"], ["y", "places"], name="top"),
    ]
    proto = model(nodes, {"w": weight(IN, OUT), "k": np.array([3])}, outputs={"y": ("n", 3)})
    x = np.random.default_rng(2).normal(size=(100, IN)).astype(np.float32)
    result = compress(written(proto, tmp_path), "svd", settings={"rank": 2}, data=x, epochs=3)
    assert any("not trained as a whole" in note and "TopK" in note for note in result.report.notes)


def test_external_data_is_mapped_and_written_anew_but_never_from_elsewhere(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    onnx.save(net(), folder / "net.onnx", save_as_external_data=True, location="net.bin", size_threshold=0)
    result = compress(folder / "net.onnx", "svd", settings={"rank": 3}, target=("fc1",), output=tmp_path / "out")
    x = np.random.default_rng(2).normal(size=(4, IN)).astype(np.float32)
    moved = (tmp_path / "out").rename(tmp_path / "elsewhere")
    np.testing.assert_allclose(run(moved / "model.onnx", x=x)[0], run(folder / "net.onnx", x=x)[0], atol=1e-5)
    assert result.report.after.size_bytes["model.onnx.data"] < (folder / "net.bin").stat().st_size

    hostile = onnx.load(folder / "net.onnx", load_external_data=False)
    (tmp_path / "secret").write_bytes(bytes(1 << 16))
    (folder / "link").symlink_to(tmp_path / "secret")
    places = ("../secret", str(tmp_path / "secret"), "link", "nothing.bin")
    for place in places:
        for entry in hostile.graph.initializer[0].external_data:
            entry.value = place if entry.key == "location" else entry.value
        (folder / "bad.onnx").write_bytes(hostile.SerializeToString())
        with pytest.raises(CompressorError, match="said to lie in"):
            load_model(folder / "bad.onnx")


def damaged() -> dict[str, Callable[[onnx.ModelProto], object]]:
    def cycle(proto: onnx.ModelProto) -> None:
        proto.graph.node[0].input[0] = "y"

    def short(proto: onnx.ModelProto) -> None:
        proto.graph.initializer[0].raw_data = proto.graph.initializer[0].raw_data[:-4]

    def negative(proto: onnx.ModelProto) -> None:
        proto.graph.initializer[0].dims[0] = -5

    def twice(proto: onnx.ModelProto) -> None:
        proto.graph.node[1].output[0] = proto.graph.node[0].output[0]

    def nowhere(proto: onnx.ModelProto) -> None:
        proto.graph.output[0].name = "nothing"

    return {"cycle": cycle, "short tensor": short, "negative size": negative, "made twice": twice, "output": nowhere}


@pytest.mark.parametrize("name", damaged())
def test_damaged_graphs_are_refused_in_one_line(name: str, tmp_path: Path) -> None:
    proto = net()
    damaged()[name](proto)
    path = tmp_path / "bad.onnx"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(CompressorError) as said:
        load_model(path)
    assert "\n" not in str(said.value)


def test_a_cut_off_file_and_a_compressed_one_are_refused(tmp_path: Path) -> None:
    path = written(net(), tmp_path)
    (tmp_path / "cut.onnx").write_bytes(path.read_bytes()[:-700])
    with pytest.raises(CompressorError, match=r"cut\.onnx"):
        load_model(tmp_path / "cut.onnx")
    result = compress(path, "acdc", settings={"depth": 1})
    with pytest.raises(CompressorError, match="compressed already"):
        load_model(result.folder / "model.onnx")


def test_labels_that_fit_no_class_of_a_graph_are_refused_before_the_fit(untrained: None, tmp_path: Path) -> None:
    path = written(model([node("MatMul", ["x", "w"], "y")], {"w": weight(IN, OUT)}), tmp_path)
    x, labels = torch.randn(40, IN), torch.arange(40)
    with pytest.raises(CompressorError, match=f"labels go from 0 to 39, the model gives {OUT} classes"):
        compress(str(path), "svd", data=(x, labels), eval_data=(x, labels % OUT), settings={"rank": 3}, epochs=1)
