"""One function a transform, and the name of the path that it takes.

Layers call these and never `reference` itself, so that a native kernel is an addition here.
"""

from __future__ import annotations

from torch import Tensor

from compressor_kernels import reference


def path(x: Tensor) -> str:
    """Which implementation the transforms take for ``x``."""
    return f"reference ({x.device.type})"


def dct(x: Tensor) -> Tensor:
    """`reference.dct`: orthonormal DCT-II along the last axis."""
    return reference.dct(x)


def idct(x: Tensor) -> Tensor:
    """`reference.idct`: orthonormal DCT-III along the last axis."""
    return reference.idct(x)


def dct2d(x: Tensor) -> Tensor:
    """`reference.dct2d`: the separable transform ``C_n1 ⊗ C_n2``."""
    return reference.dct2d(x)


def idct2d(x: Tensor) -> Tensor:
    """`reference.idct2d`: the inverse of the separable transform."""
    return reference.idct2d(x)


def fwht(x: Tensor) -> Tensor:
    """`reference.fwht`: Walsh–Hadamard, natural order, not normalised."""
    return reference.fwht(x)


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
