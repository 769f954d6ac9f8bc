"""Sparse rows of a Walsh–Hadamard transform as one ONNX node, and the body of its function (Moczulski 2019, eq. 3.15).

A function is made for one shape and named after it: ``PHD_800to500_d1024x16``. Few entries a row are gathered; many
are scattered into a matrix that a runtime makes when it loads the model, for a matmul is quicker then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from compressor.layers.onnx_body import Body, call
from compressor.layers.onnx_fastfood import hadamard

if TYPE_CHECKING:
    import onnx

_SPARSE = 32  # gathered where at most one entry in so many is not zero


def phd_node(x: Tensor, signs: Tensor, positions: Tensor, P: Tensor, *, d: int) -> Tensor:
    """``P H D x`` as one node: ``(..., in) -> (..., n)``.

    ``signs (d,)``, of any type; ``positions`` (whole numbers of any type) and ``P (n, count)`` are the entries of
    each row, with every constant scale in them.
    """
    n, count = P.shape
    return call(_name(x.shape[-1], n, d, count), [x, signs, positions, P], n, d=d)


def phd_functions(in_features: int, n: int, *, d: int, count: int) -> list[onnx.FunctionProto]:
    """The body of the node that `phd_node` emits for a layer of this shape."""
    body = Body(_name(in_features, n, d, count), ["x", "D", "positions", "P"])
    op, leading = body.op, body.leading("x")
    h = op("Mul", body.padded("x", d - in_features), body.like_input("D"))
    h = hadamard(body, body.folded(h, leading, 1, d), leading, 1, d)
    places = op("Cast", "positions", to=7)  # int64: what Gather takes
    if count * _SPARSE > d:
        nothing = body.like_input(op("ConstantOfShape", body.ints(n, d)))
        matrix = op("ScatterElements", nothing, places, "P", axis=1)
        return [body.function(op("MatMul", body.folded(h, leading, d), op("Transpose", matrix)))]
    h = op("Transpose", op("Reshape", h, body.ints(-1, d)))  # (d, rows)
    h = op("Gather", h, op("Reshape", places, body.ints(-1)), axis=0)
    h = op("Reshape", op("Mul", h, op("Reshape", "P", body.ints(-1, 1))), body.ints(n, count, -1))
    h = op("Transpose", op("ReduceSum", h, body.ints(1), keepdims=0))  # (rows, n)
    return [body.function(body.folded(h, leading, n))]


def _name(in_features: int, n: int, d: int, count: int) -> str:
    return f"PHD_{in_features}to{n}_d{d}x{count}"
