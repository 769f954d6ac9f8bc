"""One function a transform, and the name of the path that it takes.

Layers call these and never `reference` itself: here it is decided what the native kernels do and what plain torch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from compressor_kernels import cuda, native, reference


def path(x: Tensor, op: str = "dct") -> str:
    """Which implementation ``op`` takes for ``x``."""
    if _is_native(x) and op in _NATIVE:
        return native.describe(op, x.shape[-1], x.numel() // max(1, x.shape[-1]))
    n = x.shape[-1]
    if (op == "acdc" and cuda.serves_acdc(x, n)) or (op == "fwht" and cuda.serves_fwht(x)):
        return "cuda single call"
    return f"reference ({x.device.type})"


_NATIVE = {"dct", "idct", "acdc"}


def _is_native(x: Tensor) -> bool:
    """Whether the native kernels take ``x``: float32 in the CPU's memory, nothing being traced, and a library."""
    return (
        x.dtype == torch.float32
        and x.device.type == "cpu"
        and x.numel() > 0
        and not torch.compiler.is_compiling()
        and not (torch.is_grad_enabled() and x.requires_grad)
        and type(x) in (Tensor, torch.nn.Parameter)
        and native.library() is not None
    )


def acdc(
    x: Tensor,
    a: Tensor,
    d: Tensor,
    bias: Tensor | None,
    permutation: Tensor | None,
    out_features: int,
    *,
    relu: bool = False,
    separable: bool = False,
) -> Tensor:
    """`reference.acdc`: a whole cascade of diagonals between cosine transforms."""
    tables = (x, a, d) if bias is None else (x, a, d, bias)
    if not separable and all(_is_native(table) for table in tables):
        return native.acdc(x, a, d, bias, permutation, out_features=out_features, relu=relu, separable=separable)
    if not separable and cuda.serves_acdc(x, d.shape[1]):
        dtype = torch.result_type(x, d)  # as plain torch would: half rows times float diagonals are float
        return cuda.acdc(x.to(dtype), a, d, bias, permutation, out_features, relu)
    return reference.acdc(x, a, d, bias, permutation, out_features, relu, separable)


def dct(x: Tensor) -> Tensor:
    """`reference.dct`: orthonormal DCT-II along the last axis."""
    return native.dct(x) if _is_native(x) else reference.dct(x)


def idct(x: Tensor) -> Tensor:
    """`reference.idct`: orthonormal DCT-III along the last axis."""
    return native.dct(x, inverse=True) if _is_native(x) else reference.idct(x)


def dct2d(x: Tensor) -> Tensor:
    """`reference.dct2d`: the separable transform ``C_n1 ⊗ C_n2``."""
    return reference.dct2d(x)


def idct2d(x: Tensor) -> Tensor:
    """`reference.idct2d`: the inverse of the separable transform."""
    return reference.idct2d(x)


def fwht(x: Tensor) -> Tensor:
    """`reference.fwht`: Walsh–Hadamard, natural order, not normalised."""
    return cuda.fwht(x) if cuda.serves_fwht(x) else reference.fwht(x)


def convolve(x: Tensor, c: Tensor) -> Tensor:
    """`reference.convolve`: circular convolution, leading axes broadcast."""
    return reference.convolve(x, c)


def convolve_sum(x: Tensor, c: Tensor) -> Tensor:
    """`reference.convolve_sum`: the sum of circular convolutions over the last axis but one."""
    return reference.convolve_sum(x, c)


def fourier(re: Tensor, im: Tensor) -> tuple[Tensor, Tensor]:
    """`reference.fourier`: unitary Fourier transform of ``re + i·im`` along the last axis."""
    return reference.fourier(re, im)


def inverse_fourier(re: Tensor, im: Tensor) -> tuple[Tensor, Tensor]:
    """`reference.inverse_fourier`: the inverse of `fourier`."""
    return reference.inverse_fourier(re, im)
