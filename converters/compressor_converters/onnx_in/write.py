"""A compressed graph as an ONNX file: the original's, with the nodes of replaced maps exchanged, all else as it was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import onnx
import torch
from onnx import helper
from torch import nn

from compressor.errors import CompressorError
from compressor.layers.base import StructuredLayer
from compressor.layers.onnx_body import DOMAIN, DOMAIN_VERSION
from compressor_converters.onnx_in.external import move_external
from compressor_converters.onnx_in.network import OnnxNetwork
from compressor_converters.onnx_in.over_time import LoopPlace
from compressor_converters.onnx_in.read import is_external
from compressor_converters.onnx_in.steps import Call
from compressor_converters.onnx_in.traced import Part, Traced
from compressor_converters.onnx_in.view import reads

_FUNCTIONS_FROM = 8  # the version of the format that knows functions


@dataclass(frozen=True)
class Place:
    """Where one structured layer goes: it takes the first call's input and gives the last one's output."""

    layer: StructuredLayer
    calls: tuple[Call, ...]
    dtype: torch.dtype  # that the graph computes in

    @property
    def nodes(self) -> set[int]:
        """The nodes that it replaces."""
        return {i for call in self.calls for i in call.nodes}

    def chain(self) -> tuple[torch.Tensor, ...] | None:
        """The layer's matrices, where its features are channels and it is a chain of products: then it is convolved."""
        dense = self.calls[0].dense
        return self.layer.dense_chain() if dense is not None and dense.is_channels else None

    def parts(self, network: OnnxNetwork) -> list[Part]:
        """What must be traced for it: the layer, with an input of the rank that the graph has there."""
        if self.chain():
            return []
        sizes = range(2, network.ranks.get(self.calls[0].module, 2) + 1)  # all but the last: each of a size of its own
        example = torch.zeros(*sizes, self.layer.in_features, dtype=self.dtype)
        return [Part(self.layer, (example,), self.dtype)]

    def made(self, traced: Traced, first: int) -> list[onnx.NodeProto]:
        """The nodes that stand for it; ``first`` is the number of its part."""
        chain = self.chain()
        if chain:
            return self._convolutions(traced, chain)
        before, after, start, final = _around(traced, self.calls[0], self.calls[-1].output)
        return [*before, *(node for group in traced.nodes(first, [start], [final]) for node in group), *after]

    def _convolutions(self, traced: Traced, chain: Sequence[torch.Tensor]) -> list[onnx.NodeProto]:
        """1×1 convolutions with the matrices of ``chain``.

        So no axis is moved, and a runtime joins the batch norm and the activation behind it to the last one.
        """
        call, bias = self.calls[0], cast("torch.Tensor | None", self.layer.bias)
        assert call.dense is not None
        names = [f"{call.module}/{call.nodes[0]}/{i}" for i in range(len(chain))]  # a module may be called twice
        values = [call.input, *map(traced.free, names[:-1]), self.calls[-1].output]
        ones = [1] * len(call.dense.strides)
        nodes = []
        for i, matrix in enumerate(chain):
            weights = [traced.keep(f"{call.module}/kernel{i}", self._array(matrix.reshape(*matrix.shape, *ones)))]
            if bias is not None and i == len(chain) - 1:
                weights.append(traced.keep(f"{call.module}/bias", self._array(bias)))
            strides = list(ones if i else call.dense.strides)
            nodes.append(
                helper.make_node(
                    "Conv", [values[i], *weights], [values[i + 1]], traced.free(names[i]), kernel_shape=ones,
                    strides=strides,
                )
            )  # fmt: skip
        return nodes

    def _array(self, tensor: torch.Tensor) -> np.ndarray:
        return tensor.detach().cpu().to(self.dtype).numpy()


def find_places(network: OnnxNetwork) -> list[Place | LoopPlace]:
    """The structured layers that were put into ``network``, with the identities behind them, and the loops with any."""
    entering = {call.input: call for call in network.calls}
    places: list[Place | LoopPlace] = []
    for call in network.calls:
        layer = network.get_submodule(call.module)
        if not isinstance(layer, StructuredLayer):
            continue
        swallowed = [call]
        while (following := entering.get(swallowed[-1].output)) is not None and type(
            network.get_submodule(following.module)
        ) is nn.Identity:
            swallowed.append(following)
        assert call.dense is not None
        is_half = str(network.view.dtype(call.dense.weight)) == "float16"
        places.append(Place(layer, tuple(swallowed), torch.float16 if is_half else next(layer.parameters()).dtype))
    loops = [LoopPlace(loop, network.opened_node(loop)) for loop in network.loops]
    return [*places, *(place for place in loops if place.is_changed)]


