"""The CUDA kernels' library: finds and loads it, and calls it with the memory of CUDA tensors.

The library is a plain C one (``kernels/include/compressor_kernels_cuda.h``), built by the user with
``python -m compressor_kernels.build_cuda``. Float32, float16 and bfloat16 rows, arithmetic in float32.
`gpu` says what there is a kernel for, and adds gradients.
"""

from __future__ import annotations

import ctypes
import functools
import os
import warnings
from contextlib import AbstractContextManager, nullcontext
from ctypes import c_char_p, c_int, c_int64, c_void_p
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from compressor_kernels.native import as_rows

VERSION = 4
RELU, FIRST_FIXED, ACDC_INDEX_16 = 1, 4, 8  # flags of a cascade
FASTFOOD_INDEX_16 = 1
SUFFIX = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}


class Cascade(ctypes.Structure):
    """``ck_cuda_acdc``: the sizes and the tables of a cascade."""

    _fields_ = [
        *((name, c_int64) for name in ("n", "k", "columns_in", "columns_out", "flags")),
        *((name, c_void_p) for name in ("a", "d", "bias", "permutation", "tables")),
    ]


class Stack(ctypes.Structure):
    """``ck_cuda_fastfood``: the sizes and the tables of stacked Fastfood blocks."""

    _fields_ = [
        *((name, c_int64) for name in ("n", "blocks", "width", "columns_in", "flags")),
        *((name, c_void_p) for name in ("B", "G", "S", "permutation")),
    ]


_P, _N = c_void_p, c_int64
_SIGNATURES: dict[str, tuple[type, list[Any]]] = {
    "version": (c_int, []),
    "error_string": (c_char_p, [c_int]),
    "probe": (c_int, [ctypes.POINTER(_N)] * 2),
    "acdc_table_size": (_N, [_N]),
    "acdc_table": (c_int, [_N, _P]),
    "acdc_workspace": (_N, [_N, _N, _N]),
    "fastfood_workspace": (_N, [_N, _N, _N]),
}
_TYPED: dict[str, list[Any]] = {
    "acdc_forward": [_P, _P, _P, _N, _N, _N, _P],
    "acdc_backward": [_P, _P, _P, _P, _P, _P, _P, _N, _N, _N, _N, _P, _N, _P],
    "fastfood_forward": [_P, _P, _P, _N, _N, _N, _P],
    "fastfood_backward": [_P, _P, _P, _P, _P, _P, _P, _N, _N, _N, _N, _P, _N, _P],
    "fwht": [_P, _P, _N, _N, _N, _N, _P],
}


def library_path() -> Path:
    """Where the library is, once it was built."""
    return Path(__file__).resolve().parent / "_native_cuda.so"


@functools.cache
def library() -> ctypes.CDLL | None:
    """The library; None where there is no GPU or ``COMPRESSOR_KERNELS=reference``, or, said once, no use in it."""
    if os.environ.get("COMPRESSOR_KERNELS", "") == "reference" or not torch.cuda.is_available():
        return None
    if not library_path().exists():
        _warn("they were not built: run `python -m compressor_kernels.build_cuda`")
        return None
    try:
        return load(library_path())
    except (OSError, AttributeError, RuntimeError) as error:
        _warn(str(error))
        return None


def load(path: Path) -> ctypes.CDLL:
    """The library at ``path`` with the types of its functions; RuntimeError where it is of another version."""
    found = ctypes.CDLL(str(path))
    version = found.ck_cuda_version()
    if version != VERSION:
        raise RuntimeError(
            f"{path} is of version {version}, not {VERSION}: run `python -m compressor_kernels.build_cuda`"
        )
    signatures = dict(_SIGNATURES)
    signatures |= {f"{name}_{suffix}": (c_int, given) for name, given in _TYPED.items() for suffix in SUFFIX.values()}
    for name, (result, arguments) in signatures.items():
        function = getattr(found, f"ck_cuda_{name}")
        function.restype, function.argtypes = result, arguments
    return found


def _warn(why: str) -> None:
    warnings.warn(f"no CUDA kernels, plain torch runs on the GPU instead, slower: {why}", RuntimeWarning, stacklevel=4)


class Limits(NamedTuple):
    """What a device has room for."""

    shared_bytes: int  # that a block may take: four times a row of Fastfood or of a Walsh–Hadamard transform
    longest_cascade: int


