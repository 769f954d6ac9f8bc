"""The fast transforms in plain torch operators, along the last axis: oracle and fallback of every native kernel.

All of them take any leading shape, are differentiable, trace under ``torch.export`` and run on the meta
device. Tables are computed at each call (from ``arange``, exactly reduced, in float64): nothing is cached and
no table lands in an exported program.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional as F

DENSE_LIMIT = 64  # up to this length one small matmul beats an FFT
_RADIX_BITS = 6  # Walsh–Hadamard factors of at most 64 × 64


def _pi() -> float:
    """π, computed: compiling for dynamic shapes makes a symbol of ``math.pi``, and an autograd function holds none."""
    return math.acos(-1)


def dct_matrix(n: int, *, dtype: torch.dtype = torch.float64, device: torch.device | None = None) -> Tensor:
    """``C_nk = √(2/N) ε_k cos(π(2n+1)k / 2N)``, ``ε_0 = 1/√2``, else 1 (Moczulski 2019, 3.10); ``C Cᵀ = I``."""
    index = torch.arange(n, device=device)
    turns = torch.outer(2 * index + 1, index) % (4 * n)  # exact: one turn is 4N
    table = torch.cos(turns.to(torch.float64) * (_pi() / (2 * n)))
    return (table * _scale(n, index)).to(dtype)


class _Dct(torch.autograd.Function):
    """The DCT-II, whose gradient is its inverse; autograd through the FFT would take longer."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return _dct(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Nothing need be kept."""

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return idct(grad)


class _Idct(torch.autograd.Function):
    """The DCT-III, whose gradient is the DCT-II."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return _idct(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Nothing need be kept."""

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return dct(grad)


def dct(x: Tensor) -> Tensor:
    """Orthonormal DCT-II, ``x C``, of any length N ≥ 1 (Makhoul 1980: one real FFT of length N)."""
    y: Tensor = _dct(x) if _is_transformed() else _Dct.apply(x)  # type: ignore[no-untyped-call]
    return y


def idct(x: Tensor) -> Tensor:
    """Orthonormal DCT-III, ``x Cᵀ``: the inverse of `dct`."""
    y: Tensor = _idct(x) if _is_transformed() else _Idct.apply(x)  # type: ignore[no-untyped-call]
    return y


