"""A compressed graph as an ONNX file: the original's, with the nodes of replaced maps exchanged, all else as it was."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import helper
from torch import Tensor, nn

from compressor.errors import CompressorError
from compressor.layers.base import StructuredLayer
from compressor.layers.onnx_body import DOMAIN, DOMAIN_VERSION
from compressor_converters.onnx_file import bodies, trace_module
from compressor_converters.onnx_in.external import move_external
from compressor_converters.onnx_in.lower import OldOpsetError, lower
from compressor_converters.onnx_in.network import OnnxNetwork
from compressor_converters.onnx_in.read import is_external
from compressor_converters.onnx_in.steps import Call
from compressor_converters.onnx_in.view import STANDARD, reads

_PREFIX = f"{DOMAIN}/"
_FUNCTIONS_FROM = 8  # the version of the format that knows functions


@dataclass(frozen=True)
class Place:
    """Where one structured layer goes: it takes the first call's input and gives the last one's output."""

    layer: StructuredLayer
    calls: tuple[Call, ...]

    @property
    def nodes(self) -> set[int]:
        """The nodes that it replaces."""
        return {i for call in self.calls for i in call.nodes}


def find_places(network: OnnxNetwork) -> list[Place]:
    """The structured layers that were put into ``network``, with the identities behind them."""
    entering = {call.input: call for call in network.calls}
    places = []
    for call in network.calls:
        layer = network.get_submodule(call.module)
        if not isinstance(layer, StructuredLayer):
            continue
        swallowed = [call]
        while (following := entering.get(swallowed[-1].output)) is not None and type(
            network.get_submodule(following.module)
        ) is nn.Identity:
            swallowed.append(following)
        places.append(Place(layer, tuple(swallowed)))
    return places


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


def _exchange(proto: onnx.ModelProto, network: OnnxNetwork, places: Sequence[Place]) -> None:
    """Put the nodes of the layers where those of the maps were, in ``proto``."""
    traced = _Traced(network, places)
    gone = {i for place in places for i in place.nodes}
    at = {min(place.nodes): n for n, place in enumerate(places)}
    nodes: list[onnx.NodeProto] = []
    for i, node in enumerate(network.view.nodes):
        if i in at:
            nodes += traced.nodes(at[i])
        if i not in gone:
            nodes.append(node)
    nodes = _alive(nodes, gone, network)
    graph = proto.graph
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(traced.initializers())
    read = {name for node in nodes for name in reads(node)} | {value.name for value in graph.output}
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


class _Traced:
    """All layers, traced together, as nodes with names that no other value has."""

    def __init__(self, network: OnnxNetwork, places: Sequence[Place]) -> None:
        self.network, self.places = network, places
        self.opset = network.view.file.opset
        self.layers = [_in_type(place, network) for place in places]
        self.dtype = _dtype(places[0], network)
        examples = tuple(_example(place, layer, network) for place, layer in zip(places, self.layers, strict=True))
        names = [f"x{n}" for n in range(len(places))]
        self.proto = trace_module(_Together(self.layers), examples, names)
        self.taken = {name for node in network.view.nodes for name in node.output} | network.view.initializers.keys()
        self.ends = [value.name for value in self.proto.graph.output]
        self.placed: set[int] = set()
        self.maker = {name: i for i, node in enumerate(self.proto.graph.node) for name in node.output}

    def nodes(self, n: int) -> list[onnx.NodeProto]:
        """What stands for place ``n``: from the value that enters it to the value that leaves it."""
        place = self.places[n]
        call, end = place.calls[0], place.calls[-1].output
        wanted = sorted(self._needed(self.ends[n]) - self.placed)
        self.placed |= set(wanted)
        before, after, start, final = self._around(n, call, end)
        names = {f"x{n}": start, self.ends[n]: final}
        nodes = self._lowered([self.proto.graph.node[i] for i in wanted])
        out = [self._renamed(node, names) for node in nodes]
        if self.ends[n] not in self.maker:  # the layer is the identity
            out.append(helper.make_node("Identity", [start], [final]))
        return [*before, *out, *after]

    def _around(self, n: int, call: Call, end: str) -> tuple[list[onnx.NodeProto], list[onnx.NodeProto], str, str]:
        """Nodes that bring the features of a convolution to the last axis and back."""
        if call.dense is None or not call.dense.is_channels:
            return [], [], call.input, end
        strides, prefix = call.dense.strides, self._free(f"{_PREFIX}{call.module}/{n}")
        rank = len(strides) + 2
        before, x = [], call.input
        if any(stride != 1 for stride in strides):
            if self.opset < 10:
                raise CompressorError(f"'{call.module}' has strides, which need opset 10; the file has {self.opset}")
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

    def _needed(self, name: str) -> set[int]:
        found: set[int] = set()
        pending = [name]
        while pending:
            maker = self.maker.get(pending.pop())
            if maker is not None and maker not in found:
                found.add(maker)
                pending.extend(self.proto.graph.node[maker].input)
        return found

    def _free(self, name: str) -> str:
        while name in self.taken:
            name += "_"
        return name

    def _name(self, name: str) -> str:
        return self._free(f"{_PREFIX}{name}") if name else ""

    def _renamed(self, node: onnx.NodeProto, names: dict[str, str]) -> onnx.NodeProto:
        out = onnx.NodeProto()
        out.CopyFrom(node)
        for field in (out.input, out.output):
            renamed = [names.get(name) or self._name(name) for name in field]
            del field[:]
            field.extend(renamed)
        out.name = self._name(node.name or node.output[0])
        return out

    def initializers(self) -> Iterator[onnx.TensorProto]:
        """What is stored for the layers."""
        for tensor in self.proto.graph.initializer:
            out = onnx.TensorProto()
            out.CopyFrom(tensor)
            out.name = self._name(tensor.name)
            yield out

    def functions(self) -> list[onnx.FunctionProto]:
        """The bodies that the nodes call, written for the opset of the file."""
        out = []
        for body in bodies(_Together(self.layers), self.proto):
            function = onnx.FunctionProto()
            function.CopyFrom(body)
            del function.node[:]
            function.node.extend(self._lowered(body.node))
            for entry in function.opset_import:
                entry.version = self.opset if entry.domain in STANDARD else entry.version
            out.append(function)
        return out

    def _lowered(self, nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
        """``nodes`` for the opset of the file."""
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(str(self.dtype).removeprefix("torch.")))
        try:
            return lower(nodes, self.opset, kind, {tensor.name: tensor for tensor in self.proto.graph.initializer})
        except OldOpsetError as error:
            raise CompressorError(
                f"{self.network.view.file.path}: {error}; keep it dense, or convert the file"
            ) from None


class _Together(nn.Module):
    """Several layers side by side, each with an input of its own."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(layer(x) for layer, x in zip(self.layers, inputs, strict=True))


def _dtype(place: Place, network: OnnxNetwork) -> torch.dtype:
    dense = place.calls[0].dense
    assert dense is not None
    half = str(network.view.dtype(dense.weight)) == "float16"
    return torch.float16 if half else next(place.layer.parameters()).dtype


def _in_type(place: Place, network: OnnxNetwork) -> nn.Module:
    """The layer in the type that the graph computes in."""
    dtype = _dtype(place, network)
    layer = place.layer.cpu()
    same = all(p.dtype == dtype for p in layer.parameters())
    return (layer if same else copy.deepcopy(layer).to(dtype)).eval()


def _example(place: Place, layer: nn.Module, network: OnnxNetwork) -> Tensor:
    """An input of the rank that the graph has there, every axis but the last of a size of its own."""
    rank = network.ranks.get(place.calls[0].module, 2)
    return torch.zeros(*range(2, rank + 1), place.layer.in_features, dtype=_dtype(place, network))
