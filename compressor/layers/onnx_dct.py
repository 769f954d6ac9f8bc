"""ACDC as one ONNX node, and the body of its function (Moczulski 2019, 3.10; eq. 3.26).

A function is made for one shape and named after it, ``ACDC_800x500_N800_K2_dct_bias_permuted``: sizes are
literals in the body. With N = n1·n2 and the input as an ``n1 × n2`` matrix X, the cosine transform at
``k = ±k1 + 2 n1 q`` is ``P ∓ Q``::

    u = cos(π k1 m1/n1) X              v = sin(π k1 m1/n1) X             θ = π k1 (2 m2+1) / 2N
    P = (u cos θ − v sin θ) cos(π q (2 m2+1)/n2)     Q = (u sin θ + v cos θ) sin(π q (2 m2+1)/n2)

so that a member of the cascade is eight small matmuls with the diagonal between them in (k1, q) order: neither
the spectrum nor its natural order is ever formed. No ``DFT`` node, no N × N table unless N is small or prime.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from compressor.layers.onnx_body import Body, call
from compressor_kernels.reference import split

if TYPE_CHECKING:
    import onnx

DENSE_LIMIT = 255  # up to this N two small dense matmuls beat eight smaller ones


@dataclass(frozen=True)
class Shape:
    """All that a body depends on."""

    in_features: int
    out_features: int
    size: int
    depth: int
    basis: str
    relu: bool
    bias: bool
    permuted: bool

    @property
    def name(self) -> str:
        """The function's name; different shapes have different ones."""
        flags = [word for word, said in (("relu", self.relu), ("bias", self.bias), ("permuted", self.permuted)) if said]
        sizes = f"{self.in_features}x{self.out_features}_N{self.size}_K{self.depth}"
        return "_".join(["ACDC", sizes, self.basis, *flags])


def acdc_node(
    x: Tensor,
    a: Tensor,
    d: Tensor,
    beta: Tensor | None,
    perm: Tensor | None,
    *,
    out_features: int,
    relu: bool,
    basis: str,
) -> Tensor:
    """The whole cascade as one node of the ``compressor`` domain, ``(..., in) -> (..., out)``.

    ``a, d, beta (K, N)``; ``perm (K−1, N)`` whole numbers of any type, None where nothing is permuted.
    """
    depth, size = a.shape
    shape = Shape(x.shape[-1], out_features, size, depth, basis, relu, beta is not None, perm is not None)
    inputs = [value for value in (x, a, d, beta, perm) if value is not None]
    return call(shape.name, inputs, out_features, size=size, depth=depth, basis=basis, relu=int(relu))


def acdc_functions(
    in_features: int,
    out_features: int,
    *,
    size: int,
    depth: int,
    basis: str,
    relu: bool,
    bias: bool,
    permuted: bool,
) -> list[onnx.FunctionProto]:
    """The body of the node that `acdc_node` emits for a layer of this shape."""
    shape = Shape(in_features, out_features, size, depth, basis, relu, bias, permuted)
    inputs = ["x", "a", "d", *(["beta"] if bias else []), *(["perm"] if permuted else [])]
    body = Body(shape.name, inputs)
    member: _Member
    if basis == "dct2d":
        member = _Separable(body, shape)
    elif size <= DENSE_LIMIT:
        member = _Dense(body, shape)
    else:
        member = _Twiddled(body, shape)
    leading = body.leading("x")
    order = body.op("Cast", "perm", to=7) if permuted else ""  # int64: what Gather takes
    h, width = "x", in_features
    for k in range(depth):
        last = k == depth - 1
        if k and relu:
            h = body.op("Relu", h)
        if k and permuted:
            h = body.permuted(h, body.row(order, k - 1))
        gain = body.row("a", k)
        h = body.op("Mul", h, gain if width == size else body.cut(gain, width))
        h = member(h, leading, k, width, out_features if last else size)
        width = size
    return [body.function(h)]


