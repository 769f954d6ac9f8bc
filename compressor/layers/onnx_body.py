"""A small writer of ONNX function bodies in standard operators, and the tables that they compute for themselves.

A body stores no table: cosines come from ``Range``, reduced exactly in integers before the one ``Sin`` in
float32, and are folded to constants when a runtime loads the model. Shapes are made with ``Shape``, ``Concat``
and literals only, so that strict shape inference follows a symbolic batch through them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    import onnx

DOMAIN = "compressor"
DOMAIN_VERSION = 1
OPSET = 18
_FLOATS, _WHOLE = ("float", "float16", "bfloat16", "double"), ("int8", "uint8", "uint16", "int32", "int64", "bool")
_TYPES = [f"tensor({kind})" for kind in (*_FLOATS, *_WHOLE)]

# torch.onnx.ops.symbolic would do for a node of ours, but is of torch 2.8.
torch.library.define("compressor::onnx_node", "(Tensor[] inputs, str function, str attributes) -> Tensor")


@torch.library.register_fake("compressor::onnx_node")  # type: ignore[untyped-decorator]
def _fake(inputs: Sequence[Tensor], function: str, attributes: str) -> Tensor:
    return inputs[0].new_empty(*inputs[0].shape[:-1], json.loads(attributes)["out_features"])


def call(function: str, inputs: Sequence[Tensor], width: int, /, **attributes: Any) -> Tensor:
    """One node in the trace that calls ``function``, whose first input is ``x (..., in)``: ``(..., width)``.

    The names of functions are shortened in a file: all that a reader of the node must know is in its attributes.
    """
    said = json.dumps({**attributes, "out_features": width})
    y: Tensor = torch.ops.compressor.onnx_node(inputs, function, said)
    return y


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """What `torch.onnx.export` must be told of the nodes that `call` makes: its ``custom_translation_table``."""
    return {torch.ops.compressor.onnx_node.default: _node}


def _node(inputs: Sequence[Any], function: Any, attributes: Any) -> Any:
    import onnx
    from onnxscript import values

    schema, given = onnx.defs.OpSchema, json.loads(attributes)
    kinds = {int: schema.AttrType.INT, float: schema.AttrType.FLOAT, str: schema.AttrType.STRING}
    known = schema(
        function,
        DOMAIN,
        DOMAIN_VERSION,
        inputs=[schema.FormalParameter(f"input_{i}", f"T{i}") for i in range(len(inputs))],
        outputs=[schema.FormalParameter("output", "T0")],
        type_constraints=[(f"T{i}", _TYPES, "") for i in range(len(inputs))],
        attributes=[schema.Attribute(name, kinds[type(value)]) for name, value in given.items()],
    )
    return values.Op(values.Opset(DOMAIN, DOMAIN_VERSION), function, known)(*inputs, **given)


class Body:
    """One function under construction: every call appends nodes and gives the name of the value made."""

    def __init__(self, name: str, inputs: Sequence[str]) -> None:
        self.name = name
        self.inputs = list(inputs)
        self._nodes: list[onnx.NodeProto] = []
        self._made: dict[str, str] = {}
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Append one node of one output."""
        from onnx import helper

        output = f"v{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def ints(self, *values: int) -> str:
        """A list of int64."""
        return self._constant(np.array(values, dtype=np.int64))

    def whole(self, value: int) -> str:
        """A scalar int64."""
        return self._constant(np.array(value, dtype=np.int64))

    def real(self, value: float) -> str:
        """A scalar float32."""
        return self._constant(np.array(value, dtype=np.float32))

    def _constant(self, value: np.ndarray) -> str:
        from onnx import numpy_helper

        key = (value.dtype.str, value.shape, value.tobytes())
        if key not in self._constants:
            self._constants[key] = self.op("Constant", value=numpy_helper.from_array(value))
        return self._constants[key]

    def once(self, key: str, make: Callable[[], str]) -> str:
        """The value that ``make`` appended when ``key`` was first asked for."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def transposed(self, table: str) -> str:
        """All axes reversed; for tables, made once."""
        return self.once(f"{table} transposed", lambda: self.op("Transpose", table))

    def like_input(self, value: str) -> str:
        """``value`` in the type of ``x``: a body serves models of any precision. Nothing is left of it in float32."""
        return self.op("CastLike", value, "x")

    # --- indices and tables ---------------------------------------------------------------------

    def indices(self, n: int, *, start: int = 0, step: int = 1) -> str:
        """``start + step · (0..n-1)`` in int64, ``(n,)``."""
        return self.once(
            f"range {start} {n} {step}",
            lambda: self.op("Range", self.whole(start), self.whole(start + n * step), self.whole(step)),
        )

    def column(self, vector: str) -> str:
        """``(n,) -> (n, 1)``; not by Unsqueeze, through which onnx's data propagation takes it for ``(n,)`` still."""
        return self.once(f"{vector} column", lambda: self.op("Reshape", vector, self.ints(-1, 1)))

    def cosines(self, left: str, right: str, n: int, *, sine: bool = False) -> str:
        """``cos(π left_i right_j / n)``, or its sine, for whole numbers ``left (i,)`` and ``right (j,)``: ``(i, j)``.

        With m = left·right mod 2n, ``cos(πm/n) = sin(π (|2n − 2m| − n) / 2n)``, whose argument lies within ±π/2,
        where float32 has no cancellation to suffer from.
        """
        product = self.once(f"{left} by {right}", lambda: self.op("Mul", self.column(left), right))
        doubled = self.once(f"{product} doubled", lambda: self.op("Mul", product, self.whole(2)))
        if sine:  # sin(t) = cos(t − π/2)
            doubled = self.op("Add", doubled, self.whole(3 * n))
        turn = self.op("Mod", doubled, self.whole(4 * n))
        quadrant = self.op("Sub", self.op("Abs", self.op("Sub", turn, self.whole(2 * n))), self.whole(n))
        angle = self.op("Mul", self.op("Cast", quadrant, to=1), self.real(math.pi / (2 * n)))
        return self.like_input(self.op("Sin", angle))

    # --- the last axis --------------------------------------------------------------------------

    def leading(self, x: str) -> str:
        """The shape of ``x`` but for its last axis."""
        return self.op("Shape", x, start=0, end=-1)

    def folded(self, x: str, leading: str, *sizes: int) -> str:
        """``x`` with ``sizes`` in place of what follows ``leading``."""
        return self.op("Reshape", x, self.op("Concat", leading, self.ints(*sizes), axis=0))

    def padded(self, x: str, extra: int) -> str:
        """``x`` with ``extra`` zeros after its last axis."""
        return self.op("Pad", x, self.ints(0, extra), "", self.ints(-1)) if extra else x

    def cut(self, x: str, width: int) -> str:
        """The first ``width`` along the last axis."""
        return self.op("Slice", x, self.ints(0), self.ints(width), self.ints(-1))

    def permuted(self, x: str, order: str) -> str:
        """``x[..., order]``; between two transposes, which at a batch of 32 takes a twentieth of the time."""
        return self.op("Transpose", self.op("Gather", self.op("Transpose", x), order, axis=0))

    def row(self, table: str, k: int) -> str:
        """``table[k]``."""
        return self.op("Gather", table, self.whole(k), axis=0)

    def function(self, output: str) -> onnx.FunctionProto:
        """The finished function, whose one output is ``y``."""
        from onnx import helper

        nodes = [*self._nodes, helper.make_node("Identity", [output], ["y"])]
        opsets = [helper.make_opsetid("", OPSET)]
        return helper.make_function(DOMAIN, self.name, self.inputs, ["y"], nodes, opsets)
