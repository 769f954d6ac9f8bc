"""One function a transform, and the name of the path that it takes.

Layers call these and never `reference` itself: here it is decided what the native kernels do and what plain torch.

- Native, called at once: float32 on the CPU, and float32, float16 and bfloat16 on a GPU (`gpu`), where nothing is
  recorded. A torch operator would cost more than a kernel.
- Native, as a torch operator (`ops`): where a gradient is wanted, where a tensor is negated lazily, and within
  ``torch.compile`` (of torch 2.7 and later).
- Plain torch: every other dtype and device, lengths without a native transform, no library; and while a program is
  exported, so that the file runs where this package is not. On a GPU that is several kernels, the multi-call path.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from compressor_kernels import fourier, gpu, hadamard, native, ops, quick, reference, sparse
from compressor_kernels import monarch as native_monarch

Route = Literal["reference", "operator", "native"]

# Before 2.7 torch does not tell an export from a compilation: there both are in plain torch.
_is_exporting: Callable[[], bool] = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)


def path(x: Tensor, op: str = "dct", n: int | None = None) -> str:
    """Which implementation ``op`` takes for ``x``; a native one names its instruction set and its way.

    ``n`` is the length of the transform, where it is not that of the rows of ``x``. ``acdc2d`` is a cascade with the
    separable transform; of ``csr`` it is said what a matrix takes that is at most half full.
    """
    known: dict[str, Callable[[int], bool]] = {
        "dct": native.can_dct,
        "idct": native.can_dct,
        "acdc": native.can_cascade,
        "acdc2d": partial(native.can_cascade, separable=True),
        "fwht": hadamard.can_transform,
        "fastfood": _always,
        "monarch": _always,
        "csr": _always,
        "circulant": partial(fourier.has_length, "circulant"),
        "toeplitz": partial(fourier.has_length, "toeplitz"),
        "afdf": partial(fourier.has_length, "afdf"),
    }
    single = {"acdc": gpu.can_cascade, "fwht": gpu.can_fwht, "fastfood": gpu.can_fastfood}
    n = x.shape[-1] if n is None else n
    if op in known and known[op](n) and _route(native.takes, x) != "reference":
        return native.describe(op, n, x.numel() // max(1, x.shape[-1]))
    takes = partial(gpu.takes_cascade, n) if op == "acdc" else gpu.takes
    if op in single and single[op](n) and _route(takes, x) != "reference":
        return "cuda single-call"
    return "reference (cuda multi-call)" if x.is_cuda else f"reference ({x.device.type})"


def _always(n: int) -> bool:
    return True


def _route(takes: Callable[..., bool], x: Tensor, *tables: Tensor | None) -> Route:
    """How a call with these tensors is done by the kernels that ``takes`` speaks for, if they have its length."""
    if torch.compiler.is_compiling():
        return "reference" if _is_exporting() or not takes(x, *tables) else "operator"
    if (
        not takes(x, *tables)
        or torch._C._get_tracing_state() is not None
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
    ):
        return "reference"
    if torch._C._len_torch_dispatch_stack() or any(
        type(tensor) not in (Tensor, nn.Parameter) or tensor.is_neg() for tensor in (x, *tables) if tensor is not None
    ):
        return "operator"  # on whose way torch sees to them
    if torch.is_grad_enabled() and (
        x.requires_grad or any(table is not None and table.requires_grad for table in tables)
    ):
        return "operator"
    return "native" if x.numel() else "reference"


def _widened(x: Tensor, table: Tensor) -> Tensor:
    """``x`` in the dtype that a product with ``table`` has: half rows times float diagonals are float."""
    return x.to(torch.promote_types(x.dtype, table.dtype))


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
    """`reference.acdc`: a whole cascade of diagonals between cosine transforms, in one call."""
    if not torch.compiler.is_compiling():
        y: Tensor | None = quick.call(x, out_features, relu + 2 * separable, d, a, bias, permutation)
        if y is not None:
            return y
    if native.can_cascade(int(d.shape[1]), separable=separable):  # torch.jit.trace has tensors for sizes
        route = _route(native.takes, x, a, d, bias)
        if route == "native":
            cascade, _ = native.describe_cascade(x.shape[-1], a, d, bias, permutation, out_features, relu, separable)
            settings, tables = relu + 2 * separable, (d, a, bias, permutation)
            quick.remember("ck_acdc_forward_f32", cascade, x, out_features, settings, *tables)
            return native.acdc(x, a, d, bias, permutation, out_features=out_features, relu=relu, separable=separable)
        if route == "operator":
            return ops.acdc(x, a, d, bias, permutation, out_features, relu, separable)
    if not separable and gpu.can_cascade(int(d.shape[1])):
        route = _route(partial(gpu.takes_cascade, int(d.shape[1])), x, a, d, bias, permutation)
        if route == "native":
            return gpu.acdc(_widened(x, d), a, d, bias, permutation, out_features, relu)
        if route == "operator":
            return ops.acdc(_widened(x, d), a, d, bias, permutation, out_features, relu, separable)
    return reference.acdc(x, a, d, bias, permutation, out_features, relu, separable)


def dct(x: Tensor) -> Tensor:
    """`reference.dct`: orthonormal DCT-II along the last axis."""
    return _dct(x, reference.dct, inverse=False)


def idct(x: Tensor) -> Tensor:
    """`reference.idct`: orthonormal DCT-III along the last axis."""
    return _dct(x, reference.idct, inverse=True)


def _dct(x: Tensor, plain: Callable[[Tensor], Tensor], *, inverse: bool) -> Tensor:
    if native.can_dct(x.shape[-1]):
        route = _route(native.takes, x)
        if route == "native":
            return native.dct(x, inverse=inverse)
        if route == "operator":
            return ops.dct(x, inverse=inverse)
    return plain(x)


def dct2d(x: Tensor) -> Tensor:
    """`reference.dct2d`: the separable transform ``C_n1 ⊗ C_n2``."""
    return reference.dct2d(x)


def idct2d(x: Tensor) -> Tensor:
    """`reference.idct2d`: the inverse of the separable transform."""
    return reference.idct2d(x)


def fwht(x: Tensor) -> Tensor:
    """`reference.fwht`: Walsh–Hadamard, natural order, not normalised."""
    run = hadamard.run_fwht
    route = _route(native.takes, x)
    if route == "reference" and gpu.can_fwht(x.shape[-1]):
        run, route = gpu.fwht, _route(gpu.takes, x)
    if route == "reference":
        return reference.fwht(x)
    result: Tensor = run(x) if route == "native" else hadamard.fwht(x)
    return result


def fastfood(
    x: Tensor,
    B: Tensor,
    permutation: Tensor,
    G: Tensor,
    S: Tensor,
    *,
    scale: float,
    features: str = "linear",
    bias: Tensor | None = None,
) -> Tensor:
    """`reference.fastfood`: a whole stack of blocks, and its nonlinearity, or its bias where it is linear."""
    width = len(S) * (2 if features == "rbf" else 1)
    if not torch.compiler.is_compiling():
        y: Tensor | None = quick.call(x, width, (scale, features), B, permutation, G, S, bias)
        if y is not None:
            return y
    route = _route(native.takes, x, B, G, S, bias)
    if route == "native":
        described = hadamard.stack(x.shape[-1], [B, G, S, permutation], scale, features, bias)
        tables = B, permutation, G, S, bias
        quick.remember("ck_fastfood_forward_f32", described, x, width, (scale, features), *tables)
        return hadamard.run_fastfood(x, B, permutation, G, S, scale=scale, features=features, bias=bias)
    if route == "reference" and gpu.can_fastfood(B.shape[1]):
        route = _route(gpu.takes, x, B, permutation, G, S)
        x = x if route == "reference" else _widened(x, B)
    if route == "native":
        y = gpu.fastfood(x, B, permutation, G, S, scale=scale, features=features)
    elif route == "operator":
        y = hadamard.fastfood(x, B, permutation, G, S, scale, features)
    else:
        y = reference.fastfood(x, B, permutation, G, S, scale=scale, features=features)
    return y if bias is None else y + bias


def monarch(x: Tensor, first: Tensor, second: Tensor, bias: Tensor | None, out_features: int) -> Tensor:
    """`reference.monarch`: block-diagonal, permutation, block-diagonal."""
    if not torch.compiler.is_compiling():
        y: Tensor | None = quick.call(x, out_features, "monarch", first, second, bias)
        if y is not None:
            return y
    route = _route(native.takes, x, first, second, bias)
    if route == "reference":
        return reference.monarch(x, first, second, bias, out_features)
    if route == "native":
        stack = native_monarch.stack(x.shape[-1], first, second, bias, out_features)
        quick.remember("ck_monarch_forward_f32", stack, x, out_features, "monarch", first, second, bias)
        return native_monarch.run_monarch(x, first, second, bias, out_features)
    result: Tensor = native_monarch.monarch(x, first, second, bias, out_features)
    return result


def csr(
    x: Tensor, values: Tensor, columns: Tensor, lengths: Tensor, bias: Tensor | None, out_features: int, block: int
) -> Tensor:
    """`reference.csr`: a product with a matrix in compressed sparse rows of vectors."""
    if not torch.compiler.is_compiling():
        y: Tensor | None = quick.call(x, out_features, ("csr", block), values, columns, lengths, bias)
        if y is not None:
            return y
    route = _route(native.takes, x, values, bias)
    if route == "reference" or len(values) > _MOST_SPARSE * x.shape[-1] * out_features:
        return reference.csr(x, values, columns, lengths, bias, out_features, block)
    if route == "native":
        matrix = sparse.matrix(x.shape[-1], [values, columns, lengths, bias], out_features, block)
        quick.remember("ck_csr_forward_f32", matrix, x, out_features, ("csr", block), values, columns, lengths, bias)
        return sparse.run_csr(x, values, columns, lengths, bias, out_features, block)
    result: Tensor = sparse.csr(x, values, columns, lengths, bias, out_features, block)
    return result


_MOST_SPARSE = 0.5  # above this density, and many rows, the dense product is quicker


def circulant(x: Tensor, c: Tensor, s: Tensor, bias: Tensor | None, out_features: int) -> Tensor:
    """`reference.circulant`: circular convolutions of the input under signs, added."""
    y = _between_transforms("circulant", x, c, s, bias, out_features)
    return reference.circulant(x, c, s, bias, out_features) if y is None else y


def toeplitz(x: Tensor, G: Tensor, H: Tensor, bias: Tensor | None, out_features: int) -> Tensor:
    """`reference.toeplitz`: products of circulant and skew-circulant matrices, added."""
    y = _between_transforms("toeplitz", x, G, H, bias, out_features)
    return reference.toeplitz(x, G, H, bias, out_features) if y is None else y


def afdf(x: Tensor, a: Tensor, d: Tensor, bias: Tensor | None, out_features: int) -> Tensor:
    """`reference.afdf`: a cascade of complex diagonals between Fourier transforms."""
    y = _between_transforms("afdf", x, a, d, bias, out_features)
    return reference.afdf(x, a, d, bias, out_features) if y is None else y


def _between_transforms(
    kind: fourier.Kind, x: Tensor, first: Tensor, second: Tensor, bias: Tensor | None, out_features: int
) -> Tensor | None:
    """What the kernels make of it where they have the length, and no gradient and no operator is wanted, else None."""
    if not torch.compiler.is_compiling():
        y: Tensor | None = quick.call(x, out_features, kind, first, second, bias)
        if y is not None:
            return y
    has_length = fourier.has_length(kind, first.shape[-1])
    if not has_length or _route(native.takes, x, first, bias, *fourier.floating(second)) != "native":
        return None
    described, _ = fourier.describe(kind, x.shape[-1], first, second, bias, out_features)
    quick.remember(f"ck_{kind}_forward_f32", described, x, out_features, kind, first, second, bias)
    return fourier.run(kind, x, first, second, bias, out_features)
