"""What stands between Fourier transforms as ONNX nodes, and the bodies of their functions, in real arithmetic.

With N = n1·n2, the input as an ``n1 × n2`` matrix X and k = k1 + n1·k2, the Fourier transform is
``F_n1 X``, a twiddle ``exp(−2πi k1 m2 / N)`` and a product with ``F_n2``: small real matmuls of cosines and sines.
A complex value is kept as (re, im) for ``re − i·im``, so that no table needs a sign. Of a real input only
``k1 ≤ n1/2`` is formed. The spectra of the parameters come from the same tables and do not depend on ``x``: a
runtime computes them when it loads the model. No ``DFT`` node, no N × N table unless N is small or prime.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import Tensor

from compressor.layers.onnx_body import Body, call
from compressor_kernels.fourier import has_length

if TYPE_CHECKING:
    import onnx

DENSE_LIMIT = 255  # up to this N one dense matmul beats the transforms


class Fourier:
    """The transform of length ``n`` in (k1, k2) order, and its inverse; ``real``: of real inputs, half of k1."""

    def __init__(self, body: Body, n: int, *, real: bool) -> None:
        self.body = body
        self.n = n
        self.real = real
        self.n1, self.n2 = fourier_split(n, real=real)
        self.lines = self.n1 // 2 + 1 if real else self.n1
        index = body.indices(self.n2)
        self.theta = self._tables(body.indices(self.lines, step=2), index, n)  # (lines, n2)
        self.right = self._tables(body.indices(self.n2, step=2), index, self.n2)  # (n2, n2), symmetric

    def _tables(self, twice: str, right: str, n: int) -> tuple[str, str]:
        """Cosine and sine of ``π twice right / n``."""
        return self.body.cosines(twice, right, n), self.body.cosines(twice, right, n, sine=True)

    def _left(self, rows: int) -> tuple[str, str]:
        """``cos`` and ``sin`` of ``2π k1 m1 / n1`` for the first ``rows`` of m1, ``(lines, rows)``."""
        body = self.body

        def table(sine: bool) -> str:
            def make() -> str:
                doubled = body.indices(self.lines, step=2)
                return body.cosines(doubled, body.indices(rows), self.n1, sine=sine)

            return body.once(f"fourier{self.n}{self.real}left{rows}{sine}", make)

        return table(False), table(True)

    def rows(self, width: int) -> int:
        """How many rows of n2 hold ``width`` numbers."""
        return math.ceil(width / self.n2)

    def folded(self, x: str, leading: str, width: int, *sizes: int) -> str:
        """``x (..., width)`` as ``(leading, *sizes, rows, n2)``, padded with zeros."""
        rows = self.rows(width)
        return self.body.folded(self.body.padded(x, rows * self.n2 - width), leading, *sizes, rows, self.n2)

    def forward(self, x: str, width: int) -> tuple[str, str]:
        """``x (..., rows, n2)`` real, zero beyond ``width``, to its spectrum, ``(..., lines, n2)`` twice."""
        op = self.body.op
        return self._forward(*(op("MatMul", table, x) for table in self._left(self.rows(width))))

    def forward_complex(self, re: str, im: str, width: int) -> tuple[str, str]:
        """The same for a complex input."""
        op = self.body.op
        cos, sin = self._left(self.rows(width))
        return self._forward(
            op("Sub", op("MatMul", cos, re), op("MatMul", sin, im)),
            op("Add", op("MatMul", sin, re), op("MatMul", cos, im)),
        )

    def _forward(self, re: str, im: str) -> tuple[str, str]:
        op = self.body.op
        re, im = self.times(re, im, *self.theta)
        cos, sin = self.right
        return (
            op("Sub", op("MatMul", re, cos), op("MatMul", im, sin)),
            op("Add", op("MatMul", re, sin), op("MatMul", im, cos)),
        )

    def times(self, re: str, im: str, by_re: str, by_im: str) -> tuple[str, str]:
        """The complex product, entry by entry."""
        op = self.body.op
        return (
            op("Sub", op("Mul", re, by_re), op("Mul", im, by_im)),
            op("Add", op("Mul", re, by_im), op("Mul", im, by_re)),
        )

    def _backward(self, re: str, im: str) -> tuple[str, str]:
        """The way back up to the matrix on the left: the conjugate tables."""
        op = self.body.op
        cos, sin = self.right
        re, im = (
            op("Add", op("MatMul", re, cos), op("MatMul", im, sin)),
            op("Sub", op("MatMul", im, cos), op("MatMul", re, sin)),
        )
        cos, sin = self.theta
        return (
            op("Add", op("Mul", re, cos), op("Mul", im, sin)),
            op("Sub", op("Mul", im, cos), op("Mul", re, sin)),
        )

    def inverse(self, re: str, im: str, wanted: int) -> str:
        """The real part of the inverse times N, its first ``wanted`` numbers as ``(..., rows, n2)``.

        Of a transform of real inputs the lines that stand for two must count twice: see `spectrum`.
        """
        op, body = self.body.op, self.body
        re, im = self._backward(re, im)
        cos, sin = (body.transposed(table) for table in self._left(self.rows(wanted)))
        return op("Add", op("MatMul", cos, re), op("MatMul", sin, im))

    def inverse_complex(self, re: str, im: str) -> tuple[str, str]:
        """The whole inverse times N, ``(..., n1, n2)`` twice."""
        op, body = self.body.op, self.body
        re, im = self._backward(re, im)
        cos, sin = (body.transposed(table) for table in self._left(self.n1))
        return (
            op("Add", op("MatMul", cos, re), op("MatMul", sin, im)),
            op("Sub", op("MatMul", cos, im), op("MatMul", sin, re)),
        )

    def flat(self, y: str, leading: str, wanted: int, *sizes: int) -> str:
        """``(..., rows, n2)`` as ``(leading, *sizes, wanted)``."""
        y = self.body.folded(y, leading, *sizes, self.rows(wanted) * self.n2)
        return self.body.cut(y, wanted) if wanted < self.rows(wanted) * self.n2 else y

    def spectrum(self, c: str, terms: int) -> tuple[str, str]:
        """Of real ``c (terms, n)``, ``(terms, lines, n2)`` twice: what to multiply by for a convolution with c.

        1/N is in it, and the factor two of each line k1 that stands for n1 − k1 as well.
        """
        body, op = self.body, self.body.op
        re, im = self.forward(op("Reshape", c, body.ints(terms, self.n1, self.n2)), self.n)
        k1 = body.column(body.indices(self.lines))
        alone = op("Equal", op("Mod", op("Mul", k1, body.whole(2)), body.whole(self.n1)), body.whole(0))
        scale = body.like_input(op("Where", alone, body.real(1 / self.n), body.real(2 / self.n)))
        return op("Mul", re, scale), op("Mul", im, scale)


def fourier_split(n: int, *, real: bool) -> tuple[int, int]:
    """The ``n1 · n2 = n`` of least work in one transform; multiply-adds, of a full input."""

    def work(n1: int) -> int:
        n2 = n // n1
        return (n1 // 2 + 1) * (2 * n + 4 * n2 * n2) if real else n1 * (4 * n + 4 * n2 * n2)

    n1 = min((k for k in range(1, n + 1) if n % k == 0), key=work)
    return n1, n // n1


# --- circulant --------------------------------------------------------------------------------------------------------


def circulant_node(x: Tensor, c: Tensor, signs: Tensor, *, out_features: int, expanded: bool) -> Tensor:
    """``Σ_t c_t ⊛ (s_t ⊙ x)`` as one node: ``(..., in) -> (..., out)``; ``c (T, N)``, ``signs (T, in)`` of any type."""
    terms, n = c.shape
    return call(
        _circulant_name(x.shape[-1], out_features, n, terms, expanded), [x, c, signs], out_features, size=n, terms=terms
    )


def circulant_functions(
    in_features: int, out_features: int, *, size: int, terms: int, expanded: bool
) -> list[onnx.FunctionProto]:
    """The body of the node that `circulant_node` emits; ``expanded``: one dense matrix, made at load."""
    body = Body(_circulant_name(in_features, out_features, size, terms, expanded), ["x", "c", "s"])
    op, leading = body.op, body.leading("x")
    signs = body.like_input("s")
    if expanded or size <= DENSE_LIMIT:
        along = op("MatMul", op("Transpose", "c"), signs)  # (N, in): row k holds all entries with i − j = k
        j = body.column(body.indices(in_features))
        k = op("Mod", op("Sub", body.indices(out_features), j), body.whole(size))  # (in, out)
        place = op("Add", op("Mul", k, body.whole(in_features)), j)
        weight = op("Gather", op("Reshape", along, body.ints(-1)), place)  # (in, out)
        return [body.function(op("MatMul", "x", weight))]
    fourier = Fourier(body, size, real=True)
    h = op("Mul", body.folded("x", leading, 1, in_features), signs)  # (..., T, in)
    re, im = fourier.forward(fourier.folded(h, leading, in_features, terms), in_features)
    re, im = fourier.times(re, im, *fourier.spectrum("c", terms))
    re, im = (op("ReduceSum", part, body.ints(-3), keepdims=0) for part in (re, im))
    return [body.function(fourier.flat(fourier.inverse(re, im, out_features), leading, out_features))]


def _circulant_name(in_features: int, out_features: int, size: int, terms: int, expanded: bool) -> str:
    dense = expanded or size <= DENSE_LIMIT or not has_length("circulant", size)  # a kind without a native operator
    flag = "_expanded" if expanded else ""
    return f"Circulant{'Dense' * dense}_{in_features}x{out_features}_N{size}_T{terms}{flag}"


# --- AFDF -------------------------------------------------------------------------------------------------------------


def afdf_node(x: Tensor, a: Tensor, d: Tensor, *, out_features: int) -> Tensor:
    """The real part of ``x Π_k A_k F D_k F⁻¹`` as one node, ``(..., in) -> (..., out)``.

    ``a, d (K, 2, N)``: real and imaginary parts.
    """
    depth, _, n = a.shape
    return call(_afdf_name(x.shape[-1], out_features, n, depth), [x, a, d], out_features, size=n, depth=depth)


def afdf_functions(in_features: int, out_features: int, *, size: int, depth: int) -> list[onnx.FunctionProto]:
    """The body of the node that `afdf_node` emits for a layer of this shape."""
    body = Body(_afdf_name(in_features, out_features, size, depth), ["x", "a", "d"])
    op, leading = body.op, body.leading("x")
    fourier = Fourier(body, size, real=False)
    n1, n2 = fourier.n1, fourier.n2

    def parts(diagonals: str, k: int) -> tuple[str, str]:
        """Real part and minus the imaginary part of the k-th diagonal, ``(N,)`` each."""
        diagonal = body.row(diagonals, k)
        return body.row(diagonal, 0), op("Neg", body.row(diagonal, 1))

    def in_frequency_order(diagonal: str) -> str:
        """``(N,) -> (n1, n2)`` at k1 + n1 k2, with the 1/N of both transforms."""
        square = op("Transpose", op("Reshape", diagonal, body.ints(n2, n1)))
        return op("Mul", square, body.like_input(body.real(1 / size)))

    width = in_features
    first = [op("Mul", "x", body.cut(part, width) if width < size else part) for part in parts("a", 0)]
    re, im = (fourier.folded(part, leading, width) for part in first)
    for k in range(depth):
        if k:
            re, im = fourier.times(re, im, *(op("Reshape", part, body.ints(n1, n2)) for part in parts("a", k)))
        re, im = fourier.forward_complex(re, im, width)
        re, im = fourier.times(re, im, *(in_frequency_order(part) for part in parts("d", k)))
        width = size
        if k < depth - 1:
            re, im = fourier.inverse_complex(re, im)
    return [body.function(fourier.flat(fourier.inverse(re, im, out_features), leading, out_features))]


def _afdf_name(in_features: int, out_features: int, size: int, depth: int) -> str:
    return f"AFDF{'' if has_length('afdf', size) else 'Dense'}_{in_features}x{out_features}_N{size}_K{depth}"


# --- Toeplitz-like ----------------------------------------------------------------------------------------------------


def toeplitz_node(x: Tensor, G: Tensor, H: Tensor, *, out_features: int) -> Tensor:
    """``Σ_j Z₁(g_j) Z₋₁(h_j) x`` as one node: ``(..., in) -> (..., out)``; ``G, H (r, N)``."""
    rank, n = G.shape
    return call(_toeplitz_name(x.shape[-1], out_features, n, rank), [x, G, H], out_features, size=n, rank=rank)


def toeplitz_functions(in_features: int, out_features: int, *, size: int, rank: int) -> list[onnx.FunctionProto]:
    """The body of the node that `toeplitz_node` emits: the skew convolution is half of a circular one of 2N."""
    body = Body(_toeplitz_name(in_features, out_features, size, rank), ["x", "G", "H"])
    op, leading = body.op, body.leading("x")
    double, single = Fourier(body, 2 * size, real=True), Fourier(body, size, real=True)
    skew = op("Concat", "H", op("Neg", "H"), axis=-1)  # (r, 2N)
    re, im = double.forward(double.folded("x", leading, in_features, 1), in_features)
    re, im = double.times(re, im, *double.spectrum(skew, rank))  # (..., r, lines, n2)
    h = double.flat(double.inverse(re, im, size), leading, size, rank)  # (..., r, N)
    re, im = single.forward(single.folded(h, leading, size, rank), size)
    re, im = single.times(re, im, *single.spectrum("G", rank))
    re, im = (op("ReduceSum", part, body.ints(-3), keepdims=0) for part in (re, im))
    return [body.function(single.flat(single.inverse(re, im, out_features), leading, out_features))]


def _toeplitz_name(in_features: int, out_features: int, size: int, rank: int) -> str:
    return f"Toeplitz{'' if has_length('toeplitz', size) else 'Dense'}_{in_features}x{out_features}_N{size}_R{rank}"