class Kernels:
    """The library's functions on tensors of one device; the tests put the emulator in its place."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library
        self._tables: dict[tuple[int, torch.device], Tensor] = {}
        self._limits: dict[torch.device, Limits] = {}

    def limits(self, device: torch.device) -> Limits:
        """What ``device`` has room for: nothing, said once, where no kernel was compiled for it."""
        if device not in self._limits:
            shared_bytes, longest = c_int64(), c_int64()
            with on_device(device):
                error = self.library.ck_cuda_probe(ctypes.byref(shared_bytes), ctypes.byref(longest))
            if error:
                _warn(f"{device}: {self.library.ck_cuda_error_string(error).decode()}")
            self._limits[device] = Limits(0, 0) if error else Limits(shared_bytes.value, longest.value)
        return self._limits[device]

    def stream(self, x: Tensor) -> int:
        """The stream that ``x``'s device works on, as a number."""
        return int(torch.cuda.current_stream(x.device).cuda_stream) if x.is_cuda else 0

    def table(self, n: int, device: torch.device) -> Tensor:
        """The twiddles of length ``n`` on ``device``; an empty tensor where there is no kernel for it."""
        key = (n, device)
        if key not in self._tables:
            host = torch.empty(self.library.ck_cuda_acdc_table_size(n), dtype=torch.float32, device="cpu")
            if host.numel():
                self._check(self.library.ck_cuda_acdc_table(n, host.data_ptr()))
            self._tables[key] = host.to(device)
        return self._tables[key]

    def acdc(
        self,
        x: Tensor,
        a: Tensor,
        d: Tensor,
        bias: Tensor | None,
        permutation: Tensor | None,
        out_features: int,
        relu: bool,
    ) -> Tensor:
        """`reference.acdc` in one call, ``(..., in) -> (..., out)``."""
        rows = as_rows(x)
        y = torch.empty((*x.shape[:-1], out_features), dtype=x.dtype, device=x.device)
        keep, cascade = self._cascade(rows, a, d, bias, permutation, out_features, relu)
        with on_device(x.device):
            self._call(
                "acdc_forward", x.dtype, ctypes.byref(cascade), rows.data_ptr(), y.data_ptr(),
                len(rows), rows.stride(0), out_features, self.stream(x),
            )  # fmt: skip
        del keep
        return y

    def acdc_backward(
        self,
        x: Tensor,
        a: Tensor,
        d: Tensor,
        bias: Tensor | None,
        permutation: Tensor | None,
        relu: bool,
        grad_y: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Gradients of x, a, d and the bias for that of y; everything between is computed once more."""
        rows, grad_rows = as_rows(x), as_rows(grad_y.to(x.dtype))
        grad_x = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        grad_a, grad_d = (torch.zeros(t.shape, dtype=torch.float32, device=x.device) for t in (a, d))
        grad_bias = None if bias is None else torch.zeros(bias.shape, dtype=torch.float32, device=x.device)
        if len(rows):
            keep, cascade = self._cascade(rows, a, d, bias, permutation, grad_y.shape[-1], relu)
            with on_device(x.device):
                workspace = _workspace(self.library.ck_cuda_acdc_workspace(d.shape[1], len(d), len(rows)), x.device)
                self._call(
                    "acdc_backward", x.dtype, ctypes.byref(cascade), rows.data_ptr(), grad_rows.data_ptr(),
                    grad_x.data_ptr(), pointer(grad_a), pointer(grad_d), pointer(grad_bias), len(rows),
                    rows.stride(0), grad_rows.stride(0), x.shape[-1], workspace.data_ptr(),
                    workspace.numel(), self.stream(x),
                )  # fmt: skip
            del keep
        return grad_x, grad_a.to(a.dtype), grad_d.to(d.dtype), None if bias is None else grad_bias.to(bias.dtype)  # type: ignore[union-attr]

    def fastfood(self, x: Tensor, B: Tensor, G: Tensor, S: Tensor, permutation: Tensor) -> Tensor:
        """``S H (G ⊙ permuted(H (B ⊙ x)))`` for each row of B, side by side: ``(..., in) -> (..., len(S))``."""
        rows = as_rows(x)
        y = torch.empty((*x.shape[:-1], len(S)), dtype=x.dtype, device=x.device)
        keep, stack = _stack(rows, B, G, S, permutation)
        with on_device(x.device):
            self._call(
                "fastfood_forward", x.dtype, ctypes.byref(stack), rows.data_ptr(), y.data_ptr(), len(rows),
                rows.stride(0), len(S), self.stream(x),
            )  # fmt: skip
        del keep
        return y

    def fastfood_backward(
        self, x: Tensor, B: Tensor, G: Tensor, S: Tensor, permutation: Tensor, grad_y: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Gradients of x, B, G and S for that of y."""
        rows, grad_rows = as_rows(x), as_rows(grad_y.to(x.dtype))
        grad_x = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        grads = [torch.zeros(t.shape, dtype=torch.float32, device=x.device) for t in (B, G, S)]
        if len(rows):
            keep, stack = _stack(rows, B, G, S, permutation)
            with on_device(x.device):
                workspace = _workspace(self.library.ck_cuda_fastfood_workspace(B.shape[1], len(B), len(rows)), x.device)
                self._call(
                    "fastfood_backward", x.dtype, ctypes.byref(stack), rows.data_ptr(), grad_rows.data_ptr(),
                    grad_x.data_ptr(), *map(pointer, grads), len(rows), rows.stride(0), grad_rows.stride(0),
                    x.shape[-1], workspace.data_ptr(), workspace.numel(), self.stream(x),
                )  # fmt: skip
            del keep
        grad_b, grad_g, grad_s = (grad.to(of.dtype) for grad, of in zip(grads, (B, G, S), strict=True))
        return grad_x, grad_b, grad_g, grad_s

    def fwht(self, x: Tensor) -> Tensor:
        """`reference.fwht`: Walsh–Hadamard of the last axis, natural order, not normalised."""
        rows = as_rows(x)
        y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        n = x.shape[-1]
        with on_device(x.device):
            self._call("fwht", x.dtype, rows.data_ptr(), y.data_ptr(), len(rows), n, rows.stride(0), n, self.stream(x))
        return y

    def _cascade(
        self,
        rows: Tensor,
        a: Tensor,
        d: Tensor,
        bias: Tensor | None,
        permutation: Tensor | None,
        out_features: int,
        relu: bool,
    ) -> tuple[list[Tensor | None], Cascade]:
        """The arguments of a cascade, and the tensors that must live until the call was made."""
        keep = [
            *(parameter(table) for table in (a, d, bias)),
            indices(permutation),
            self.table(d.shape[1], rows.device),
        ]
        sizes = d.shape[1], d.shape[0], rows.shape[1], out_features
        flags = RELU * relu | FIRST_FIXED * (len(a) < len(d)) | ACDC_INDEX_16 * is_16_bit(permutation)
        return keep, Cascade(*sizes, flags, *map(pointer, keep))

    def _call(self, name: str, dtype: torch.dtype, *arguments: Any) -> None:
        self._check(getattr(self.library, f"ck_cuda_{name}_{SUFFIX[dtype]}")(*arguments))

    def _check(self, error: int) -> None:
        if error:
            raise RuntimeError(f"CUDA kernel: {self.library.ck_cuda_error_string(error).decode()}")


def parameter(table: Tensor | None) -> Tensor | None:
    """A table as the kernels read it: float32, side by side, on a boundary of 16 bytes."""
    if table is None:
        return None
    return _aligned(table.detach().float().contiguous())


def _aligned(table: Tensor) -> Tensor:
    return table if table.data_ptr() % 16 == 0 else table.clone()


def indices(permutation: Tensor | None) -> Tensor | None:
    """A permutation as the kernels read it: uint16 or int32, side by side, on a boundary of 16 bytes."""
    if permutation is None:
        return None
    return _aligned((permutation if is_16_bit(permutation) else permutation.to(torch.int32)).contiguous())


def is_16_bit(permutation: Tensor | None) -> bool:
    """Whether it is of uint16."""
    return permutation is not None and permutation.dtype == torch.uint16


def pointer(table: Tensor | None) -> int | None:
    """The address of its memory, NULL where there is nothing."""
    return None if table is None or not table.numel() else table.data_ptr()


def on_device(device: torch.device) -> AbstractContextManager[object]:
    """Makes ``device`` the current one, for the length of a call."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _workspace(size_bytes: int, device: torch.device) -> Tensor:
    return torch.empty(size_bytes, dtype=torch.uint8, device=device)


def _stack(rows: Tensor, B: Tensor, G: Tensor, S: Tensor, permutation: Tensor) -> tuple[list[Tensor | None], Stack]:
    """The arguments of stacked blocks, and the tensors that must live until the call was made."""
    keep = [*(parameter(table) for table in (B, G, S)), indices(permutation)]
    sizes = B.shape[1], B.shape[0], len(S), rows.shape[1]
    return keep, Stack(*sizes, FASTFOOD_INDEX_16 * is_16_bit(permutation), *map(pointer, keep))