def _is_transformed() -> bool:
    """Whether torch.func or forward-mode differentiation is at work, which look into operators only."""
    if torch.compiler.is_compiling():
        return False
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def _dct(x: Tensor) -> Tensor:
    n = x.shape[-1]
    if n <= DENSE_LIMIT:
        return x @ dct_matrix(n, dtype=x.dtype, device=x.device)
    if x.numel() == 0:  # no rows: the FFT libraries refuse
        return x.clone()
    if x.dtype in (torch.float16, torch.bfloat16):
        return _dct(x.float()).to(x.dtype)
    spectrum = torch.fft.rfft(torch.cat((x[..., 0::2], x[..., 1::2].flip(-1)), -1))  # (..., N//2 + 1)
    cos, sin = _twiddle(n, x)
    real, imaginary = spectrum.real, spectrum.imag
    low = real * cos + imaginary * sin
    high = (real * sin - imaginary * cos)[..., 1 : (n + 1) // 2].flip(-1)
    return torch.cat((low, high), -1) * _scale(n, torch.arange(n, device=x.device)).to(x.dtype)


def _idct(x: Tensor) -> Tensor:
    n = x.shape[-1]
    if n <= DENSE_LIMIT:
        return x @ dct_matrix(n, dtype=x.dtype, device=x.device).T
    if x.numel() == 0:
        return x.clone()
    if x.dtype in (torch.float16, torch.bfloat16):
        return _idct(x.float()).to(x.dtype)
    half = n // 2 + 1
    x = x / _scale(n, torch.arange(n, device=x.device)).to(x.dtype)
    low, high = x[..., :half], F.pad(x[..., n - half + 1 :].flip(-1), (1, 0))  # X_k and X_{N-k}, with X_N = 0
    cos, sin = _twiddle(n, x)
    spectrum = torch.complex(low * cos + high * sin, low * sin - high * cos)
    v = torch.fft.irfft(spectrum, n=n)
    even = (n + 1) // 2
    odd = F.pad(v[..., even:].flip(-1), (0, 2 * even - n))
    return torch.stack((v[..., :even], odd), -1).flatten(-2)[..., :n]


def gradients(
    function: Callable[..., Tensor], tensors: Sequence[Tensor], grad: Tensor, *, differentiable: bool
) -> tuple[Tensor, ...]:
    """The gradients of ``function(*tensors)`` by each of them, themselves ``differentiable`` or not."""
    with torch.enable_grad():
        leaves = [x if differentiable and x.requires_grad else x.detach().requires_grad_() for x in tensors]
        y = function(*leaves)
        return torch.autograd.grad(y, leaves, grad, create_graph=differentiable, materialize_grads=True)


def wanted_twice() -> bool:
    """Whether, within a backward pass, somebody wants the gradient's own gradient."""
    return torch.is_grad_enabled() and not torch.compiler.is_compiling()


def split(n: int) -> tuple[int, int]:
    """The most square ``n1 · n2 = n`` with ``n1 ≤ n2``; ``n1 = 1`` for a prime."""
    n1 = next(k for k in range(math.isqrt(n), 0, -1) if n % k == 0)
    return n1, n // n1


def dct2d(x: Tensor) -> Tensor:
    """``x (C_n1 ⊗ C_n2)``, with ``n1, n2`` from `split`: orthonormal, two small matmuls."""
    return _both_axes(x, dct)


def idct2d(x: Tensor) -> Tensor:
    """``x (C_n1 ⊗ C_n2)ᵀ``: the inverse of `dct2d`."""
    return _both_axes(x, idct)


def acdc(
    x: Tensor,
    a: Tensor,
    d: Tensor,
    bias: Tensor | None,
    permutation: Tensor | None,
    out_features: int,
    relu: bool,
    separable: bool,
) -> Tensor:
    """``K`` times ``y = ((x ⊙ a) C ⊙ d + β) Cᵀ``, ``(..., in ≤ N) -> (..., out_features ≤ N)`` (Moczulski 2019, 3.26).

    ``d, bias (K, N)``; ``a (K, N)``, or ``(K − 1, N)`` where that of the first member is 1. Between neighbours a ReLU
    where ``relu``, then ``h[i] = h[permutation[i]]``, ``(K − 1, N)``. The input is filled up with zeros.
    C is the DCT-II, or that of `dct2d` where ``separable``.
    """
    forward, inverse = (dct2d, idct2d) if separable else (dct, idct)
    depth, n = d.shape
    h = x if x.shape[-1] == n else F.pad(x, (0, n - x.shape[-1]))
    for k in range(depth):
        if k and relu:
            h = h.relu()
        if k and permutation is not None:
            h = h.index_select(-1, permutation[k - 1].long())
        row = k - depth + len(a)
        h = forward(h if row < 0 else h * a[row]) * d[k]
        h = inverse(h if bias is None else h + bias[k])
    return h[..., :out_features]


def hadamard_matrix(bits: int, *, dtype: torch.dtype = torch.float64, device: torch.device | None = None) -> Tensor:
    """``H`` of side ``2^bits`` in natural order, ``H_2d = [[H, H], [H, −H]]``, entries ±1, symmetric."""
    index = torch.arange(2**bits, device=device)
    shared = index[:, None] & index[None, :]
    table = torch.ones_like(shared)
    for bit in range(bits):
        table = table * (1 - 2 * ((shared >> bit) & 1))
    return table.to(dtype)


def fwht(x: Tensor) -> Tensor:
    """``x H``, Walsh–Hadamard in natural order, not normalised (``H H = N I``); ValueError unless N is 2^p.

    A Kronecker product of small matmuls.
    """
    n = x.shape[-1]
    bits = n.bit_length() - 1
    if n != 1 << bits:
        raise ValueError(f"a Walsh–Hadamard transform needs a power of two, not {n}")
    lead, right = x.shape[:-1], 1
    stages = max(1, math.ceil(bits / _RADIX_BITS))
    for stage in range(stages):
        radix_bits = bits // stages + (stage < bits % stages)
        h = hadamard_matrix(radix_bits, dtype=x.dtype, device=x.device)
        radix = 2**radix_bits
        if right == 1:
            x = x.reshape(*lead, n // radix, radix) @ h
        else:
            x = h @ x.reshape(*lead, n // (radix * right), radix, right)
        right *= radix
    return x.reshape(*lead, n)


def fastfood(
    x: Tensor, B: Tensor, permutation: Tensor, G: Tensor, S: Tensor, *, scale: float, features: str = "linear"
) -> Tensor:
    """``p = scale · S H G Π H B x`` in blocks, ``(..., in ≤ d) -> (..., n)`` (Le et al. 2013).

    ``B, G, permutation (blocks, d)``, ``S (n,)``. ``relu``: ``max(p, 0)``; ``rbf``: ``√(1/n) [cos p, sin p]``, 2n.
    """
    blocks, d = B.shape
    width = len(S)
    h = F.pad(x, (0, d - x.shape[-1])).unsqueeze(-2)  # (..., 1, d)
    h = fwht(h * B)  # (..., blocks, d)
    h = torch.stack([h[..., m, :].index_select(-1, permutation[m].long()) for m in range(blocks)], -2)
    h = fwht(h * G).flatten(-2)[..., :width] * (S * scale)
    return bend(h, features)


def bend(h: Tensor, features: str) -> Tensor:
    """The features of products ``h (..., n)``, and n or 2n of them (see `fastfood`)."""
    if features == "relu":
        return h.relu()
    return torch.cat((h.cos(), h.sin()), -1) * math.sqrt(1 / h.shape[-1]) if features == "rbf" else h


def monarch(x: Tensor, first: Tensor, second: Tensor, bias: Tensor | None, out_features: int) -> Tensor:
    """Block-diagonal, permutation, block-diagonal, ``(..., in ≤ k p) -> (..., out_features ≤ k q)`` (Dao et al. 2022).

    ``first (k, k·s, p)``, rows ordered (class, s); ``second (k, q, k·s)``, columns ordered (block, s). Output ``u`` is
    in class ``u mod k``.
    """
    k, hidden, p = first.shape
    x = F.pad(x, (0, k * p - x.shape[-1])) if k * p > x.shape[-1] else x
    h = x.reshape(-1, k, p).transpose(0, 1) @ first.mT  # (block, rows, class · s)
    h = h.reshape(k, -1, k, hidden // k).permute(2, 1, 0, 3).flatten(-2)  # (class, rows, block · s)
    y = (h @ second.mT).permute(1, 2, 0)  # (rows, q, class)
    y = y.reshape(*x.shape[:-1], second.shape[1] * k)[..., :out_features]
    return _biased(y, bias)


def csr(
    x: Tensor, values: Tensor, columns: Tensor, lengths: Tensor, bias: Tensor | None, out_features: int, block: int
) -> Tensor:
    """``x Wᵀ + b`` with W in compressed sparse rows of vectors, through the dense matrix.

    A vector is ``block`` neighbours in a column, the last ones cut at ``out_features``. ``columns (count,)``, block row
    after block row; ``lengths (rows,)``, how many of them each has; ``values (count · block,)``, vector by vector.
    """
    return F.linear(x, spread(values, columns, lengths, x.shape[-1], out_features, block), bias)


def spread(values: Tensor, columns: Tensor, lengths: Tensor, in_features: int, out_features: int, block: int) -> Tensor:
    """The dense matrix ``(out, in)`` of compressed sparse rows of vectors."""
    rows = torch.arange(len(lengths), device=lengths.device)
    rows = rows.repeat_interleave(lengths.long(), output_size=len(columns))
    flat = rows * (block * in_features) + columns.long()  # of each vector's first entry
    if block > 1:
        flat = (flat[:, None] + in_features * torch.arange(block, device=flat.device)).flatten()
    matrix = values.new_zeros(len(lengths) * block * in_features).scatter(0, flat, values)
    return matrix.reshape(len(lengths) * block, in_features)[:out_features]


def convolve(x: Tensor, c: Tensor) -> Tensor:
    """Circular convolutions, ``y_ti = Σ_j c_t[(i−j) mod N] x_tj``: ``x (..., T or 1, N), c (T, N) -> (..., T, N)``."""
    return _convolve(x, c, terms_are_added=False)


def convolve_sum(x: Tensor, c: Tensor) -> Tensor:
    """The sum over T of `convolve`, ``-> (..., N)``, with one inverse transform."""
    return _convolve(x, c, terms_are_added=True)


def _convolve(x: Tensor, c: Tensor, *, terms_are_added: bool) -> Tensor:
    n = x.shape[-1]
    if x.numel() == 0:  # no rows: the FFT libraries refuse
        y: Tensor = x * c
        return y.sum(-2) if terms_are_added else y
    if n <= DENSE_LIMIT:
        index = torch.arange(n, device=x.device)
        columns = c[..., (index - index[:, None]) % n]  # (T, j, i)
        return torch.einsum("...tj,tji->...i" if terms_are_added else "...tj,tji->...ti", x, columns)
    if x.dtype in (torch.float16, torch.bfloat16):
        return _convolve(x.float(), c.float(), terms_are_added=terms_are_added).to(x.dtype)
    spectrum = torch.fft.rfft(x) * torch.fft.rfft(c)
    back: Tensor = torch.fft.irfft(spectrum.sum(-2) if terms_are_added else spectrum, n=n)
    return back


def fourier(re: Tensor, im: Tensor) -> tuple[Tensor, Tensor]:
    """Unitary Fourier transform of ``re + i·im``, ``X_k = √(1/N) Σ_m x_m exp(−2πi mk / N)``, in two parts."""
    n = re.shape[-1]
    if re.numel() == 0:  # no rows: the FFT libraries refuse
        return re.clone(), im.clone()
    if re.dtype in (torch.float16, torch.bfloat16):
        real, imaginary = fourier(re.float(), im.float())
        return real.to(re.dtype), imaginary.to(re.dtype)
    if n <= DENSE_LIMIT:
        index = torch.arange(n, device=re.device)
        angles = (torch.outer(index, index) % n).to(torch.float64) * (2 * _pi() / n)  # exact: one turn is N
        cos, sin = ((table(angles) * math.sqrt(1 / n)).to(re.dtype) for table in (torch.cos, torch.sin))
        return re @ cos + im @ sin, im @ cos - re @ sin
    spectrum = torch.fft.fft(torch.complex(re, im), norm="ortho")
    return spectrum.real, spectrum.imag


def inverse_fourier(re: Tensor, im: Tensor) -> tuple[Tensor, Tensor]:
    """The inverse of `fourier`."""
    real, negative = fourier(re, -im)
    return real, -negative


def circulant(x: Tensor, c: Tensor, s: Tensor, bias: Tensor | None, out_features: int) -> Tensor:
    """``Σ_t C(c_t) (s_t ⊙ x) + b``, ``C(c)_ij = c[(i − j) mod N]``: ``(..., in ≤ N) -> (..., out_features ≤ N)``.

    ``c (T, N)``, ``s (T, in)``; the input is filled up with zeros (Cheng et al. 2015; Moczulski 2019, eq. 3.23).
    """
    h = F.pad(x.unsqueeze(-2) * s, (0, c.shape[-1] - x.shape[-1]))  # (..., T, N)
    return _biased(convolve_sum(h, c)[..., :out_features], bias)


def toeplitz(x: Tensor, G: Tensor, H: Tensor, bias: Tensor | None, out_features: int) -> Tensor:
    """``Σ_j Z₁(g_j) Z₋₁(h_j) x + b``, ``(..., in ≤ N) -> (..., out_features ≤ N)`` (Sindhwani et al. 2015).

    ``G, H (r, N)``; ``Z_f(v)_ij = v[i − j]`` on and below the diagonal and ``f · v[N + i − j]`` above. The input is
    filled up with zeros.
    """
    n = G.shape[-1]
    h = F.pad(x, (0, 2 * n - x.shape[-1])).unsqueeze(-2)  # (..., 1, 2N)
    h = convolve(h, torch.cat((H, -H), -1))[..., :n]  # skew: half of twice the length
    return _biased(convolve_sum(h, G)[..., :out_features], bias)


def afdf(x: Tensor, a: Tensor, d: Tensor, bias: Tensor | None, out_features: int) -> Tensor:
    """``Re(x Π_k A_k F D_k F⁻¹) + b``, ``(..., in ≤ N) -> (..., out_features ≤ N)`` (Moczulski 2019, eq. 3.26).

    ``a, d (K, 2, N)``: real and imaginary parts. F is `fourier`; the input is filled up with zeros.
    """
    re = F.pad(x, (0, a.shape[-1] - x.shape[-1]))
    im = torch.zeros_like(re)
    for before, between in zip(a, d, strict=True):
        re, im = fourier(*_times(re, im, before))
        re, im = inverse_fourier(*_times(re, im, between))
    return _biased(re[..., :out_features], bias)


def _biased(y: Tensor, bias: Tensor | None) -> Tensor:
    return y if bias is None else y + bias


def _times(re: Tensor, im: Tensor, diagonal: Tensor) -> tuple[Tensor, Tensor]:
    """The complex product with ``diagonal (2, N)``, as real and imaginary part."""
    by_re, by_im = diagonal
    return re * by_re - im * by_im, re * by_im + im * by_re


def _scale(n: int, index: Tensor) -> Tensor:
    return torch.where(index == 0, math.sqrt(1 / n), math.sqrt(2 / n)).to(torch.float64)


def _twiddle(n: int, like: Tensor) -> tuple[Tensor, Tensor]:
    angles = torch.arange(n // 2 + 1, device=like.device, dtype=torch.float64) * (_pi() / (2 * n))
    return torch.cos(angles).to(like.dtype), torch.sin(angles).to(like.dtype)


def _both_axes(x: Tensor, transform: Callable[[Tensor], Tensor]) -> Tensor:
    n1, n2 = split(x.shape[-1])
    square = transform(x.reshape(*x.shape[:-1], n1, n2))
    return transform(square.transpose(-1, -2)).transpose(-1, -2).reshape(x.shape)
