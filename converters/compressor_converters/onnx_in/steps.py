"""A graph cut into steps: parts that onnxruntime runs, and between them the calls of modules."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx
import torch
from torch import Tensor, nn

from compressor_converters.onnx_in.maps import DenseMap, module_name, unique_names
from compressor_converters.onnx_in.recurrent import Loop
from compressor_converters.onnx_in.segment import Segment
from compressor_converters.onnx_in.view import View, attribute, is_standard, number

# The operators that may stand between the maps of a window, as modules; None where the attributes do not fit.
_ACTIVATIONS: dict[str, Callable[[onnx.NodeProto], nn.Module | None]] = {
    "Relu": lambda node: nn.ReLU(),
    "Tanh": lambda node: nn.Tanh(),
    "Sigmoid": lambda node: nn.Sigmoid(),
    "LeakyRelu": lambda node: nn.LeakyReLU(number(node, "alpha", 0.01)),
    "Elu": lambda node: nn.ELU(number(node, "alpha", 1.0)),
    "Softplus": lambda node: nn.Softplus(threshold=1e9),
    "HardSwish": lambda node: nn.Hardswish(),
    "Mish": lambda node: nn.Mish(),
    "Gelu": lambda node: nn.GELU("tanh" if attribute(node, "approximate", b"none") == b"tanh" else "none"),
}


@dataclass(frozen=True)
class Call:
    """One call of the module ``module``, which stands for the nodes ``nodes``."""

    module: str
    nodes: tuple[int, ...]
    input: str
    output: str
    dense: DenseMap | None  # None for an activation

    @property
    def inputs(self) -> list[str]:
        """The value that it takes."""
        return [self.input]

    @property
    def outputs(self) -> list[str]:
        """The value that it gives."""
        return [self.output]

    def run(self, module: nn.Module, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the module makes of ``values``, in the axes and the type that the graph has there."""
        x = values[self.input]
        device = next((p.device for p in module.parameters()), x.device)
        return {self.output: self.leave(module(self.enter(x.to(device))), x)}

    def enter(self, x: Tensor) -> Tensor:
        """``x`` with the features last, in the type that modules compute in."""
        x = x.float() if x.dtype == torch.float16 else x
        if self.dense is None or not self.dense.is_channels:
            return x
        for axis, stride in enumerate(self.dense.strides, start=2):
            x = x if stride == 1 else x[(slice(None),) * axis + (slice(None, None, stride),)]
        return x.movedim(1, -1)

    def leave(self, y: Tensor, like: Tensor) -> Tensor:
        """Back to the axes and the type of the graph."""
        y = y.movedim(-1, 1) if self.dense is not None and self.dense.is_channels else y
        return y.to(like.dtype)


Step = Call | Loop | Segment


def find_activations(view: View, maps: Sequence[DenseMap]) -> list[tuple[int, nn.Module]]:
    """The activations that alone follow a dense map, or another of them, with their modules."""
    found = []
    for one in maps:
        value = one.output
        while (reader := view.only_reader(value)) is not None:
            node = view.nodes[reader]
            module = _ACTIVATIONS[node.op_type](node) if is_standard(node, *_ACTIVATIONS) else None
            if module is None or list(node.input) != [value]:
                break
            found.append((reader, module))
            value = node.output[0]
    return found


def name_activations(view: View, activations: Iterable[tuple[int, nn.Module]], taken: Sequence[str]) -> list[str]:
    """A name for the module of each of ``activations``."""
    nodes = [view.nodes[i] for i, _ in activations]
    wanted = [module_name(node.name or node.output[0], node.op_type) for node in nodes]
    return unique_names(wanted, taken)


def cut(view: View, calls: Sequence[Call | Loop]) -> list[Step]:
    """The steps of the graph in an order in which they can be run; constants belong to those that read them.

    Every other node runs as late as its inputs ask for: right after the last call that it depends on, so that up
    to a call no more is run than need be.
    """
    calls = sorted(calls, key=lambda call: call.nodes[-1])
    number_of = {i: n for n, call in enumerate(calls, start=1) for i in call.nodes}
    level: dict[str, int] = {}
    parts: list[list[int]] = [[] for _ in range(len(calls) + 1)]
    for i, node in enumerate(view.nodes):
        if i in view.constant_nodes and not set(node.output) & set(view.outputs):
            continue
        at = number_of.get(i)
        if at is None:
            at = max((level.get(name, 0) for name in view.read_by[i]), default=0)
            parts[at].append(i)
        level.update(dict.fromkeys(node.output, at))
    steps: list[Step] = []
    for n, part in enumerate(parts):
        if n:
            steps.append(calls[n - 1])
        if part:
            steps.append(_segment(view, part, parts[n + 1 :], calls))
    return steps


def _segment(view: View, part: list[int], later: Iterable[list[int]], calls: Sequence[Call | Loop]) -> Segment:
    own = {name for i in part for name in view.nodes[i].output if name}
    constant = {name for i in view.constant_nodes for name in view.nodes[i].output} | view.initializers.keys()
    constant |= {tensor.values.name for tensor in view.graph.sparse_initializer}
    read = dict.fromkeys(name for i in part for name in sorted(view.read_by[i]))
    inputs = [name for name in read if name not in own and name not in constant]
    wanted = {name for other in later for i in other for name in view.read_by[i]}
    wanted |= {name for call in calls for name in call.inputs} | set(view.outputs)
    outputs = [name for i in part for name in view.nodes[i].output if name in own & wanted]
    return Segment(view, part, inputs, outputs)


def last_reads(steps: Sequence[Step], outputs: Iterable[str]) -> Mapping[int, list[str]]:
    """By the position of a step, the values that nobody reads after it."""
    last: dict[str, int] = {}
    for n, step in enumerate(steps):
        for name in step.inputs:
            last[name] = n
        for name in step.outputs:
            last.setdefault(name, n)
    done: dict[int, list[str]] = {}
    for name, n in last.items():
        if name not in set(outputs):
            done.setdefault(n, []).append(name)
    return done