class _Member:
    """One ``(h C ⊙ d + β) Cᵀ``: tables are appended to the body once, the rest at each call."""

    def __init__(self, body: Body, shape: Shape) -> None:
        self.body = body
        self.shape = shape

    def __call__(self, h: str, leading: str, k: int, width: int, wanted: int) -> str:
        """``h (..., width)``, zero beyond, to ``(..., wanted)``: the first ones of N."""
        raise NotImplementedError

    def diagonal(self, h: str, k: int, *sizes: int) -> str:
        """``h ⊙ d_k + β_k``, the diagonals as ``sizes``."""
        body = self.body
        for kind, values in (("Mul", "d"), ("Add", "beta")):
            if values in body.inputs:
                h = body.op(kind, h, body.op("Reshape", body.row(values, k), body.ints(*sizes)))
        return h


def _cosine_matrix(body: Body, n: int, rows: int) -> str:
    """The first ``rows`` of the orthonormal DCT-II matrix, ``(rows, n)``."""
    table = body.cosines(body.indices(rows, start=1, step=2), body.indices(n), 2 * n)
    first = body.op("Equal", body.indices(n), body.whole(0))
    scale = body.op("Where", first, body.real(math.sqrt(1 / n)), body.real(math.sqrt(2 / n)))
    return body.op("Mul", table, body.like_input(scale))


class _Dense(_Member):
    """Two N × N matmuls, for small N."""

    def __call__(self, h: str, leading: str, k: int, width: int, wanted: int) -> str:
        body, n = self.body, self.shape.size
        h = body.op("MatMul", h, body.once(f"C{width}", lambda: _cosine_matrix(body, n, width)))
        h = self.diagonal(h, k, n)
        back = body.once(f"C{wanted}", lambda: _cosine_matrix(body, n, wanted))
        return body.op("MatMul", h, body.transposed(back))


class _Separable(_Member):
    """``C_n1ᵀ X C_n2``, the diagonal, and back: four small matmuls."""

    def __call__(self, h: str, leading: str, k: int, width: int, wanted: int) -> str:
        body = self.body
        n1, n2 = split(self.shape.size)
        rows, rows_out = math.ceil(width / n2), math.ceil(wanted / n2)

        def left(count: int) -> str:
            return body.once(f"left{count}", lambda: _cosine_matrix(body, n1, count))

        right = body.once("right", lambda: _cosine_matrix(body, n2, n2))
        h = body.folded(body.padded(h, rows * n2 - width), leading, rows, n2)
        h = body.op("MatMul", h, right)
        if n1 > 1:
            h = body.op("MatMul", body.transposed(left(rows)), h)
        h = self.diagonal(h, k, n1, n2)
        if n1 > 1:
            h = body.op("MatMul", left(rows_out), h)
        h = body.op("MatMul", h, body.transposed(right))
        h = body.folded(h, leading, rows_out * n2)
        return body.cut(h, wanted) if wanted < rows_out * n2 else h


