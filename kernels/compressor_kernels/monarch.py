"""Monarch products by the native kernels: the call, and the operators of torch.

``torch.ops.compressor_kernels.monarch`` takes float32 in the CPU's memory and has a gradient, with the middle computed
again; the gradient of that is in plain torch.
"""

from __future__ import annotations

import ctypes
from ctypes import c_int64, c_void_p
from typing import Any

import torch
from torch import Tensor

from compressor_kernels import native, reference


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
    native.require(x, first, second, bias)
    first, second, bias = first.contiguous(), second.contiguous(), None if bias is None else bias.contiguous()
    table = stack(x.shape[-1], first, second, bias, out_features)
    return native.forward("ck_monarch_forward_f32", table, x, out_features)


def run_monarch_backward(grad: Tensor, x: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients by x, first and second from that of the output of `run_monarch`."""
    native.require(grad, x, first, second)
    first, second = first.contiguous(), second.contiguous()
    found = x.new_empty(x.shape), first.new_empty(first.shape), second.new_empty(second.shape)
    table = stack(x.shape[-1], first, second, None, grad.shape[-1])
    native.backward("ck_monarch_backward_f32", table, x, grad, found)
    return found


def stack(columns: int, first: Tensor, second: Tensor, bias: Tensor | None, out_features: int) -> Stack:
    """The C side's view of a product; the tables are contiguous and kept alive by the caller."""
    k, hidden, p = first.shape
    native.check_shape("the second factor", second, (k, second.shape[1], hidden))
    native.check_shape("the bias", bias, (out_features,))
    tables = [None if table is None else table.data_ptr() for table in (first, second, bias)]
    return Stack(k, hidden // k, p, second.shape[1], columns, out_features, *tables)


@torch.library.custom_op("compressor_kernels::monarch", mutates_args=(), device_types="cpu")
def monarch(x: Tensor, first: Tensor, second: Tensor, bias: Tensor | None, out_features: int) -> Tensor:
    """`reference.monarch`."""
    return run_monarch(x, first, second, bias, out_features)


@monarch.register_fake
def _(x: Tensor, first: Tensor, second: Tensor, bias: Tensor | None, out_features: int) -> Tensor:
    return x.new_empty((*x.shape[:-1], out_features))


@torch.library.custom_op("compressor_kernels::monarch_backward", mutates_args=(), device_types="cpu")
def monarch_backward(grad: Tensor, x: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients by x, first and second."""
    return run_monarch_backward(grad, x, first, second)


@monarch_backward.register_fake
def _(grad: Tensor, x: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), first.new_empty(first.shape), second.new_empty(second.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, first, second, bias, _ = inputs
    ctx.save_for_backward(x, first, second)
    ctx.has_bias = bias is not None


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    if reference.wanted_twice():

        def run(x: Tensor, first: Tensor, second: Tensor) -> Tensor:
            return reference.monarch(x, first, second, None, grad.shape[-1])

        found = reference.gradients(run, ctx.saved_tensors, grad, differentiable=True)
    else:
        found = monarch_backward(grad, *ctx.saved_tensors)
    bias = grad.reshape(-1, grad.shape[-1]).sum(0) if ctx.has_bias else None
    return *found, bias, None


monarch.register_autograd(_backward, setup_context=_keep)
