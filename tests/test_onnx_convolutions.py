"""A 1×1 convolution of a graph becomes 1×1 convolutions again, where the layer is products with constants alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from compressor.layers import build, methods, replace
from compressor_converters.onnx_in import OnnxNetwork
from compressor_converters.onnx_in.check import check_untouched
from compressor_converters.onnx_in.read import read_onnx
from compressor_converters.onnx_in.write import save_network

IN, OUT, RANK = 16, 24, 4


def network(
    tmp_path: Path, axes: int = 2, strides: tuple[int, ...] = (), *, bias: bool = True, kind: type = np.float32,
    times: int = 1, opset: int = 17,
) -> OnnxNetwork:  # fmt: skip
    """One convolution between two others' activations, or ``times`` of the same weights from one input."""
    rng = np.random.default_rng(0)
    stored = {"w": rng.normal(size=(OUT, IN, *[1] * axes)).astype(kind), "b": rng.normal(size=OUT).astype(kind)}
    inputs = ["w", *(["b"] if bias else [])]
    more = {"strides": strides} if strides else {}
    nodes = [helper.make_node("Relu", ["x"], ["h0"])]
    for n in range(times):
        nodes.append(helper.make_node("Conv", [f"h{n}", *inputs], [f"c{n}"], f"conv{n}", **more))
        nodes.append(helper.make_node("Tanh", [f"h{n}"], [f"h{n + 1}"]))
    nodes.append(helper.make_node("Sum", [f"c{n}" for n in range(times)], ["y"]))
    elem = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    x = helper.make_tensor_value_info("x", elem, ["n", IN, *(f"d{i}" for i in range(axes))])
    y = helper.make_tensor_value_info("y", elem, ["n", OUT, *(f"e{i}" for i in range(axes))])
    arrays = [numpy_helper.from_array(stored[name], name) for name in inputs]
    graph = helper.make_graph(nodes, "g", [x], [y], arrays)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(proto)
    path = tmp_path / "net.onnx"
    path.write_bytes(proto.SerializeToString())
    return OnnxNetwork(read_onnx(path))


def written(model: OnnxNetwork, tmp_path: Path, method: str, config: dict[str, object]) -> onnx.ModelProto:
    """With its map replaced, the file, run against the network: on another size than any before."""
    name = model.calls[0].module
    torch.manual_seed(0)
    layer = build(method, IN, OUT, bias=model.get_submodule(name).bias is not None, config=config)
    for parameter in layer.parameters():  # a bias that starts at zero could be forgotten
        if parameter.is_floating_point() and not parameter.any():
            torch.nn.init.normal_(parameter)
    replace(model, name, layer)
    axes = len(model.calls[0].dense.strides)  # type: ignore[union-attr]
    kind = np.float16 if str(model.view.dtype("w")) == "float16" else np.float32
    x = np.random.default_rng(1).normal(size=(3, IN, 7, 6, 5)[: 2 + axes]).astype(kind)
    with torch.no_grad():
        expected = model.eval()(torch.from_numpy(x))
    path = tmp_path / "out.onnx"
    save_network(model, path)
    check_untouched(model, path)
    proto = onnx.load(path)
    onnx.checker.check_model(proto)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    found = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    low = 1e-2 if kind == np.float16 else 1e-4
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=low, atol=low)
    return proto


def kinds(proto: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in proto.graph.node if node.op_type not in ("Relu", "Tanh", "Sum")]


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_low_rank_is_two_convolutions(tmp_path: Path, axes: int, bias: bool) -> None:
    proto = written(network(tmp_path, axes, bias=bias), tmp_path, "svd", {"rank": RANK})
    assert kinds(proto) == ["Conv", "Conv"]
    shapes = sorted(tuple(tensor.dims) for tensor in proto.graph.initializer)
    ones = (1,) * axes
    assert shapes == sorted([(RANK, IN, *ones), (OUT, RANK, *ones), *([(OUT,)] if bias else [])])


@pytest.mark.parametrize("opset", [9, 17])
def test_strides_are_those_of_the_first_one(tmp_path: Path, opset: int) -> None:
    proto = written(network(tmp_path, strides=(2, 3), opset=opset), tmp_path, "svd", {"rank": RANK})
    found = [helper.get_node_attr_value(node, "strides") for node in proto.graph.node if node.op_type == "Conv"]
    assert found == [[2, 3], [1, 1]]  # the second one has the fewer rows


def test_half_precision_stays(tmp_path: Path) -> None:
    proto = written(network(tmp_path, kind=np.float16), tmp_path, "svd", {"rank": RANK})
    assert kinds(proto) == ["Conv", "Conv"]
    assert {tensor.data_type for tensor in proto.graph.initializer} == {TensorProto.FLOAT16}


def test_what_is_called_twice_is_stored_once(tmp_path: Path) -> None:
    proto = written(network(tmp_path, times=2), tmp_path, "svd", {"rank": RANK})
    assert kinds(proto) == ["Conv"] * 4
    assert len(proto.graph.initializer) == 3
    names = [node.name for node in proto.graph.node if node.op_type == "Conv"]
    assert len(set(names)) == 4


@pytest.mark.slow
@pytest.mark.parametrize("method", [name for name, entry in methods().items() if name == entry.layer.method])
def test_every_method_gives_what_it_gives_in_memory(tmp_path: Path, method: str) -> None:
    config: dict[str, object] = {"rank": RANK} if method == "svd" else {}
    proto = written(network(tmp_path, strides=(1, 2), times=2), tmp_path, method, config)
    used = kinds(proto)
    assert ("Transpose" in used) == (set(used) != {"Conv"})
    assert (used == ["Conv"] * 4) == (method == "svd")
