"""A recurrent node with structured maps, written: the input map over all steps at once, then a Scan over time.

The body of the Scan is one step, with the recurrent map in it; what is constant there is computed outside, once. For
small maps this is slower than the one node that it stands for: each operator of a step is called anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import onnx
import torch
from onnx import TensorProto, helper
from torch import nn

from compressor_converters.onnx_in.recurrent import Loop, OpenNode
from compressor_converters.onnx_in.traced import Part, Traced

if TYPE_CHECKING:
    from compressor_converters.onnx_in.network import OnnxNetwork

_STEPS, _ROWS = 3, 2  # of the examples that parts are traced with


@dataclass(frozen=True)
class LoopPlace:
    """Where one opened recurrent node goes."""

    loop: Loop
    module: OpenNode

    @property
    def nodes(self) -> set[int]:
        """The node that it replaces."""
        return set(self.loop.nodes)

    @property
    def is_changed(self) -> bool:
        """Whether any of its maps was replaced."""
        return any(type(module) is not nn.Linear for module in self.module.children())

    def parts(self, network: OnnxNetwork) -> list[Part]:
        """What must be traced for it, direction by direction: the input map, and one step."""
        half = str(network.view.dtype(self.loop.weights[0])) == "float16"
        dtype = torch.float16 if half else torch.float32
        found = []
        for end in self.module.ends:
            ih = self.module.map(f"ih{end}")
            wide = torch.zeros(_ROWS, ih.out_features, dtype=dtype)
            states = [torch.zeros(_ROWS, self.module.hidden, dtype=dtype) for _ in range(self.module.states)]
            valid = [torch.ones(_ROWS, 1, dtype=torch.bool)] if self.loop.reads[1] else []
            found.append(Part(ih, (torch.zeros(_STEPS, _ROWS, ih.in_features, dtype=dtype),), dtype))
            found.append(Part(self.module.one_step(end), (wide, *states, *valid), dtype, len(states) + len(valid)))
        return found

    def made(self, traced: Traced, first: int) -> list[onnx.NodeProto]:
        """The nodes that stand for it; ``first`` is the number of its first part."""
        return _Writer(self, traced).nodes(first)


class _Writer:
    """The nodes of one loop, under construction."""

    def __init__(self, place: LoopPlace, traced: Traced) -> None:
        self.loop, self.module, self.traced = place.loop, place.module, traced
        self.prefix = traced.free(f"{self.loop.module}/{self.loop.node}")
        self.out: list[onnx.NodeProto] = []
        self.made: dict[tuple[int, ...], str] = {}

    def nodes(self, first: int) -> list[onnx.NodeProto]:
        """All of them; the parts of the place begin at number ``first``."""
        x, lengths = self.loop.reads[:2]
        valid = self.valid(x, lengths) if lengths else ""
        outputs, finals = [], []
        for d, end in enumerate(self.module.ends):
            given = f"{self.prefix}/given{end}"
            for group in self.traced.nodes(first + 2 * d, [x], [given]):
                self.out += group
            *states, ys = self.scan(first + 2 * d + 1, end, given, self.starts(d), valid)
            outputs.append(ys)
            finals.append(states)
        for value, parts, axis in zip(self.loop.makes, [outputs, *zip(*finals, strict=True)], (1, 0, 0), strict=False):
            if value:
                self.joined(parts, axis, value)
        return self.out

    def op(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Append one node."""
        node = helper.make_node(kind, list(inputs), [output], name=output, **attributes)
        self.out += self.traced.lowered([node])
        return output

    def ints(self, *values: int) -> str:
        """A list of whole numbers."""
        if values not in self.made:
            name = f"{self.prefix}/{'_'.join(map(str, values))}"
            tensor = helper.make_tensor("", TensorProto.INT64, [len(values)], values)
            self.traced.stored[name] = tensor
            self.made[values] = self.op("Constant", [], name, value=tensor)
        return self.made[values]

    def size(self, x: str, axis: int) -> str:
        """A list of one number: how long ``x`` is."""
        name = f"{self.prefix}/size_{axis}"
        if (axis, -1) not in self.made:
            shape = self.op("Shape", [x], f"{name}/shape")
            self.made[axis, -1] = self.op("Gather", [shape, self.ints(axis)], name)
        return self.made[axis, -1]

    def valid(self, x: str, lengths: str) -> str:
        """``(time, batch, 1)``: whether a step is one of the sequence."""
        name = f"{self.prefix}/valid"
        ones = self.op("ConstantOfShape", [self.size(x, 0)], f"{name}/ones", value=_one(TensorProto.INT64, 1))
        before = self.op("CumSum", [ones, self.op("Squeeze", [self.ints(0)], f"{name}/axis")], f"{name}/n", exclusive=1)
        times = self.op("Reshape", [before, self.ints(-1, 1, 1)], f"{name}/times")
        whole = self.op("Cast", [lengths], f"{name}/lengths", to=TensorProto.INT64)
        return self.op("Less", [times, self.op("Reshape", [whole, self.ints(-1, 1)], f"{name}/column")], name)

    def starts(self, d: int) -> list[str]:
        """All states of direction ``d`` before the first step."""
        return [self.start(number, d) for number in range(2, 2 + self.module.states)]

    def start(self, number: int, d: int) -> str:
        """One state of direction ``d`` before the first step, ``(batch, hidden)``."""
        given, name = self.loop.reads[number], f"{self.prefix}/start_{number}_{d}"
        if given:
            one = self.op("Gather", [given, self.ints(d)], f"{name}/one")
            return self.op("Squeeze", [one, self.ints(0)], name)
        sizes = [self.size(self.loop.reads[0], 1), self.ints(self.module.hidden)]
        shape = self.op("Concat", sizes, f"{name}/shape", axis=0)
        return self.op("ConstantOfShape", [shape], name, value=_one(self.traced.kind, 0))

    def scan(self, part: int, end: str, given: str, states: Sequence[str], valid: str) -> list[str]:
        """The last states ``(batch, hidden)`` and all outputs ``(time, batch, hidden)`` of one direction."""
        name, kind = f"{self.prefix}/scan{end}", self.traced.kind
        before = [f"{name}/before_{i}" for i in range(len(states))]
        after = [f"{name}/after_{i}" for i in range(len(states))]
        inner, inside_valid = f"{name}/given", f"{name}/valid"
        masked, y = [inside_valid] if valid else [], f"{name}/y"
        fixed, moving = self.traced.nodes(part, [inner, *before, *masked], [*after, *([y] if valid else [])])
        self.out += fixed
        if not valid:
            moving.append(helper.make_node("Identity", [after[0]], [y]))
        hidden, gates = self.module.hidden, self.module.map(f"ih{end}").out_features
        taken = [_rows(inner, kind, gates), *(_rows(one, TensorProto.BOOL, 1) for one in masked)]
        body = helper.make_graph(
            moving, f"{name}/step", [*(_rows(one, kind, hidden) for one in before), *taken],
            [_rows(one, kind, hidden) for one in (*after, y)],
        )  # fmt: skip
        scanned = [given, *([valid] if valid else [])]
        outputs = [*(f"{name}/last_{i}" for i in range(len(states))), f"{name}/all"]
        node = helper.make_node(
            "Scan", [*states, *scanned], outputs, name=name, body=body, num_scan_inputs=len(scanned),
            scan_input_directions=[int(end != "")] * len(scanned), scan_output_directions=[int(end != "")],
        )  # fmt: skip
        self.out.append(node)
        return outputs

    def joined(self, parts: Sequence[str], axis: int, value: str) -> None:
        """The directions side by side along a new axis, as ``value``."""
        one = len(parts) == 1
        wide = [
            self.op("Unsqueeze", [part, self.ints(axis)], value if one else f"{part}/wide_{axis}") for part in parts
        ]
        if not one:
            self.op("Concat", wide, value, axis=axis)


def _rows(name: str, kind: int, width: int) -> onnx.ValueInfoProto:
    """A value ``(batch, width)`` of a body: a runtime allocates what a Scan gives by its shape."""
    return helper.make_tensor_value_info(name, kind, [None, width])


def _one(kind: int, value: int) -> onnx.TensorProto:
    return helper.make_tensor("", kind, [1], [value])
