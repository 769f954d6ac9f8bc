"""A written graph in which something else than the replaced maps differs is no result, and is found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compressor import CompressorError, compress
from compressor.layers import build, replace
from compressor_converters import onnx_in
from compressor_converters.load import open_graph
from compressor_converters.onnx_in import OnnxNetwork, check_untouched, save_network

node = helper.make_node
WIDTH = 12
Change = Callable[[onnx.ModelProto], object]


def original(path: Path) -> Path:
    """``fc - LeakyRelu - Mul``: one dense map, two nodes and one constant that nothing may touch."""
    nodes = [
        node("MatMul", ["x", "w"], ["h"], name="fc"),
        node("LeakyRelu", ["h"], ["a"], name="act", alpha=0.25),
        node("Mul", ["a", "scale"], ["y"], name="times"),
    ]
    rng = np.random.default_rng(0)
    stored = {"w": rng.normal(size=(WIDTH, WIDTH)), "scale": rng.normal(size=WIDTH)}
    arrays = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in stored.items()]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", WIDTH]) for name in "xy")
    model = helper.make_model(
        helper.make_graph(nodes, "g", [x], [y], arrays), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    helper.set_model_props(model, {"author": "somebody"})
    path.write_bytes(model.SerializeToString())
    return path


def compressed(tmp_path: Path) -> tuple[OnnxNetwork, Path]:
    """The network with one structured layer, and the file it was written to."""
    network = open_graph(original(tmp_path / "net.onnx"))
    replace(network, "fc", build("svd", WIDTH, WIDTH, bias=False, config={"rank": 2}))
    out = tmp_path / "out.onnx"
    save_network(network, out)
    return network, out


def attribute(model: onnx.ModelProto) -> None:
    (act,) = (one for one in model.graph.node if one.name == "act")
    act.attribute[0].f = 0.26


def other(model: onnx.ModelProto) -> None:
    (times,) = (one for one in model.graph.node if one.name == "times")
    times.op_type = "Add"


def constant(model: onnx.ModelProto) -> None:
    (scale,) = (one for one in model.graph.initializer if one.name == "scale")
    scale.raw_data = b"\x01" + scale.raw_data[1:]


def lost(model: onnx.ModelProto) -> None:
    (place,) = (i for i, one in enumerate(model.graph.initializer) if one.name == "scale")
    values = numpy_helper.to_array(model.graph.initializer[place])
    del model.graph.initializer[place]
    model.graph.node.insert(0, node("Constant", [], ["scale"], value=numpy_helper.from_array(values)))


def output(model: onnx.ModelProto) -> None:
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "batch"


def author(model: onnx.ModelProto) -> None:
    helper.set_model_props(model, {"author": "somebody else"})


def opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 18


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (attribute, "the node 'act' is not as it was"),
        (other, "the node 'times' is not as it was"),
        (constant, "the constant 'scale' is not as it was"),
        (lost, "the constant 'scale' is gone"),
        (output, "its outputs are not as they were"),
        (author, "its metadata are not as they were"),
        (opset, "its operator sets are not as they were"),
    ],
)
def test_what_was_changed_beside_the_map_is_found(tmp_path: Path, change: Change, said: str) -> None:
    network, out = compressed(tmp_path)
    assert check_untouched(network, out) == (2, 1)
    model = onnx.load(out)
    change(model)
    out.write_bytes(model.SerializeToString())
    with pytest.raises(CompressorError, match=said):
        check_untouched(network, out)


def test_the_job_ends_without_a_result_where_a_node_was_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from compressor import candidate

    def wrong(network: OnnxNetwork, path: Path) -> None:
        onnx_in.save_network(network, path)
        model = onnx.load(path)
        attribute(model)
        path.write_bytes(model.SerializeToString())

    monkeypatch.setattr(candidate, "save_network", wrong)
    path = original(tmp_path / "net.onnx")
    with pytest.raises(CompressorError, match="'act' is not as it was"):
        compress(path, "svd", settings={"rank": 2}, target=("*",), output=tmp_path / "out")
    assert [one.name for one in tmp_path.iterdir()] == ["net.onnx"]
