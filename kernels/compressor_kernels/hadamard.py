"""Walsh–Hadamard transforms and Fastfood stacks by the native kernels: the calls, and the operators of torch.

``torch.ops.compressor_kernels.fwht`` and ``fastfood`` have a gradient; a gradient of that they have not. On a GPU they
are CUDA kernels (`gpu`); what no kernel takes they compute by `reference`.
"""

from __future__ import annotations

import ctypes
import math
from ctypes import c_float, c_int64, c_void_p
from typing import Any

import torch
from torch import Tensor

from compressor_kernels import gpu, native, reference
from compressor_kernels.native import as_rows, check, loaded

_FEATURES = {"linear": 0, "relu": 1, "rbf": 2}
_INDEX_16 = 1


class Stack(ctypes.Structure):
    """``ck_fastfood``: the sizes and the tables of a stack."""

    _fields_ = [
        ("d", c_int64),
        ("blocks", c_int64),
        ("columns_in", c_int64),
        ("width", c_int64),
        ("features", c_int64),
        ("flags", c_int64),
        ("scale", c_float),
        ("rbf_scale", c_float),
        ("b", c_void_p),
        ("g", c_void_p),
        ("s", c_void_p),
        ("permutation", c_void_p),
        ("bias", c_void_p),
    ]


def can_transform(n: int) -> bool:
    """Whether a Walsh–Hadamard transform has this length."""
    return n > 0 and n & (n - 1) == 0


def run_fwht(x: Tensor) -> Tensor:
    """`reference.fwht`, without autograd."""
    n = x.shape[-1]
    if not can_transform(n):
        raise ValueError(f"a Walsh–Hadamard transform needs a power of two, not {n}")
    rows = as_rows(x)
    y = x.new_empty(x.shape)
    call = loaded().ck_fwht_f32
    check(call(rows.data_ptr(), y.data_ptr(), len(rows), n, rows.stride(0), n, torch.get_num_threads(), None))
    return y


def run_fastfood(
    x: Tensor,
    B: Tensor,
    permutation: Tensor,
    G: Tensor,
    S: Tensor,
    *,
    scale: float,
    features: str,
    bias: Tensor | None = None,
) -> Tensor:
    """`reference.fastfood` and ``bias``, which only linear features have, without autograd."""
    tables = [table.contiguous() for table in (B, G, S, permutation)]
    width, bias = len(S) if features != "rbf" else 2 * len(S), bias if bias is None else bias.contiguous()
    return native.forward("ck_fastfood_forward_f32", stack(x.shape[-1], tables, scale, features, bias), x, width)


def run_fastfood_backward(
    grad: Tensor, x: Tensor, B: Tensor, permutation: Tensor, G: Tensor, S: Tensor, *, scale: float, features: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients by x, B, G and S from that of the output of `run_fastfood`."""
    tables = [table.contiguous() for table in (B, G, S, permutation)]
    found = x.new_empty(x.shape), B.new_empty(B.shape), G.new_empty(G.shape), S.new_empty(S.shape)
    native.backward("ck_fastfood_backward_f32", stack(x.shape[-1], tables, scale, features), x, grad, found)
    return found


def stack(columns: int, tables: list[Tensor], scale: float, features: str, bias: Tensor | None = None) -> Stack:
    """The C side's view of ``tables``, B, G, S and the permutation, and ``bias``: contiguous and kept by the caller."""
    b, g, s, permutation = tables
    native.check_shape("G", g, tuple(b.shape))
    native.check_shape("the permutation", permutation, tuple(b.shape))
    native.check_permutation(permutation, b.shape[1])
    native.check_shape("S", s, (min(len(s), b.numel()),))
    native.check_shape("the bias", bias, (len(s),))
    return Stack(
        b.shape[1],
        b.shape[0],
        columns,
        len(s),
        _FEATURES[features],
        _INDEX_16 * (permutation.dtype == torch.uint16),
        scale,
        math.sqrt(1 / len(s)),
        *(table.data_ptr() for table in tables),
        None if bias is None else bias.data_ptr(),
    )


@torch.library.custom_op("compressor_kernels::fwht", mutates_args=())
def fwht(x: Tensor) -> Tensor:
    """`reference.fwht`."""
    if native.takes(x) and x.numel():
        return run_fwht(x)
    return gpu.fwht(x) if gpu.can_fwht(x.shape[-1]) and gpu.takes(x) else reference.fwht(x)


@fwht.register_fake
def _(x: Tensor) -> Tensor:
    return x.new_empty(x.shape)


def _fwht_backward(ctx: Any, grad: Tensor) -> Tensor:
    result: Tensor = fwht(grad)  # H is symmetric
    return result


fwht.register_autograd(_fwht_backward)


@torch.library.custom_op("compressor_kernels::fastfood", mutates_args=())
def fastfood(x: Tensor, B: Tensor, permutation: Tensor, G: Tensor, S: Tensor, scale: float, features: str) -> Tensor:
    """`reference.fastfood`."""
    if native.takes(x, B, G, S) and x.numel():
        return run_fastfood(x, B, permutation, G, S, scale=scale, features=features)
    if gpu.can_fastfood(B.shape[1]) and gpu.takes(x, B, permutation, G, S):
        return gpu.fastfood(x, B, permutation, G, S, scale=scale, features=features)
    return reference.fastfood(x, B, permutation, G, S, scale=scale, features=features)


@fastfood.register_fake
def _(x: Tensor, B: Tensor, permutation: Tensor, G: Tensor, S: Tensor, scale: float, features: str) -> Tensor:
    return x.new_empty((*x.shape[:-1], S.shape[0] * (2 if features == "rbf" else 1)))


@torch.library.custom_op("compressor_kernels::fastfood_backward", mutates_args=())
def fastfood_backward(
    grad: Tensor, x: Tensor, B: Tensor, permutation: Tensor, G: Tensor, S: Tensor, scale: float, features: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients by x, B, G and S; everything between is computed again."""
    if native.takes(grad, x, B, G, S):
        return run_fastfood_backward(grad, x, B, permutation, G, S, scale=scale, features=features)
    if gpu.can_fastfood(B.shape[1]) and gpu.takes(x, grad, B, permutation, G, S):
        return gpu.fastfood_backward(grad, x, B, permutation, G, S, scale=scale, features=features)

    def plain(x: Tensor, B: Tensor, G: Tensor, S: Tensor) -> Tensor:
        return reference.fastfood(x, B, permutation, G, S, scale=scale, features=features)

    found: tuple[Tensor, Tensor, Tensor, Tensor] = torch.func.vjp(plain, x, B, G, S)[1](grad)
    return found


@fastfood_backward.register_fake
def _(
    grad: Tensor, x: Tensor, B: Tensor, permutation: Tensor, G: Tensor, S: Tensor, scale: float, features: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), B.new_empty(B.shape), G.new_empty(G.shape), S.new_empty(S.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.scale, ctx.features = inputs
    ctx.save_for_backward(*tensors)


def _fastfood_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    if reference.wanted_twice():
        x, B, permutation, G, S = ctx.saved_tensors

        def run(x: Tensor, B: Tensor, G: Tensor, S: Tensor) -> Tensor:
            return reference.fastfood(x, B, permutation, G, S, scale=ctx.scale, features=ctx.features)

        gx, gb, gg, gs = reference.gradients(run, (x, B, G, S), grad, differentiable=True)
    else:
        gx, gb, gg, gs = fastfood_backward(grad, *ctx.saved_tensors, ctx.scale, ctx.features)
    return gx, gb, None, gg, gs, None, None


fastfood.register_autograd(_fastfood_backward, setup_context=_keep)
