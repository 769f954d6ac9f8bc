"""Monarch as one ONNX node, and the body of its function (Dao et al. 2022, 3.1): two batched products.

A function is made for one shape and named after it: ``Monarch_800to500_k20x2_bias``, 20 blocks of rank 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from compressor.layers.onnx_body import Body, call

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class Shape:
    """All that a body depends on: ``first (blocks, blocks · rank, p)``, ``second (blocks, q, blocks · rank)``."""

    in_features: int
    out_features: int
    blocks: int
    rank: int
    p: int
    q: int
    bias: bool

    @property
    def name(self) -> str:
        """The function's name; different shapes have different ones."""
        sizes = f"{self.in_features}to{self.out_features}_k{self.blocks}x{self.rank}"
        return f"Monarch_{sizes}{'_bias' if self.bias else ''}"


def monarch_node(x: Tensor, first: Tensor, second: Tensor, bias: Tensor | None, shape: Shape) -> Tensor:
    """The layer as one node, ``(..., in) -> (..., out)``; the factors as `reference.monarch` takes them."""
    inputs = [value for value in (x, first, second, bias) if value is not None]
    return call(shape.name, inputs, shape.out_features, blocks=shape.blocks, rank=shape.rank)


def monarch_functions(shape: Shape) -> list[onnx.FunctionProto]:
    """The body of the node that `monarch_node` emits for a layer of this shape."""
    body = Body(shape.name, ["x", "first", "second", *(["bias"] if shape.bias else [])])
    op, ints, leading, k, s = body.op, body.ints, body.leading("x"), shape.blocks, shape.rank
    h = body.padded("x", k * shape.p - shape.in_features)
    h = op("Transpose", op("Reshape", h, ints(-1, k, shape.p)), perm=[1, 0, 2])  # (block, rows, p)
    h = op("MatMul", h, op("Transpose", "first", perm=[0, 2, 1]))  # (block, rows, class · s)
    h = op("Transpose", op("Reshape", h, ints(k, -1, k, s)), perm=[2, 1, 0, 3])  # (class, rows, block, s)
    h = op("MatMul", op("Reshape", h, ints(k, -1, k * s)), op("Transpose", "second", perm=[0, 2, 1]))
    h = op("Transpose", h, perm=[1, 2, 0])  # (rows, q, class)
    h = body.folded(h, leading, shape.q * k)
    if shape.out_features < shape.q * k:
        h = body.cut(h, shape.out_features)
    return [body.function(op("Add", h, "bias") if shape.bias else h)]
