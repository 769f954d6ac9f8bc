"""Modules as nodes of a graph that stands already: traced together, with names that nothing else there has."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
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
    """All parts, traced together."""

    def __init__(self, network: OnnxNetwork, parts: Sequence[Part]) -> None:
        self.path, self.opset = network.view.file.path, network.view.file.opset
        self.kind = helper.np_dtype_to_tensor_dtype(np.dtype(str(parts[0].dtype).removeprefix("torch.")))
        self.together = _Together(parts)
        self.inputs = [[f"x{n}_{i}" for i in range(len(part.examples))] for n, part in enumerate(parts)]
        names = [name for group in self.inputs for name in group]
        examples = [part.examples for part in parts]
        self.proto = trace_module(self.together, tuple(x for group in examples for x in group), names, _axes(examples))
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
        self.made: dict[str, onnx.TensorProto] = {}  # initialisers, by the names that they have in the graph
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

    def convolutions(self, n: int, start: str, end: str, strides: Sequence[int]) -> list[onnx.NodeProto] | None:
        """Part ``n`` on features that are channels, as 1×1 convolutions; None where it is not products and sums alone.

        So no axis is moved, and a runtime joins the batch norm and the activation behind it to the last one.
        """
        chain: list[tuple[onnx.NodeProto, list[str]]] = []  # products, and the names of their weight and bias
        value = self.inputs[n][0]
        for i in sorted(needed(self.ends[n], self.maker, self.read_by)):
            node = self.proto.graph.node[i]
            if node.op_type == "Constant":
                continue
            constant = next((name for name in node.input if name != value), "")
            axes = len(self.stored[constant].dims) if constant in self.stored else 0
            if node.op_type == "MatMul" and node.input[0] == value and axes == 2:
                chain.append((node, [constant]))
            elif node.op_type == "Add" and value in node.input and axes == 1 and chain and len(chain[-1][1]) == 1:
                chain[-1][1].append(constant)
            else:
                return None
            value = node.output[0]
        if value != self.ends[n][0] or not chain:
            return None
        values = [start, *(self.free(node.output[0]) for node, _ in chain[:-1]), end]
        sizes = [strides, *[[1] * len(strides)] * len(chain)]
        return [
            helper.make_node(
                "Conv", [values[i], self._kernel(weight, len(strides)), *map(self._kept, bias)], [values[i + 1]],
                self.free(node.name or node.output[0]), kernel_shape=[1] * len(strides), strides=[*sizes[i]],
            )
            for i, (node, (weight, *bias)) in enumerate(chain)
        ]  # fmt: skip

    def _kernel(self, weight: str, axes: int) -> str:
        """The name of the matrix ``weight (in, out)`` as the kernel of a 1×1 convolution along ``axes`` axes."""
        matrix = numpy_helper.to_array(self.stored[weight]).T
        name = self.free(f"{weight}/kernel{axes}")
        self.made[name] = numpy_helper.from_array(
            np.ascontiguousarray(matrix.reshape(*matrix.shape, *[1] * axes)), name
        )
        return name

    def _kept(self, constant: str) -> str:
        """The name of a stored ``constant`` among the initialisers."""
        name = self.free(constant)
        self.made[name] = onnx.TensorProto()
        self.made[name].CopyFrom(self.stored[constant])
        self.made[name].name = name
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

    def initializers(self, read: Collection[str]) -> Iterator[onnx.TensorProto]:
        """What is stored for the parts, as far as it is ``read``."""
        for tensor in self.proto.graph.initializer:
            self._kept(tensor.name)
        yield from (tensor for name, tensor in self.made.items() if name in read)

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
