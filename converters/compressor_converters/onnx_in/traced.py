"""Modules as nodes of a graph that stands already: traced together, with names that nothing else there has."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn

from compressor.errors import CompressorError
from compressor.layers.onnx_body import DOMAIN
from compressor_converters.onnx_file import trace_module
from compressor_converters.onnx_in.lower import OldOpsetError, lower
from compressor_converters.onnx_in.network import OnnxNetwork
from compressor_converters.onnx_in.view import STANDARD, needed, reads

_PREFIX = f"{DOMAIN}/"


@dataclass(frozen=True)
class Part:
    """One module, and inputs of the ranks that it is called with: equal sizes stay equal, all but the last are free."""

    module: nn.Module
    examples: tuple[Tensor, ...]
    dtype: torch.dtype
    outputs: int = 1


class Traced:
    """All parts, traced together; there may be none."""

    def __init__(self, network: OnnxNetwork, parts: Sequence[Part]) -> None:
        self.path, self.opset = network.view.file.path, network.view.file.opset
        self.inputs = [[f"x{n}_{i}" for i in range(len(part.examples))] for n, part in enumerate(parts)]
        names = [name for group in self.inputs for name in group]
        examples = [part.examples for part in parts]
        self.proto, self.kind = onnx.ModelProto(), onnx.TensorProto.UNDEFINED
        if parts:
            inputs = tuple(x for group in examples for x in group)
            self.proto = trace_module(_Together(parts), inputs, names, _axes(examples))
            self.kind = helper.np_dtype_to_tensor_dtype(np.dtype(str(parts[0].dtype).removeprefix("torch.")))
        self.taken = {name for node in network.view.nodes for name in node.output} | network.view.initializers.keys()
        ends = iter([value.name for value in self.proto.graph.output])
        self.ends = [[next(ends) for _ in range(part.outputs)] for part in parts]
        self.placed: set[int] = set()
        self.read_by = [reads(node) for node in self.proto.graph.node]
        self.maker = {name: i for i, node in enumerate(self.proto.graph.node) for name in node.output}
        self.varying: set[str] = set(names)  # values that depend on an input
        for node in self.proto.graph.node:
            if self.varying & set(node.input):
                self.varying |= set(node.output)
        self.stored = {tensor.name: tensor for tensor in self.proto.graph.initializer}
        self.kept: dict[str, onnx.TensorProto] = {}  # initialisers that are of no part, by their names in the graph
        self.stored |= {n.output[0]: n.attribute[0].t for n in self.proto.graph.node if n.op_type == "Constant"}

    def nodes(
        self, n: int, starts: Sequence[str], ends: Sequence[str]
    ) -> tuple[list[onnx.NodeProto], list[onnx.NodeProto]]:
        """Part ``n`` from the values ``starts`` to the values ``ends``: what only makes constants, and what does not.

        The constants are those that no part asked for before made.
        """
        wanted = sorted(needed(self.ends[n], self.maker, self.read_by) - self.placed)
        self.placed |= set(wanted)
        names = dict(zip((*self.inputs[n], *self.ends[n]), (*starts, *ends), strict=True))
        nodes = [self.proto.graph.node[i] for i in wanted]
        groups = [[one for one in nodes if bool(self.varying & set(one.output)) == varies] for varies in (False, True)]
        fixed, moving = ([self._renamed(one, names) for one in self.lowered(group)] for group in groups)
        for end, name in zip(self.ends[n], ends, strict=True):
            if end not in self.maker:  # the module is the identity
                moving.append(helper.make_node("Identity", [starts[0]], [name]))
        return fixed, moving

    def keep(self, name: str, array: np.ndarray) -> str:
        """Have ``array`` among the initialisers, once however often it is asked for; the name that it has there."""
        name = self.free(name)
        self.kept[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
        return name

    def free(self, name: str) -> str:
        """``name`` in the space of ours, and such that the graph has no such value."""
        name = f"{_PREFIX}{name}"
        while name in self.taken:
            name += "_"
        return name

    def _renamed(self, node: onnx.NodeProto, names: Mapping[str, str]) -> onnx.NodeProto:
        out = onnx.NodeProto()
        out.CopyFrom(node)
        for field in (out.input, out.output):
            renamed = [names.get(name) or (self.free(name) if name else "") for name in field]
            del field[:]
            field.extend(renamed)
        out.name = self.free(node.name or node.output[0])
        return out

    def initializers(self) -> Iterator[onnx.TensorProto]:
        """What is stored for the parts, and what was kept beside them."""
        for tensor in self.proto.graph.initializer:
            out = onnx.TensorProto()
            out.CopyFrom(tensor)
            out.name = self.free(tensor.name)
            yield out
        yield from self.kept.values()

    def functions(self) -> list[onnx.FunctionProto]:
        """The bodies that the nodes call, written for the opset of the file."""
        out = []
        for body in self.proto.functions:
            function = onnx.FunctionProto()
            function.CopyFrom(body)
            del function.node[:]
            function.node.extend(self.lowered(body.node))
            for entry in function.opset_import:
                entry.version = self.opset if entry.domain in STANDARD else entry.version
            out.append(function)
        return out

    def lowered(self, nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
        """``nodes`` for the opset of the file."""
        try:
            return lower(nodes, self.opset, self.kind, self.stored)
        except OldOpsetError as error:
            raise CompressorError(f"{self.path}: {error}; keep it dense, or convert the file") from None


class _Together(nn.Module):
    """The modules of several parts side by side, each with inputs and outputs of its own."""

    def __init__(self, parts: Sequence[Part]) -> None:
        super().__init__()
        self.modules_of_parts = nn.ModuleList(_in_type(part) for part in parts)
        self.counts = [len(part.examples) for part in parts]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        given = iter(inputs)
        made: list[Tensor] = []
        for module, count in zip(self.modules_of_parts, self.counts, strict=True):
            out = module(*(next(given) for _ in range(count)))
            made.extend([out] if isinstance(out, Tensor) else out)
        return tuple(made)


def _in_type(part: Part) -> nn.Module:
    """The module in the type that the graph computes in."""
    module = part.module.cpu()
    same = all(p.dtype == part.dtype for p in module.parameters())
    return (module if same else copy.deepcopy(module).to(part.dtype)).eval()


def _axes(examples: Sequence[Sequence[Tensor]]) -> tuple[dict[int, torch.export.Dim], ...]:
    """For each input the axes that may have any size; within a part, axes of one size are one."""
    found: dict[str, torch.export.Dim] = {}
    return tuple(
        {axis: found.setdefault(name, torch.export.Dim(name, min=1))
         for axis, size in enumerate(x.shape[:-1]) if (name := f"d{n}_{size}")}
        for n, group in enumerate(examples) for x in group
    )  # fmt: skip
