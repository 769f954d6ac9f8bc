"""Monarch products by the native kernels: the call, and the operator of torch.

``torch.ops.compressor_kernels.monarch`` has a gradient, in plain torch and computed with the middle again; where one
is wanted, autograd through `reference.monarch` is quicker, and dispatch takes that.
"""

from __future__ import annotations

import ctypes
from ctypes import c_int64, c_void_p
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from compressor_kernels.native import as_rows, check, loaded


class Stack(ctypes.Structure):
    """``ck_monarch``: the sizes and the tables."""

    _fields_ = [
        ("blocks", c_int64),
        ("rank", c_int64),
        ("p", c_int64),
        ("q", c_int64),
        ("columns_in", c_int64),
        ("columns_out", c_int64),
        ("first", c_void_p),
        ("second", c_void_p),
        ("bias", c_void_p),
    ]


def run_monarch(x: Tensor, first: Tensor, second: Tensor, bias: Tensor | None, out_features: int) -> Tensor:
    """`reference.monarch`, without autograd."""
    first, second, bias = first.contiguous(), second.contiguous(), None if bias is None else bias.contiguous()
    rows = as_rows(x)
    y = torch.empty((*x.shape[:-1], out_features), dtype=x.dtype)
    check(
        loaded().ck_monarch_forward_f32(
            ctypes.byref(stack(x.shape[-1], first, second, bias, out_features)),
            rows.data_ptr(),
            y.data_ptr(),
            len(rows),
            rows.stride(0),
            out_features,
            torch.get_num_threads(),
            None,
        )
    )
    return y


def stack(columns: int, first: Tensor, second: Tensor, bias: Tensor | None, out_features: int) -> Stack:
    """The C side's view of a product; the tables are contiguous and kept alive by the caller."""
    k, hidden, p = first.shape
    tables = [None if table is None else table.data_ptr() for table in (first, second, bias)]
    return Stack(k, hidden // k, p, second.shape[1], columns, out_features, *tables)


@torch.library.custom_op("compressor_kernels::monarch", mutates_args=(), device_types="cpu")
def monarch(x: Tensor, first: Tensor, second: Tensor, bias: Tensor | None, out_features: int) -> Tensor:
    """`reference.monarch`."""
    return run_monarch(x, first, second, bias, out_features)


@monarch.register_fake
def _(x: Tensor, first: Tensor, second: Tensor, bias: Tensor | None, out_features: int) -> Tensor:
    return x.new_empty((*x.shape[:-1], out_features))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, first, second, bias, _ = inputs
    ctx.save_for_backward(x, first, second)
    ctx.has_bias = bias is not None


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, first, second = ctx.saved_tensors
    (k, hidden, p), q = first.shape, second.shape[1]
    blocks = F.pad(x, (0, k * p - x.shape[-1])).reshape(-1, k, p).transpose(0, 1)  # (block, rows, p)
    h = (blocks @ first.mT).reshape(k, -1, k, hidden // k).permute(2, 1, 0, 3).flatten(-2)  # (class, rows, block · s)
    gy = F.pad(grad, (0, k * q - grad.shape[-1])).reshape(-1, q, k).permute(2, 0, 1)  # (class, rows, q)
    gh = (gy @ second).reshape(k, -1, k, hidden // k).permute(2, 1, 0, 3).flatten(-2)  # (block, rows, class · s)
    gx = (gh @ first).transpose(0, 1).reshape(*x.shape[:-1], k * p)[..., : x.shape[-1]]
    bias = grad.reshape(-1, grad.shape[-1]).sum(0) if ctx.has_bias else None
    return gx, gh.mT @ blocks, gy.mT @ h, bias, None


monarch.register_autograd(_backward, setup_context=_keep)
