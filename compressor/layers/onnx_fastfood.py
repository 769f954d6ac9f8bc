"""Fastfood features as one ONNX node, and the body of its function (Moczulski 2019, eq. 3.10, 3.16, 3.22).

``S H G Π H B x`` in blocks of d = 2^p. The Walsh–Hadamard transform is a Kronecker product of small matmuls,
two factors up to d = 1024 and three above, whose ±1 tables the body computes. A function is made for one shape
and named after it: ``Fastfood_800to1024_d1024x1_relu``.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import Tensor

from compressor.layers.onnx_body import Body, call

if TYPE_CHECKING:
    import onnx

_ONE_FACTOR_BITS, _TWO_FACTOR_BITS = 5, 10


def fastfood_node(x: Tensor, B: Tensor, perm: Tensor, G: Tensor, S: Tensor, *, features: str, width: int) -> Tensor:
    """The features as one node of the ``compressor`` domain: ``(..., in) -> (..., width)``, twice that for rbf.

    ``B, G (blocks, d)``; ``perm (blocks, d)`` whole numbers of any type; ``S`` holds ``width`` numbers or more, in
    the order of the blocks, with every constant scale in it.
    """
    blocks, d = B.shape
    return call(
        _name(x.shape[-1], d, blocks, width, features),
        [x, B, perm, G, S],
        2 * width if features == "rbf" else width,
        d=d,
        blocks=blocks,
        width=width,
        features=features,
    )


def fastfood_functions(in_features: int, *, d: int, blocks: int, width: int, features: str) -> list[onnx.FunctionProto]:
    """The body of the node that `fastfood_node` emits for a layer of this shape."""
    body = Body(_name(in_features, d, blocks, width, features), ["x", "B", "perm", "G", "S"])
    op = body.op
    leading = body.leading("x")
    h = body.folded(body.padded("x", d - in_features), leading, 1, d)
    h = hadamard(body, op("Mul", h, "B"), leading, blocks, d)  # (..., blocks, factors of d)
    h = body.folded(h, leading, blocks * d)
    starts = body.column(body.indices(blocks, step=d))
    order = op("Reshape", op("Add", op("Cast", "perm", to=7), starts), body.ints(-1))
    h = body.folded(body.permuted(h, order), leading, blocks, d)
    h = hadamard(body, op("Mul", h, "G"), leading, blocks, d)
    h = body.folded(h, leading, blocks * d)
    if width < blocks * d:
        h = body.cut(h, width)
    h = op("Mul", h, body.cut(op("Reshape", "S", body.ints(-1)), width))
    if features == "relu":
        h = op("Relu", h)
    elif features == "rbf":
        h = op("Concat", op("Cos", h), op("Sin", h), axis=-1)
        h = op("Mul", h, body.like_input(body.real(math.sqrt(1 / width))))
    return [body.function(h)]


def _name(in_features: int, d: int, blocks: int, width: int, features: str) -> str:
    return f"Fastfood_{in_features}to{width}_d{d}x{blocks}_{features}"


def hadamard(body: Body, h: str, leading: str, blocks: int, d: int) -> str:
    """``h H_d`` along the last axis of ``(..., blocks, d)``; the last axes come back in any grouping of d."""
    bits = d.bit_length() - 1
    if bits <= _ONE_FACTOR_BITS:
        return body.op("MatMul", h, _table(body, bits))
    if bits <= _TWO_FACTOR_BITS:
        left, right = bits // 2, bits - bits // 2
        h = body.folded(h, leading, blocks, 2**left, 2**right)
        return body.op("MatMul", _table(body, left), body.op("MatMul", h, _table(body, right)))
    right = bits // 3
    left, middle = (bits - right) // 2, (bits - right + 1) // 2
    h = body.folded(h, leading, blocks, 2**left, 2**middle, 2**right)
    h = body.op("MatMul", _table(body, middle), body.op("MatMul", h, _table(body, right)))
    h = body.folded(h, leading, blocks, 2**left, 2 ** (middle + right))
    return body.op("MatMul", _table(body, left), h)


def _table(body: Body, bits: int) -> str:
    """``H`` of side ``2^bits``, natural order: ``(−1)`` to the number of bits that row and column share."""

    def make() -> str:
        op = body.op
        if bits == 0:
            return body.like_input(body.column(body.ints(1)))
        places = op("Div", body.column(body.indices(2**bits)), body.ints(*(2**bit for bit in range(bits))))
        digits = op("Cast", op("Mod", places, body.whole(2)), to=1)  # (2^bits, bits)
        shared = op("Cast", op("MatMul", digits, op("Transpose", digits)), to=7)
        parity = op("Cast", op("Mod", shared, body.whole(2)), to=1)
        return body.like_input(op("Sub", body.real(1.0), op("Mul", parity, body.real(2.0))))

    return body.once(f"H{bits}", make)
