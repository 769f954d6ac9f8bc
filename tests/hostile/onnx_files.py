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


_SUMMED = [  # y = x w + the sum of "big"
    helper.make_node("ReduceSum", ["big"], ["sum"], keepdims=0), helper.make_node("MatMul", ["x", "w"], ["m"]),
    helper.make_node("Add", ["m", "sum"], ["y"]),
]  # fmt: skip


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


@case("an ONNX constant of a terabyte", "running it takes more than")
def constant(_folder: Path) -> list[str]:
    shape = numpy_helper.from_array(np.array([2**38], np.int64), "shape")
    return _file(_model([helper.make_node("ConstantOfShape", ["shape"], ["big"]), *_SUMMED], [shape, _weight()]))


@case("an ONNX tensor that is a billion times its input", "running it takes more than")
def from_shape(_folder: Path) -> list[str]:
    times = numpy_helper.from_array(np.array([2**30, 1], np.int64), "times")
    nodes = [
        helper.make_node("Shape", ["x"], ["size"]), helper.make_node("Mul", ["size", "times"], ["shape"]),
        helper.make_node("ConstantOfShape", ["shape"], ["big"]), *_SUMMED,
    ]  # fmt: skip
    return _file(_model(nodes, [times, _weight()]))


@case("an ONNX loop that doubles forty times", "running it takes more than", grows=2 << 30)
def doubling(_folder: Path) -> list[str]:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None]) for name in ("v", "v2")]
    flags = [helper.make_tensor_value_info(name, TensorProto.BOOL, []) for name in ("go", "go2")]
    inner = [helper.make_node("Concat", ["v", "v"], ["v2"], axis=0), helper.make_node("Identity", ["go"], ["go2"])]
    count = helper.make_tensor_value_info("i", TensorProto.INT64, [])
    body = helper.make_graph(inner, "body", [count, flags[0], values[0]], [flags[1], values[1]])
    nodes = [helper.make_node("Loop", ["times", "yes", "start"], ["big"], body=body), *_SUMMED]
    stored = {"times": np.array(40), "yes": np.array(True), "start": np.ones(1024, np.float32)}
    return _file(_model(nodes, [*(numpy_helper.from_array(v, k) for k, v in stored.items()), _weight()]))


@case("an ONNX operator whose name is no text", "no text")
def no_text(_folder: Path) -> list[str]:
    whole = _model([helper.make_node("MatMul", ["x", "w"], ["y"])], [_weight()]).SerializeToString()
    return _file(whole.replace(b"MatMul", b"Mat\xff\xfel"))


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
