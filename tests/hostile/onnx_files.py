"""ONNX files that reach outside, never end, or are not what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from case import case
from onnx import TensorProto, helper, numpy_helper


def _file(proto: Any) -> list[str]:
    Path("model.onnx").write_bytes(proto if isinstance(proto, bytes) else proto.SerializeToString())
    return ["model.onnx", "--method", "svd", "--set", "rank=2", "-o", "out"]


def _model(nodes: list[Any], initializers: list[Any] = []) -> Any:  # noqa: B006 (read only)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 7])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 5])
    graph = helper.make_graph(nodes, "g", [x], [y], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def _weight() -> Any:
    return numpy_helper.from_array(np.ones((7, 5), np.float32), "w")


def _outside(location: str) -> list[str]:
    Path("secret.bin").write_bytes(bytes(140))
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[7, 5], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", "0"), ("length", "140")):
        tensor.external_data.add(key=key, value=value)
    Path("inner").mkdir()
    model = _model([helper.make_node("MatMul", ["x", "w"], ["y"])], [tensor])
    Path("inner/model.onnx").write_bytes(model.SerializeToString())
    return ["inner/model.onnx", "--method", "svd", "--set", "rank=2", "-o", "out"]


@case("an ONNX file whose data lies in the folder above")
def above(_folder: Path) -> list[str]:
    return _outside("../secret.bin")


@case("an ONNX file whose data has an absolute path")
def absolute(folder: Path) -> list[str]:
    return _outside(str(folder.absolute() / "secret.bin"))


@case("an ONNX file whose data is a link that leads outside")
def link(_folder: Path) -> list[str]:
    found = _outside("link.bin")
    Path("inner/link.bin").symlink_to("../secret.bin")
    return found


@case("an ONNX file whose data is longer than its file")
def longer(_folder: Path) -> list[str]:
    found = _outside("short.bin")
    Path("inner/short.bin").write_bytes(bytes(10))
    return found


@case("an ONNX graph that goes in a circle")
def circle(_folder: Path) -> list[str]:
    nodes = [helper.make_node("Add", ["x", "b"], ["a"]), helper.make_node("Relu", ["a"], ["b"])]
    return _file(_model([*nodes, helper.make_node("MatMul", ["a", "w"], ["y"])], [_weight()]))


@case("an ONNX constant of a terabyte")
def constant(_folder: Path) -> list[str]:
    shape = numpy_helper.from_array(np.array([2**38, 7], np.int64), "shape")
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["big"]), helper.make_node("MatMul", ["big", "w"], ["wide"]),
        helper.make_node("Add", ["x", "wide"], ["y"]),
    ]  # fmt: skip
    return _file(_model(nodes, [shape, _weight()]))


@case("an ONNX tensor that claims an exabyte")
def claims(_folder: Path) -> list[str]:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2**40, 2**20], raw_data=bytes(140))
    return _file(_model([helper.make_node("MatMul", ["x", "w"], ["y"])], [tensor]))


@case("an ONNX file that is cut off")
def cut(_folder: Path) -> list[str]:
    whole = _model([helper.make_node("MatMul", ["x", "w"], ["y"])], [_weight()]).SerializeToString()
    return _file(whole[: len(whole) // 2])


@case("an ONNX weight of another shape than its use")
def shape(_folder: Path) -> list[str]:
    weight = numpy_helper.from_array(np.ones((9, 5), np.float32), "w")
    return _file(_model([helper.make_node("MatMul", ["x", "w"], ["y"])], [weight]))


@case("an ONNX graph of graphs, ten thousand deep")
def deep(_folder: Path) -> list[str]:
    def field(tag: int, content: bytes) -> bytes:
        size, prefix = len(content), bytearray([tag])
        while size > 127:
            prefix.append(size & 127 | 128)
            size >>= 7
        return bytes(prefix) + bytes([size]) + content

    graph = b""
    for _ in range(10_000):
        graph = field(0x0A, field(0x2A, field(0x32, graph)))  # a node with an attribute with a graph
    return _file(field(0x3A, graph))


@case("an ONNX file of random bytes")
def random(_folder: Path) -> list[str]:
    return _file(np.random.default_rng(0).bytes(5000))
