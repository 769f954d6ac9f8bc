"""One function a transform, and the name of the path that it takes.

Layers call these and never `reference` itself: here it is decided what the native kernels do and what plain torch.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from compressor_kernels import hadamard, native, reference
from compressor_kernels import monarch as native_monarch


def path(x: Tensor, op: str = "dct") -> str:
    """Which implementation ``op`` takes for ``x``."""
    if _is_native(x) and op in _NATIVE:
        return native.describe(op, x.shape[-1], x.numel() // max(1, x.shape[-1]))
    return f"reference ({x.device.type})"


_NATIVE = {"dct", "idct", "acdc", "fwht", "fastfood", "monarch"}


def _way(*tensors: Tensor) -> Literal["reference", "op", "direct"]:
    """How the kernels are reached: by an operator of torch where it must be traced or differentiated.

    Exported programs hold plain torch, so that they load where there are no kernels.
    """
    if not _has_library():
        return "reference"
    for tensor in tensors:
        if tensor.dtype != torch.float32 or tensor.device.type != "cpu":
            return "reference"
    if torch.compiler.is_compiling():
        return "reference" if torch.compiler.is_exporting() else "op"
    if torch._C._are_functorch_transforms_active():  # the kernels have no rule for vmap
        return "reference"
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return "op"
    return "direct" if all(type(tensor) in _PLAIN for tensor in tensors) else "op"


_PLAIN = {Tensor, torch.nn.Parameter}


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _has_library() -> bool:
    return native.library() is not None


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
    way = _way(x)
    if way == "reference":
        return reference.fwht(x)
    result: Tensor = hadamard.run_fwht(x) if way == "direct" else hadamard.fwht(x)
    return result


def fastfood(
    x: Tensor, B: Tensor, permutation: Tensor, G: Tensor, S: Tensor, *, scale: float, features: str = "linear"
) -> Tensor:
    """`reference.fastfood`: a whole stack of blocks, and the nonlinearity if there is one."""
    way = _way(x, B, G, S)
    if way == "reference":
        return reference.fastfood(x, B, permutation, G, S, scale=scale, features=features)
    if way == "direct":
        return hadamard.run_fastfood(x, B, permutation, G, S, scale=scale, features=features)
    result: Tensor = hadamard.fastfood(x, B, permutation, G, S, scale, features)
    return result


def monarch(x: Tensor, first: Tensor, second: Tensor, bias: Tensor | None, out_features: int) -> Tensor:
    """`reference.monarch`: block-diagonal, permutation, block-diagonal. For gradients, the plain one."""
    tensors = (x, first, second) if bias is None else (x, first, second, bias)
    way = _way(*tensors)
    if way == "reference" or (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)):
        return reference.monarch(x, first, second, bias, out_features)
    if way == "direct":
        return native_monarch.run_monarch(x, first, second, bias, out_features)
    result: Tensor = native_monarch.monarch(x, first, second, bias, out_features)
    return result


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
