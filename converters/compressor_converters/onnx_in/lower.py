"""Nodes written for the opset of the exporter, put in the words of an older one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import onnx
from onnx import defs, helper, numpy_helper

from compressor.layers.onnx_body import DOMAIN, OPSET
from compressor_converters.onnx_in.view import STANDARD, attribute, integer

_END = 2**62
_AXES_WERE_ATTRIBUTES = {"Squeeze": 13, "Unsqueeze": 13, "ReduceSum": 13, "ReduceMean": 18, "ReduceMax": 18,
                         "ReduceMin": 18, "ReduceProd": 18, "ReduceL1": 18, "ReduceL2": 18}  # fmt: skip


class OldOpsetError(ValueError):
    """There is no way to say it in that opset."""


def lower(
    nodes: Iterable[onnx.NodeProto], opset: int, kind: int, stored: Mapping[str, onnx.TensorProto] | None = None
) -> list[onnx.NodeProto]:
    """``nodes``, which compute in the type ``kind``, in operators of ``opset``; OldOpsetError where that cannot be.

    ``stored`` are the constants that they read beside those made by nodes.
    """
    nodes = list(nodes)
    if opset >= OPSET:
        return nodes
    constants = dict(stored or {})
    constants |= {node.output[0]: node.attribute[0].t for node in nodes if node.op_type == "Constant"}
    out: list[onnx.NodeProto] = []
    for node in nodes:
        for one in _lowered(node, opset, kind, constants):
            _check(one, opset)
            out.append(one)
    return out


def _lowered(
    node: onnx.NodeProto, opset: int, kind: int, constants: Mapping[str, onnx.TensorProto]
) -> list[onnx.NodeProto]:
    if node.domain not in STANDARD:
        return [node]
    if node.op_type == "Shape" and opset < 15 and node.attribute:
        start, end = attribute(node, "start", 0), attribute(node, "end", _END)
        return _shape_part(node.input[0], node.output[0], start, end)
    if node.op_type == "CastLike" and opset < 15:
        return [helper.make_node("Cast", [node.input[0]], list(node.output), to=kind)]
    if node.op_type == "Pad" and opset < 18 and len(node.input) > 3 and node.input[3]:
        return _padded(node, kind)
    if node.op_type in _AXES_WERE_ATTRIBUTES and opset < _AXES_WERE_ATTRIBUTES[node.op_type] and len(node.input) > 1:
        axes = numpy_helper.to_array(constants[node.input[1]]).reshape(-1).tolist()
        return [_changed(node, drop=("noop_with_empty_axes",), inputs=[node.input[0]], axes=axes)]
    if node.op_type == "Split" and opset < 18:
        return [_split(node, opset, constants)]
    if node.op_type == "Gemm" and opset < 11 and len(node.input) < 3:
        return _product(node)
    if node.op_type == "Reshape" and opset < 14:
        return [_changed(node, drop=("allowzero",))]
    return [node]


def _changed(
    node: onnx.NodeProto, *, drop: tuple[str, ...] = (), inputs: list[str] | None = None, **attributes: object
) -> onnx.NodeProto:
    out = onnx.NodeProto()
    out.CopyFrom(node)
    kept = [entry for entry in out.attribute if entry.name not in drop]
    del out.attribute[:]
    out.attribute.extend(kept)
    out.attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items())
    if inputs is not None:
        del out.input[:]
        out.input.extend(inputs)
    return out


def _ints(output: str, *values: int) -> onnx.NodeProto:
    tensor = helper.make_tensor("", onnx.TensorProto.INT64, [len(values)], values)
    return helper.make_node("Constant", [], [output], value=tensor)


def _shape_part(x: str, output: str, start: object, end: object) -> list[onnx.NodeProto]:
    assert isinstance(start, int)
    assert isinstance(end, int)
    names = [f"{output}/{part}" for part in ("whole", "start", "end", "axis")]
    return [
        helper.make_node("Shape", [x], [names[0]]),
        _ints(names[1], start),
        _ints(names[2], end),
        _ints(names[3], 0),
        helper.make_node("Slice", names, [output]),
    ]


def _padded(node: onnx.NodeProto, kind: int) -> list[onnx.NodeProto]:
    """Zeros after the last axis, which is the only padding that bodies write with axes."""
    x, pads, output = node.input[0], node.input[1], node.output[0]
    lead, one, two, axis, extra, shape, zeros = (
        f"{output}/{part}" for part in ("lead", "one", "two", "axis", "extra", "shape", "zeros")
    )
    zero = helper.make_tensor("", kind, [1], [0.0])
    return [
        *_shape_part(x, lead, 0, -1),
        _ints(one, 1),
        _ints(two, 2),
        _ints(axis, 0),
        helper.make_node("Slice", [pads, one, two, axis], [extra]),
        helper.make_node("Concat", [lead, extra], [shape], axis=0),
        helper.make_node("ConstantOfShape", [shape], [zeros], value=zero),
        helper.make_node("Concat", [x, zeros], [output], axis=-1),
    ]


def _split(node: onnx.NodeProto, opset: int, constants: Mapping[str, onnx.TensorProto]) -> onnx.NodeProto:
    if opset >= 13 or len(node.input) < 2:
        return _changed(node, drop=("num_outputs",))
    sizes = numpy_helper.to_array(constants[node.input[1]]).reshape(-1).tolist()
    return _changed(node, drop=("num_outputs",), inputs=[node.input[0]], split=sizes)


def _product(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """A Gemm without a bias, as the exporter writes it, once it had to have one."""
    x, weight = node.input
    turned = f"{node.output[0]}/turned"
    if not integer(node, "transB"):
        return [helper.make_node("MatMul", [x, weight], list(node.output))]
    return [
        helper.make_node("Transpose", [weight], [turned], perm=[1, 0]),
        helper.make_node("MatMul", [x, turned], list(node.output)),
    ]


def _check(node: onnx.NodeProto, opset: int) -> None:
    """The operator is there in ``opset``, with these attributes and as many inputs."""
    if node.domain == DOMAIN:
        return
    try:
        schema = defs.get_schema(node.op_type, opset, "")
    except defs.SchemaError:
        raise OldOpsetError(f"opset {opset} has no {node.op_type}, which the layer needs") from None
    wrong = [entry.name for entry in node.attribute if entry.name not in schema.attributes]
    if wrong or not schema.min_input <= len(node.input) <= schema.max_input:
        said = f"the attribute {wrong[0]}" if wrong else f"{len(node.input)} inputs"
        raise OldOpsetError(f"{node.op_type} of opset {opset} does not take {said}, which the layer needs")
