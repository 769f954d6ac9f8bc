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
from collections.abc import Sequence
from ctypes import c_char_p, c_int64, c_void_p
from pathlib import Path

import torch
from torch import Tensor

from compressor_kernels.reference import split

VERSION = 4
RELU, SEPARABLE, FIRST_FIXED, INDEX_16 = 1, 2, 4, 8  # flags of a cascade


_SMOOTH = 2**30 * 3**18 * 5**12 * 7**10  # every length below 2^30 without a prime factor above 7 divides it


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


# The arguments of every function that returns a whole number; threads and pool come last.
_P, _N = c_void_p, c_int64
_SIGNATURES: dict[str, list[type]] = {
    "ck_describe": [c_char_p, _N, _N, c_char_p, _N],
    "ck_fma_f32": [_N],
    "ck_dct_f32": [_P, _P, _N, _N, _N, _N, _N, _P],
    "ck_idct_f32": [_P, _P, _N, _N, _N, _N, _N, _P],
    "ck_acdc_forward_f32": [_P, _P, _P, _N, _N, _N, _N, _P],
    "ck_acdc_backward_f32": [_P, _P, _P, _P, _P, _P, _P, _N, _N, _N, _N, _N, _P],
    "ck_monarch_forward_f32": [_P, _P, _P, _N, _N, _N, _N, _P],
    "ck_monarch_backward_f32": [_P, _P, _P, _P, _P, _P, _N, _N, _N, _N, _P],
    "ck_csr_forward_f32": [_P, _P, _P, _N, _N, _N, _N, _P],
    "ck_csr_backward_f32": [_P, _P, _P, _P, _P, _N, _N, _N, _N, _P],
    "ck_circulant_forward_f32": [_P, _P, _P, _N, _N, _N, _N, _P],
    "ck_toeplitz_forward_f32": [_P, _P, _P, _N, _N, _N, _N, _P],
    "ck_afdf_forward_f32": [_P, _P, _P, _N, _N, _N, _N, _P],
    "ck_fwht_f32": [_P, _P, _N, _N, _N, _N, _N, _P],
    "ck_fastfood_forward_f32": [_P, _P, _P, _N, _N, _N, _N, _P],
    "ck_fastfood_backward_f32": [_P, _P, _P, _P, _P, _P, _P, _N, _N, _N, _N, _P],
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
    found.ck_onnx_kernels.restype = c_int64
    found.ck_onnx_cuda.argtypes = [c_char_p]
    for name, arguments in _SIGNATURES.items():
        getattr(found, name).argtypes = arguments
    return found


def library_path() -> Path | None:
    """Where the shared library is, None where there is none."""
    spec = importlib.util.find_spec("compressor_kernels._native")  # beside this file, or where an install put it
    return Path(spec.origin) if spec is not None and spec.origin is not None else None


def onnx_library_path() -> Path | None:
    """The file that ``SessionOptions.register_custom_ops_library`` of onnxruntime takes; None where there is none."""
    return None if library() is None else library_path()


def onnx_for_cuda(path: Path) -> bool:
    """Whether the CUDA kernels' library at ``path`` loads: then it serves the options that take the library next.

    Theirs are sessions with onnxruntime's provider for CUDA. Layers without a kernel there run their bodies.
    """
    return bool(loaded().ck_onnx_cuda(os.fsencode(path)))


def onnx_is_registered() -> bool:
    """Whether the operators entered the session options that this thread gave the library to last."""
    return bool(loaded().ck_onnx_registered())


def onnx_kernels() -> int:
    """How many nodes of models onnxruntime has made with the library, in this process."""
    return int(loaded().ck_onnx_kernels())


def takes(*tensors: Tensor | None) -> bool:
    """Whether all are float32 in the CPU's memory, and there is a library."""
    for tensor in tensors:
        if tensor is not None and (tensor.dtype is not torch.float32 or not tensor.is_cpu):
            return False
    return bool(is_loaded())


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def is_loaded() -> bool:
    """Whether there is a library, loading it at the first call."""
    return library() is not None


def can_dct(n: int) -> bool:
    """Whether there is a native transform that beats torch's: for even n without a prime factor above 7."""
    return n > 0 and n % 2 == 0 and _SMOOTH % n == 0


def can_cascade(n: int, *, separable: bool = False) -> bool:
    """Whether there is a native cascade of this length."""
    return can_dct(n) and (not separable or all(can_dct(side) for side in split(n)))


def describe(op: str, n: int, batch: int) -> str:
    """The path that the library takes for ``op`` at length ``n`` with ``batch`` rows."""
    text = ctypes.create_string_buffer(256)
    check(loaded().ck_describe(op.encode(), n, batch, text, len(text)))
    return text.value.decode()


def dct(x: Tensor, *, inverse: bool = False) -> Tensor:
    """Orthonormal DCT-II of the last axis, or its inverse; float32 on the CPU."""
    rows = as_rows(x)
    y = x.new_empty(x.shape)
    call = loaded().ck_idct_f32 if inverse else loaded().ck_dct_f32
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
    cascade, _tables = describe_cascade(x.shape[-1], a, d, bias, permutation, out_features, relu, separable)
    return forward("ck_acdc_forward_f32", cascade, x, out_features)


def acdc_backward(
    grad: Tensor,
    x: Tensor,
    a: Tensor,
    d: Tensor,
    bias: Tensor | None,
    permutation: Tensor | None,
    *,
    relu: bool,
    separable: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """The gradients of x, a, d and bias from that of the output of `acdc`."""
    rows, grads = as_rows(x), as_rows(grad)
    cascade, _tables = describe_cascade(x.shape[-1], a, d, bias, permutation, grad.shape[-1], relu, separable)
    found = [table.new_empty(table.shape) for table in (x, a, d)]
    of_bias = None if bias is None else bias.new_empty(bias.shape)
    check(
        loaded().ck_acdc_backward_f32(
            ctypes.byref(cascade),
            rows.data_ptr(),
            grads.data_ptr(),
            *(table.data_ptr() for table in found),
            None if of_bias is None else of_bias.data_ptr(),
            len(rows),
            rows.stride(0),
            grads.stride(0),
            x.shape[-1],
            torch.get_num_threads(),
            None,
        )
    )
    return found[0], found[1], found[2], of_bias


def describe_cascade(
    in_features: int,
    a: Tensor,
    d: Tensor,
    bias: Tensor | None,
    permutation: Tensor | None,
    out_features: int,
    relu: bool,
    separable: bool,
) -> tuple[Cascade, list[Tensor | None]]:
    """The description of a cascade, and the tensors that must live as long; ValueError where they do not fit."""
    depth, n = d.shape
    check_shape("a", a, (depth, n), (depth - 1, n))
    check_shape("the bias", bias, (depth, n))
    check_shape("the permutation", permutation, (depth - 1, n))
    if permutation is not None:
        check_permutation(permutation, n)
    tables = [None if table is None else table.contiguous() for table in (a, d, bias, permutation)]
    cascade = Cascade(
        d.shape[1],
        d.shape[0],
        in_features,
        out_features,
        RELU * relu
        | SEPARABLE * separable
        | FIRST_FIXED * (len(a) < len(d))
        | INDEX_16 * (permutation is not None and permutation.dtype == torch.uint16),
        *(None if table is None or not table.numel() else table.data_ptr() for table in tables),
    )
    return cascade, tables


def require(*tensors: Tensor | None) -> None:
    """TypeError where the library would read numbers of another kind as float32."""
    if not takes(*tensors):
        kinds = ", ".join(f"{tensor.dtype} on {tensor.device}" for tensor in tensors if tensor is not None)
        raise TypeError(f"a native kernel takes float32 on the CPU, not {kinds}")


def check_shape(name: str, table: Tensor | None, *shapes: tuple[int, ...]) -> None:
    """ValueError where ``table`` has none of ``shapes``: the library reads as many numbers as it is told."""
    if table is not None and tuple(table.shape) not in shapes:
        raise ValueError(f"{name} is {tuple(table.shape)}, not {' or '.join(map(str, shapes))}")


def check_permutation(permutation: Tensor, n: int) -> None:
    """ValueError where ``permutation`` is of another type than the library reads, or leads outside of ``n`` numbers."""
    if permutation.dtype not in (torch.uint16, torch.int32):
        raise ValueError(f"a permutation is of uint16 or int32, not {permutation.dtype}")
    places = permutation.numpy()
    if places.size and not 0 <= places.min() <= places.max() < n:
        raise ValueError(f"a permutation of {n} numbers names places from {places.min()} to {places.max()}")


def forward(function: str, table: ctypes.Structure, x: Tensor, outputs: int) -> Tensor:
    """What ``function(table, x, y, ...)`` makes of ``x (..., in)``: ``(..., outputs)``."""
    rows, y = as_rows(x), x.new_empty((*x.shape[:-1], outputs))
    sizes = len(rows), rows.stride(0), outputs, torch.get_num_threads(), None
    check(getattr(loaded(), function)(ctypes.byref(table), rows.data_ptr(), y.data_ptr(), *sizes))
    return y


def backward(function: str, table: ctypes.Structure, x: Tensor, grad: Tensor, found: Sequence[Tensor | None]) -> None:
    """Fill ``found`` with the gradients of ``function(table, x, grad_y, *found, ...)``; None: not asked for."""
    rows, grads = as_rows(x), as_rows(grad)
    places = [None if gradient is None else gradient.data_ptr() for gradient in found]
    sizes = len(rows), rows.stride(0), grads.stride(0), torch.get_num_threads(), None
    check(getattr(loaded(), function)(ctypes.byref(table), rows.data_ptr(), grads.data_ptr(), *places, *sizes))


def as_rows(x: Tensor) -> Tensor:
    """``x`` as ``(rows, N)`` with neighbours side by side in each row: a view where that can be."""
    if x.dim() == 2 and x.stride(1) == 1:
        return x
    rows = x.reshape(-1, x.shape[-1])
    return rows if rows.stride(1) == 1 else rows.contiguous()


def check(error: int) -> None:
    """RuntimeError with the library's words for a code that is not 0."""
    if error:
        raise RuntimeError(f"native kernel: {loaded().ck_error_string(error).decode()}")


def loaded() -> ctypes.CDLL:
    found = library()
    assert found is not None, "dispatch asks only where there is a library"
    return found


def _warn(why: str) -> None:
    warnings.warn(f"no native kernels, plain torch runs instead, slower: {why}", RuntimeWarning, stacklevel=3)
