"""What a graph stores and reads beside its dense maps: counted, and found."""

from __future__ import annotations

import math
from collections.abc import Iterable

import onnx

from compressor_converters.onnx_in.view import View, subgraphs


def hidden_products(view: View) -> int:
    """How many matrix products with constants stand in branches and loops, where they are left as they are."""
    return sum(_products(graph) for node in view.nodes for graph in subgraphs(node))


def _products(graph: onnx.GraphProto) -> int:
    own = sum(node.op_type in ("MatMul", "Gemm", "LSTM", "GRU", "RNN") for node in graph.node)
    return own + sum(_products(inner) for node in graph.node for inner in subgraphs(node))


def numbers_outside(view: View, weights: Iterable[str]) -> int:
    """Numbers stored in constants of the graph that none of ``weights`` is made of."""
    inside = {root for name in weights for root in weight_roots(view, name)}
    stored = sum(_count(t) for name, t in view.initializers.items() if name not in inside)
    return stored + _constants(view.graph, inside)


def _constants(graph: onnx.GraphProto, inside: set[str]) -> int:
    """Numbers in Constant nodes and in the initialisers of branches and loops."""
    total = 0
    for node in graph.node:
        for entry in node.attribute:
            if node.op_type == "Constant" and entry.HasField("t") and node.output[0] not in inside:
                total += _count(entry.t)
        for inner in subgraphs(node):
            total += _constants(inner, inside) + sum(_count(tensor) for tensor in inner.initializer)
    return total


def _count(tensor: onnx.TensorProto) -> int:
    return math.prod(int(size) for size in tensor.dims)


def other_readers(view: View, weight: str, own: set[int]) -> set[int]:
    """The nodes outside of ``own`` that read what the constant ``weight`` is made of, or something else made of it."""
    roots = weight_roots(view, weight)
    chain = {i for i in view.constant_nodes if roots & _roots_of(view, i)}
    names = roots | {name for i in chain for name in view.nodes[i].output}
    readers = {i for name in names for i in view.readers.get(name, ())}
    return {i for i in readers if i not in own and i not in view.constant_nodes}


def _roots_of(view: View, i: int) -> set[str]:
    return {root for name in view.nodes[i].input if name for root in weight_roots(view, name)}


def weight_roots(view: View, name: str) -> set[str]:
    """The stored tensors that the numbers of a constant are from: not the places and sizes that they are cut by."""
    return {root for root in view.roots(name) if not _is_whole(view, root)}


def _is_whole(view: View, root: str) -> bool:
    """Whether a stored tensor, or that of a Constant node, holds int64."""
    if root in view.initializers:
        return bool(view.initializers[root].data_type == onnx.TensorProto.INT64)
    entries = view.nodes[view.maker[root]].attribute
    return any(e.t.data_type == onnx.TensorProto.INT64 or e.name in ("value_int", "value_ints") for e in entries)
