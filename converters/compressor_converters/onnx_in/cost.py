"""Multiply-adds of a graph, node by node, from the shapes that its values have when it is run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import onnx
from onnx import helper
from torch import Tensor

from compressor_converters.onnx_in.network import OnnxNetwork
from compressor_converters.onnx_in.read import OnnxFile
from compressor_converters.onnx_in.segment import Segment
from compressor_converters.onnx_in.view import View, integer, needed

_CONVOLUTIONS = ("Conv", "ConvInteger", "QLinearConv")
_PRODUCTS = ("MatMul", "MatMulInteger", "QLinearMatMul", "Gemm", "FusedMatMul", "FusedGemm")
_RECURRENT = {"LSTM": 4, "GRU": 3, "RNN": 1}
Shapes = Mapping[str, Sequence[int]]


def macs_outside(network: OnnxNetwork, example: tuple[Tensor, ...]) -> int:
    """Per example, of all nodes but the dense maps; what stands in branches and loops is not counted."""
    inside = {i for step in network.opened for i in step.nodes}
    counted = {i: node for i, node in enumerate(network.view.nodes) if i not in inside and _values(node)}
    names = sorted({name for node in counted.values() for name in _values(node)})
    shapes = _shapes(network, names, tuple(x[:1] for x in example))
    return sum(_macs(node, shapes) for node in counted.values()) // (network.rows or 1)


def _values(node: onnx.NodeProto) -> list[str]:
    """The values whose shapes say what ``node`` costs."""
    if node.op_type in _CONVOLUTIONS:
        weight = 3 if node.op_type == "QLinearConv" else 1
        return [node.output[0], node.input[weight]]
    if node.op_type == "ConvTranspose":
        return [node.input[0], node.input[1]]
    if node.op_type in _PRODUCTS:
        return [node.output[0], node.input[0]]
    if node.op_type in _RECURRENT:
        return [node.input[0], node.input[2], node.input[1]]
    return []


def _macs(node: onnx.NodeProto, shapes: Shapes) -> int:
    first, second = (shapes[name] for name in _values(node)[:2])
    if node.op_type in _CONVOLUTIONS or node.op_type == "ConvTranspose":
        return math.prod(first) * math.prod(second[1:])
    if node.op_type in _RECURRENT:  # (time, batch, in), (directions, gates * hidden, hidden)
        inner = shapes[node.input[1]][-1] + second[-1]
        return math.prod(first[:2]) * second[0] * second[1] * inner
    length = second[0] if integer(node, "transA") else second[-1]
    return math.prod(first) * length


def _shapes(network: OnnxNetwork, names: Sequence[str], inputs: Sequence[Tensor]) -> dict[str, list[int]]:
    """The shape of each of ``names`` in one call of the graph."""
    view = network.view
    if not names:
        return {}
    proto = onnx.ModelProto()
    proto.CopyFrom(view.file.proto)
    proto.graph.node.extend(helper.make_node("Shape", [name], [f"{name}/shape"]) for name in names)
    opened = View(OnnxFile(view.file.path, proto))
    outputs = [f"{name}/shape" for name in names]
    nodes = sorted(needed(outputs, opened.maker, opened.read_by))
    whole = Segment(opened, nodes, [spec.name for spec in network.inputs], outputs)
    values = {}
    for spec, x in zip(network.inputs, inputs, strict=True):
        x = x[0] if spec.sizes is not None and x.ndim == len(spec.sizes) + 1 else x
        rows = network.rows or 1
        values[spec.name] = x.expand(rows, *x.shape[1:]) if x.ndim and len(x) == 1 else x
        values[spec.name] = values[spec.name].to(spec.dtype)
    made = whole.run(values)
    return {name: [int(size) for size in made[f"{name}/shape"]] for name in names}
