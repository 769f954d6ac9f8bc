"""The native kernels: finds and loads the shared library, and calls it with the memory of tensors.

The library is a plain C one (``kernels/include/compressor_kernels.h``), the same for every version of Python and torch.
``COMPRESSOR_KERNELS=reference`` in the environment leaves it aside.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import warnings
from ctypes import c_char_p, c_int64, c_void_p
from pathlib import Path

import torch
from torch import Tensor

VERSION = 1
RELU, SEPARABLE, FIRST_FIXED, INDEX_16 = 1, 2, 4, 8  # flags of a cascade


class Cascade(ctypes.Structure):
    """``ck_acdc``: the sizes and the tables of a cascade."""

    _fields_ = [
        ("n", c_int64),
        ("k", c_int64),
        ("columns_in", c_int64),
        ("columns_out", c_int64),
        ("flags", c_int64),
        ("a", c_void_p),
        ("d", c_void_p),
        ("bias", c_void_p),
        ("permutation", c_void_p),
    ]


# The arguments of every function that returns an error code; pool and threads come last in all.
_P, _N = c_void_p, c_int64
_SIGNATURES: dict[str, list[type]] = {
    "ck_describe": [c_char_p, _N, _N, c_char_p, _N],
    "ck_dct_f32": [_P, _P, _N, _N, _N, _N, _N, _P],
    "ck_idct_f32": [_P, _P, _N, _N, _N, _N, _N, _P],
    "ck_acdc_forward_f32": [_P, _P, _P, _N, _N, _N, _N, _P],
}


@functools.cache
def library() -> ctypes.CDLL | None:
    """The shared library; None, said once in a warning, where it was not built or is of another version."""
    if os.environ.get("COMPRESSOR_KERNELS", "") == "reference":
        return None
    path = library_path()
    if path is None:
        _warn("they were not built (was there a C++ compiler when the package was installed?)")
        return None
    try:
        found = ctypes.CDLL(str(path))
        version = found.ck_version()
    except (OSError, AttributeError) as error:
        _warn(f"{path} does not load: {error}")
        return None
    if version != VERSION:
        _warn(f"{path} is of version {version}, not {VERSION}: build it again")
        return None
    found.ck_error_string.restype = c_char_p
    for name, arguments in _SIGNATURES.items():
        getattr(found, name).argtypes = arguments
    return found


def library_path() -> Path | None:
    """Where the shared library is, None where there is none."""
    spec = importlib.util.find_spec("compressor_kernels._native")  # beside this file, or where an install put it
    return Path(spec.origin) if spec is not None and spec.origin is not None else None


def describe(op: str, n: int, batch: int) -> str:
    """The path that the library takes for ``op`` at length ``n`` with ``batch`` rows."""
    text = ctypes.create_string_buffer(256)
    check(_loaded().ck_describe(op.encode(), n, batch, text, len(text)))
    return text.value.decode()


def dct(x: Tensor, *, inverse: bool = False) -> Tensor:
    """Orthonormal DCT-II of the last axis, or its inverse; float32 on the CPU."""
    rows = as_rows(x)
    y = torch.empty(x.shape, dtype=x.dtype)
    call = _loaded().ck_idct_f32 if inverse else _loaded().ck_dct_f32
    n = x.shape[-1]
    check(call(rows.data_ptr(), y.data_ptr(), len(rows), n, rows.stride(0), n, torch.get_num_threads(), None))
    return y


def acdc(
    x: Tensor,
    a: Tensor,
    d: Tensor,
    bias: Tensor | None,
    permutation: Tensor | None,
    *,
    out_features: int,
    relu: bool,
    separable: bool,
) -> Tensor:
    """A whole cascade, ``(..., in ≤ N) -> (..., out_features ≤ N)``; float32 on the CPU.

    ``a (K or K − 1, N)``, ``d, bias (K, N)``, ``permutation (K − 1, N)`` uint16 or int32.
    """
    rows = as_rows(x)
    y = torch.empty((*x.shape[:-1], out_features), dtype=x.dtype)
    tables = [None if table is None else table.contiguous() for table in (a, d, bias, permutation)]
    cascade = Cascade(
        d.shape[1],
        d.shape[0],
        x.shape[-1],
        out_features,
        RELU * relu
        | SEPARABLE * separable
        | FIRST_FIXED * (len(a) < len(d))
        | INDEX_16 * (permutation is not None and permutation.dtype == torch.uint16),
        *(None if table is None or not table.numel() else table.data_ptr() for table in tables),
    )
    check(
        _loaded().ck_acdc_forward_f32(
            ctypes.byref(cascade),
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


def as_rows(x: Tensor) -> Tensor:
    """``x`` as ``(rows, N)`` with neighbours side by side in each row: a view where that can be."""
    if x.dim() == 2 and x.stride(1) == 1:
        return x
    rows = x.reshape(-1, x.shape[-1])
    return rows if rows.stride(1) == 1 else rows.contiguous()


def check(error: int) -> None:
    """RuntimeError with the library's words for a code that is not 0."""
    if error:
        raise RuntimeError(f"native kernel: {_loaded().ck_error_string(error).decode()}")


def _loaded() -> ctypes.CDLL:
    found = library()
    assert found is not None, "dispatch asks only where there is a library"
    return found


def _warn(why: str) -> None:
    warnings.warn(f"no native kernels, plain torch runs instead, slower: {why}", RuntimeWarning, stacklevel=3)
