"""Names by which a runtime with native operators knows the nodes of our domain.

While a model is traced a function is named after its shape, as bodies differ from shape to shape. In the file it is
named after its kind and numbered in order of use: ``ACDC``, ``ACDC_2``, ... One native operator then stands for the
first 32 names of a kind, and reads sizes and settings from the attributes and inputs of a node. One of any other
type than float32, float16 and bfloat16 keeps its long name, which no native operator has: those compute in float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from compressor.layers.onnx_body import DOMAIN

if TYPE_CHECKING:
    import onnx

_FLOAT32, _FLOAT16, _BFLOAT16 = 1, 10, 16  # onnx.TensorProto's numbers


def nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """All nodes of the graph and of the branches and loops inside it."""
    for _, node in _nodes_and_types(graph, {}):
        yield node


def shorten_names(proto: onnx.ModelProto) -> None:
    """Give the nodes of our domain, and the functions that they call, their names in a file."""
    bodies = {function.name: function for function in proto.functions if function.domain == DOMAIN}
    short: dict[str, str] = {}
    kept: set[str] = set()
    counts: dict[str, int] = {}
    for types, node in _nodes_and_types(proto.graph, {}):
        if node.domain != DOMAIN:
            continue
        if types.get(node.output[0]) not in (_FLOAT32, _FLOAT16, _BFLOAT16):
            kept.add(node.op_type)
            continue
        if node.op_type not in short:
            kind = node.op_type.split("_")[0]
            counts[kind] = number = counts.get(kind, 0) + 1
            short[node.op_type] = kind if number == 1 else f"{kind}_{number}"
        node.op_type = short[node.op_type]
    for long, name in short.items():
        if long in kept:  # one shape in two types: the body is there twice
            proto.functions.add().CopyFrom(bodies[long])
        bodies[long].name = name


def _nodes_and_types(graph: onnx.GraphProto, outer: dict[str, int]) -> Iterator[tuple[dict[str, int], onnx.NodeProto]]:
    """Every node, and the element types of the values around it."""
    types = outer | {
        value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.value_info, *graph.output)
    }
    for node in graph.node:
        yield types, node
        for attribute in node.attribute:
            for inner in [attribute.g, *attribute.graphs]:
                yield from _nodes_and_types(inner, types)
