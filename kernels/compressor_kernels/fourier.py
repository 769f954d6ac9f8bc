"""The layers between Fourier transforms by the native kernels: no operators, as training goes through plain torch."""

from __future__ import annotations

import ctypes
from ctypes import c_int64, c_void_p
from typing import Literal

import torch
from torch import Tensor

from compressor_kernels import native

Kind = Literal["circulant", "toeplitz", "afdf"]


class Circulant(ctypes.Structure):
    """``ck_circulant``: the sizes and the tables."""

    _fields_ = [
        ("n", c_int64),
        ("terms", c_int64),
        ("columns_in", c_int64),
        ("columns_out", c_int64),
        ("sign_bytes", c_int64),
        ("c", c_void_p),
        ("signs", c_void_p),
        ("bias", c_void_p),
    ]


class Pair(ctypes.Structure):
    """``ck_toeplitz`` or ``ck_afdf``: the sizes and two tables."""

    _fields_ = [
        ("n", c_int64),
        ("members", c_int64),
        ("columns_in", c_int64),
        ("columns_out", c_int64),
        ("first", c_void_p),
        ("second", c_void_p),
        ("bias", c_void_p),
    ]


def has_length(kind: Kind, n: int) -> bool:
    """Whether the kernels have the transforms: without a prime factor above 7, and even unless they are complex."""
    return native.can_dct(2 * n if kind == "afdf" else n)


def describe(
    kind: Kind, columns: int, first: Tensor, second: Tensor, bias: Tensor | None, out_features: int
) -> tuple[ctypes.Structure, list[Tensor | None]]:
    """The C side's view of a layer, and the tensors that must live as long; ValueError where they do not fit."""
    members, n = len(first), first.shape[-1]
    native.check_shape("the second table", second, (members, columns) if kind == "circulant" else tuple(first.shape))
    native.check_shape("the bias", bias, (out_features,))
    tables = [None if table is None else table.contiguous() for table in (first, second, bias)]
    sizes, places = (n, members, columns, out_features), [None if t is None else t.data_ptr() for t in tables]
    return Circulant(*sizes, second.itemsize, *places) if kind == "circulant" else Pair(*sizes, *places), tables


def run(kind: Kind, x: Tensor, first: Tensor, second: Tensor, bias: Tensor | None, out_features: int) -> Tensor:
    """`reference.circulant`, `reference.toeplitz` or `reference.afdf`, without autograd; signs may be int8."""
    native.require(x, first, bias, *floating(second))
    layer, _tables = describe(kind, x.shape[-1], first, second, bias, out_features)
    return native.forward(f"ck_{kind}_forward_f32", layer, x, out_features)


def floating(signs: Tensor) -> list[Tensor]:
    """``signs``, unless they are the int8 that the kernel reads."""
    return [] if signs.dtype == torch.int8 and signs.is_cpu else [signs]