class _Twiddled(_Member):
    """The cosine transform as two small real matmuls with a twiddle between, of any N = n1·n2."""

    def __init__(self, body: Body, shape: Shape) -> None:
        super().__init__(body, shape)
        n = shape.size
        self.n1, self.n2 = n1, n2 = twiddle_split(n)
        self.even = n2 % 2 == 0
        self.columns = columns = n2 // 2 if self.even else (n2 + 1) // 2
        k1, q, odd = body.indices(n1 + 1), body.indices(columns), body.indices(n2, start=1, step=2)
        # An even n2 has one column more of Q than of P, q = n2/2; it stands where Q's empty column 0 would be.
        q_sine = body.op("Where", self._is_zero(q), body.whole(n2 // 2), q) if self.even else q
        self.k1 = k1
        self.theta = body.cosines(k1, odd, 2 * n), body.cosines(k1, odd, 2 * n, sine=True)  # (n1 + 1, n2)
        back = body.cosines(q, odd, n2), body.cosines(q_sine, odd, n2, sine=True)  # (columns, n2)
        self.right_back = back
        self.right = tuple(body.transposed(table) for table in back)
        self._diagonals(k1, q)

    def _is_zero(self, index: str) -> str:
        return self.body.op("Equal", index, self.body.whole(0))

    def _diagonals(self, k1: str, q: str) -> None:
        """d and β gathered into (K, n1 + 1, columns), at ``+k1 + 2 n1 q`` and ``−k1 + 2 n1 q``, scaled by 2/N.

        The two coincide at k1 = 0 and n1, where the second counts nothing.
        """
        body, n, n1 = self.body, self.shape.size, self.n1
        steps, lines = body.op("Mul", q, body.whole(2 * n1)), body.column(k1)
        plus, minus = body.op("Add", lines, steps), body.op("Mod", body.op("Sub", steps, lines), body.whole(n))
        plus = body.op("Mod", plus, body.whole(n))  # an odd n2 has k = N as well, where all cosines are 0
        twice = body.op("Less", body.op("Mod", lines, body.whole(n1)), body.whole(1))  # k1 = 0 or n1
        first = self._is_zero(q)  # (columns,)
        if not self.even:
            twice = body.op("Or", twice, first)

        def gathered(values: str, power: float) -> tuple[str, str]:
            low, high = body.real((1 / n) ** power), body.real((2 / n) ** power)
            at_plus = body.like_input(body.op("Where", self._is_zero(plus), low, high))
            at_minus = body.like_input(body.op("Where", twice, body.real(0.0), high))
            return (
                body.op("Mul", body.op("Gather", values, plus, axis=1), at_plus),
                body.op("Mul", body.op("Gather", values, minus, axis=1), at_minus),
            )

        def except_first(column: str, rest: str) -> str:
            return body.op("Where", first, column, rest) if self.even else rest

        up, down = gathered("d", 1.0)
        both = body.op("Add", up, down)
        self.of_p, self.of_q = except_first(up, both), except_first(down, both)
        self.across = except_first(body.like_input(body.real(0.0)), body.op("Sub", up, down))
        self.offsets: tuple[str, str] | None = None
        if self.shape.bias:
            up, down = gathered("beta", 0.5)
            self.offsets = (
                except_first(up, body.op("Add", up, down)),
                except_first(down, body.op("Sub", down, up)),
            )

    def _left(self, rows: int) -> tuple[str, str]:
        """``cos`` and ``sin`` of ``π k1 m1 / n1`` for the first ``rows`` of m1, ``(n1 + 1, rows)``."""
        body = self.body

        def table(sine: bool) -> str:
            return body.once(f"left{rows}{sine}", lambda: body.cosines(self.k1, body.indices(rows), self.n1, sine=sine))

        return table(False), table(True)

    def __call__(self, h: str, leading: str, k: int, width: int, wanted: int) -> str:
        op, n2 = self.body.op, self.n2
        rows, rows_out = math.ceil(width / n2), math.ceil(wanted / n2)
        cos, sin = self.theta
        x = self.body.folded(self.body.padded(h, rows * n2 - width), leading, rows, n2)
        u, v = (op("MatMul", table, x) for table in self._left(rows))  # (..., n1 + 1, n2)
        real = op("Sub", op("Mul", u, cos), op("Mul", v, sin))
        imaginary = op("Add", op("Mul", u, sin), op("Mul", v, cos))
        p, q = op("MatMul", real, self.right[0]), op("MatMul", imaginary, self.right[1])  # (..., n1 + 1, columns)
        of_p, of_q, across = (self.body.row(table, k) for table in (self.of_p, self.of_q, self.across))
        p, q = (
            op("Sub", op("Mul", p, of_p), op("Mul", q, across)),
            op("Sub", op("Mul", q, of_q), op("Mul", p, across)),
        )
        if self.offsets is not None:
            p, q = (
                op("Add", value, self.body.row(offset, k)) for value, offset in zip((p, q), self.offsets, strict=True)
            )
        real, imaginary = op("MatMul", p, self.right_back[0]), op("MatMul", q, self.right_back[1])
        u = op("Add", op("Mul", real, cos), op("Mul", imaginary, sin))
        v = op("Sub", op("Mul", imaginary, cos), op("Mul", real, sin))
        back = [self.body.transposed(table) for table in self._left(rows_out)]
        y = op("Add", op("MatMul", back[0], u), op("MatMul", back[1], v))
        y = self.body.folded(y, leading, rows_out * n2)
        return self.body.cut(y, wanted) if wanted < rows_out * n2 else y


def twiddle_split(n: int) -> tuple[int, int]:
    """The ``n1 · n2 = n`` of least work, ``2 (n1 + 1)(n1 n2 + n2 ⌈n2/2⌉)`` multiply-adds a transform."""
    divisors = [k for k in range(1, n + 1) if n % k == 0]
    n1 = min(divisors, key=lambda k: (k + 1) * (n + (n // k) * math.ceil(n / k / 2)))
    return n1, n // n1
