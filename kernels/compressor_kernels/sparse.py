"""Products with a matrix in compressed sparse rows of vectors by the native kernels: the call and the operators.

``torch.ops.compressor_kernels.csr`` takes float32 in the CPU's memory and has a gradient; a gradient of
that it has not.
"""

from __future__ import annotations

import ctypes
from ctypes import c_int64, c_void_p
from typing import Any

import torch
from torch import Tensor

from compressor_kernels import native, reference

WHOLE = (torch.uint8, torch.uint16, torch.int32)


class Matrix(ctypes.Structure):
    """``ck_csr``: the sizes and the tables."""

    _fields_ = [
        ("columns_in", c_int64),
        ("columns_out", c_int64),
        ("block", c_int64),
        ("count", c_int64),
        ("column_bytes", c_int64),
        ("length_bytes", c_int64),
        ("columns", c_void_p),
        ("lengths", c_void_p),
        ("values", c_void_p),
        ("bias", c_void_p),
    ]


def run_csr(
    x: Tensor, values: Tensor, columns: Tensor, lengths: Tensor, bias: Tensor | None, out_features: int, block: int
) -> Tensor:
    """`reference.csr`, without autograd."""
    native.require(x, values, bias)
    tables = [table if table is None else table.contiguous() for table in (values, columns, lengths, bias)]
    return native.forward("ck_csr_forward_f32", matrix(x.shape[-1], tables, out_features, block), x, out_features)


def matrix(columns_in: int, tables: list[Tensor | None], columns_out: int, block: int) -> Matrix:
    """The C side's view of ``tables``: values, columns, lengths, bias, contiguous and kept alive by the caller."""
    values, columns, lengths, bias = tables
    assert values is not None
    assert columns is not None
    assert lengths is not None
    if columns.dtype not in WHOLE or lengths.dtype not in WHOLE or len(columns) * block != len(values):
        raise ValueError(
            f"{len(values)} values in vectors of {block} need as many columns of uint8, uint16 or int32, and lengths; "
            f"not {len(columns)} of {columns.dtype} and {lengths.dtype}"
        )
    native.check_shape("the lengths", lengths, (-(-columns_out // block),))
    native.check_shape("the bias", bias, (columns_out,))
    return Matrix(
        columns_in,
        columns_out,
        block,
        len(columns),
        columns.itemsize,
        lengths.itemsize,
        columns.data_ptr(),
        lengths.data_ptr(),
        values.data_ptr(),
        None if bias is None else bias.data_ptr(),
    )


@torch.library.custom_op("compressor_kernels::csr", mutates_args=(), device_types="cpu")
def csr(
    x: Tensor, values: Tensor, columns: Tensor, lengths: Tensor, bias: Tensor | None, out_features: int, block: int
) -> Tensor:
    """`reference.csr`."""
    return run_csr(x, values, columns, lengths, bias, out_features, block)


@csr.register_fake
def _(
    x: Tensor, values: Tensor, columns: Tensor, lengths: Tensor, bias: Tensor | None, out_features: int, block: int
) -> Tensor:
    return x.new_empty((*x.shape[:-1], out_features))


@torch.library.custom_op("compressor_kernels::csr_backward", mutates_args=(), device_types="cpu")
def csr_backward(
    grad: Tensor, x: Tensor, values: Tensor, columns: Tensor, lengths: Tensor, block: int
) -> tuple[Tensor, Tensor]:
    """The gradients by x and by the values."""
    return run_csr_backward(grad, x, values, columns, lengths, block)


def run_csr_backward(
    grad: Tensor,
    x: Tensor,
    values: Tensor,
    columns: Tensor,
    lengths: Tensor,
    block: int,
    *,
    by_x: bool = True,
    by_values: bool = True,
) -> tuple[Tensor, Tensor]:
    """The gradients by x, ``grad W``, and by the values, ``gradᵀ x`` where W has entries; empty if not asked for."""
    native.require(grad, x, values)
    tables = [table.contiguous() for table in (values, columns, lengths)]
    found = x.new_empty(x.shape if by_x else 0), values.new_empty(values.shape if by_values else 0)
    wanted = [gradient if is_wanted else None for gradient, is_wanted in zip(found, (by_x, by_values), strict=True)]
    native.backward("ck_csr_backward_f32", matrix(x.shape[-1], [*tables, None], grad.shape[-1], block), x, grad, wanted)
    return found


@csr_backward.register_fake
def _(grad: Tensor, x: Tensor, values: Tensor, columns: Tensor, lengths: Tensor, block: int) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), values.new_empty(values.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, bias, _, ctx.block = inputs
    ctx.save_for_backward(*tensors)
    ctx.has_bias = bias is not None


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    if reference.wanted_twice():
        x, values, columns, lengths = ctx.saved_tensors

        def run(x: Tensor, values: Tensor) -> Tensor:
            return reference.csr(x, values, columns, lengths, None, grad.shape[-1], ctx.block)

        gx, gv = reference.gradients(run, (x, values), grad, differentiable=True)
    else:
        gx, gv = csr_backward(grad, *ctx.saved_tensors, ctx.block)
    by_bias = grad.reshape(-1, grad.shape[-1]).sum(0) if ctx.has_bias else None
    return gx, gv, None, None, by_bias, None, None


csr.register_autograd(_backward, setup_context=_keep)