def save_network(network: OnnxNetwork, path: Path) -> None:
    """Write ``network`` as it is now; a graph with external data gets a file of them beside it."""
    view = network.view
    proto = onnx.ModelProto()
    proto.CopyFrom(view.file.proto)
    places = find_places(network)
    if places:
        _exchange(proto, network, places)
    if any(is_external(tensor) for tensor in proto.graph.initializer):
        move_external(proto, view.file, path)
    path.write_bytes(proto.SerializeToString(deterministic=True))


def _exchange(proto: onnx.ModelProto, network: OnnxNetwork, places: Sequence[Place | LoopPlace]) -> None:
    """Put the nodes of the layers where those of the maps were, in ``proto``."""
    parts = [place.parts(network) for place in places]
    traced = Traced(network, [part for group in parts for part in group])
    starts = [sum(map(len, parts[:n])) for n in range(len(places))]
    gone = {i for place in places for i in place.nodes}
    at = {min(place.nodes): n for n, place in enumerate(places)}
    nodes: list[onnx.NodeProto] = []
    for i, node in enumerate(network.view.nodes):
        if i in at:
            nodes += places[at[i]].made(traced, starts[at[i]])
        if i not in gone:
            nodes.append(node)
    nodes = _alive(nodes, gone, network)
    graph = proto.graph
    del graph.node[:]
    graph.node.extend(nodes)
    read = {name for node in nodes for name in reads(node)} | {value.name for value in graph.output}
    graph.initializer.extend(traced.initializers())
    original = {name for node in network.view.nodes for name in node.input}
    for field in (graph.initializer, graph.input):
        initial = {tensor.name for tensor in network.view.graph.initializer}
        kept = [one for one in field if one.name in read or one.name not in original or
                (field is graph.input and one.name not in initial)]  # fmt: skip
        del field[:]
        field.extend(kept)
    made = {name for node in nodes for name in node.output} | read
    infos = [value for value in graph.value_info if value.name in made]
    del graph.value_info[:]
    graph.value_info.extend(infos)
    functions = traced.functions()
    if functions:
        proto.functions.extend(functions)
        proto.opset_import.append(helper.make_opsetid(DOMAIN, DOMAIN_VERSION))
        proto.ir_version = max(proto.ir_version, _FUNCTIONS_FROM)
    proto.ir_version = max(proto.ir_version, 4)  # initialisers that are no inputs


def _alive(nodes: list[onnx.NodeProto], gone: set[int], network: OnnxNetwork) -> list[onnx.NodeProto]:
    """Without those that only computed weights of what is gone; what nobody read before is kept."""
    view = network.view
    unread = {name for i in gone for name in view.read_by[i]}
    while True:
        read = {name for node in nodes for name in reads(node)} | set(view.outputs)
        dead = [n for n, node in enumerate(nodes) if set(node.output) & unread and not set(node.output) & read]
        if not dead:
            return nodes
        unread |= {name for n in dead for name in reads(nodes[n])}
        nodes = [node for n, node in enumerate(nodes) if n not in set(dead)]


def _around(traced: Traced, call: Call, end: str) -> tuple[list[onnx.NodeProto], list[onnx.NodeProto], str, str]:
    """Nodes that bring the features of a convolution to the last axis and back."""
    if call.dense is None or not call.dense.is_channels:
        return [], [], call.input, end
    strides, prefix = call.dense.strides, traced.free(f"{call.module}/{call.nodes[0]}")
    rank = len(strides) + 2
    before, x = [], call.input
    if any(stride != 1 for stride in strides):
        if traced.opset < 10:
            raise CompressorError(f"'{call.module}' has strides, which need opset 10; the file has {traced.opset}")
        values = {"starts": [0] * len(strides), "ends": [2**62] * len(strides), "axes": [*range(2, rank)],
                  "steps": [*strides]}  # fmt: skip
        for key, ints in values.items():
            tensor = helper.make_tensor("", onnx.TensorProto.INT64, [len(ints)], ints)
            before.append(helper.make_node("Constant", [], [f"{prefix}/{key}"], value=tensor))
        before.append(helper.make_node("Slice", [x, *(f"{prefix}/{key}" for key in values)], [f"{prefix}/strided"]))
        x = f"{prefix}/strided"
    last, first = [0, *range(2, rank), 1], [0, rank - 1, *range(1, rank - 1)]
    before.append(helper.make_node("Transpose", [x], [f"{prefix}/in"], perm=last))
    after = [helper.make_node("Transpose", [f"{prefix}/out"], [end], perm=first)]
    return before, after, f"{prefix}/in", f"{prefix}/out"
