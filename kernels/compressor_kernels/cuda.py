"""The CUDA kernels: finds and loads their library, and calls it with the memory of CUDA tensors.

The library is a plain C one (``kernels/include/compressor_kernels_cuda.h``), built by the user with
``python -m compressor_kernels.build_cuda``. Float32, float16 and bfloat16 rows, arithmetic in float32. What it has no
kernel for (`serves_acdc` and its like say so) runs in plain torch on the same device: the multi-call path.
"""

from __future__ import annotations

import ctypes
import functools
import os
from ctypes import c_char_p, c_int, c_int64, c_void_p
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

VERSION = 1
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
_SIGNATURES: dict[str, tuple[type, list[type]]] = {
    "version": (c_int, []),
    "error_string": (c_char_p, [c_int]),
    "acdc_table_size": (_N, [_N]),
    "acdc_table": (c_int, [_N, _P]),
    "acdc_workspace": (_N, [_N, _N, _N]),
    "fastfood_workspace": (_N, [_N, _N, _N]),
}
_TYPED = {
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
    """The library; None where there is no CUDA, it was not built, or ``COMPRESSOR_KERNELS=reference``."""
    if os.environ.get("COMPRESSOR_KERNELS", "") == "reference" or not torch.cuda.is_available():
        return None
    return load(library_path()) if library_path().exists() else None


def load(path: Path) -> ctypes.CDLL:
    """The library at ``path`` with the types of its functions; RuntimeError where it is of another version."""
    found = ctypes.CDLL(str(path))
    signatures = dict(_SIGNATURES)
    signatures |= {f"{name}_{suffix}": (c_int, given) for name, given in _TYPED.items() for suffix in SUFFIX.values()}
    for name, (result, arguments) in signatures.items():
        function = getattr(found, f"ck_cuda_{name}")
        function.restype, function.argtypes = result, arguments
    version = found.ck_cuda_version()
    if version != VERSION:
        raise RuntimeError(
            f"{path} is of version {version}, not {VERSION}: run `python -m compressor_kernels.build_cuda`"
        )
    return found


class Kernels:
    """The library's functions on tensors of one device; the tests put the emulator in its place."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library
        self._tables: dict[tuple[int, torch.device], Tensor] = {}

    def stream(self, x: Tensor) -> int:
        """The stream that ``x``'s device works on, as a number."""
        return int(torch.cuda.current_stream(x.device).cuda_stream) if x.is_cuda else 0

    def table(self, n: int, device: torch.device) -> Tensor:
        """The twiddles of length ``n`` on ``device``; an empty tensor where there is no kernel for it."""
        key = (n, device)
        if key not in self._tables:
            host = torch.empty(self.library.ck_cuda_acdc_table_size(n))
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
        with on_device(x):
            self._call(
                "acdc_forward", x.dtype, ctypes.byref(cascade), rows.data_ptr(), y.data_ptr(),
                len(rows), row_stride(rows), out_features, self.stream(x),
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
            with on_device(x):
                workspace = _workspace(self.library.ck_cuda_acdc_workspace(d.shape[1], len(d), len(rows)), x.device)
                self._call(
                    "acdc_backward", x.dtype, ctypes.byref(cascade), rows.data_ptr(), grad_rows.data_ptr(),
                    grad_x.data_ptr(), pointer(grad_a), pointer(grad_d), pointer(grad_bias), len(rows),
                    row_stride(rows), row_stride(grad_rows), x.shape[-1], workspace.data_ptr(),
                    workspace.numel(), self.stream(x),
                )  # fmt: skip
            del keep
        return grad_x, grad_a.to(a.dtype), grad_d.to(d.dtype), None if bias is None else grad_bias.to(bias.dtype)  # type: ignore[union-attr]

    def fastfood(self, x: Tensor, B: Tensor, G: Tensor, S: Tensor, permutation: Tensor) -> Tensor:
        """``S H (G ⊙ permuted(H (B ⊙ x)))`` for each row of B, side by side: ``(..., in) -> (..., len(S))``."""
        rows = as_rows(x)
        y = torch.empty((*x.shape[:-1], len(S)), dtype=x.dtype, device=x.device)
        keep, stack = _stack(rows, B, G, S, permutation)
        with on_device(x):
            self._call(
                "fastfood_forward", x.dtype, ctypes.byref(stack), rows.data_ptr(), y.data_ptr(), len(rows),
                row_stride(rows), len(S), self.stream(x),
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
            with on_device(x):
                workspace = _workspace(self.library.ck_cuda_fastfood_workspace(B.shape[1], len(B), len(rows)), x.device)
                self._call(
                    "fastfood_backward", x.dtype, ctypes.byref(stack), rows.data_ptr(), grad_rows.data_ptr(),
                    grad_x.data_ptr(), *map(pointer, grads), len(rows), row_stride(rows), row_stride(grad_rows),
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
        with on_device(x):
            self._call(
                "fwht", x.dtype, rows.data_ptr(), y.data_ptr(), len(rows), n, row_stride(rows), n, self.stream(x)
            )
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


@functools.cache
def kernels() -> Kernels | None:
    """The kernels of this process, None where `library` is."""
    found = library()
    return None if found is None else Kernels(found)


def serves_acdc(x: Tensor, n: int) -> bool:
    """Whether a cascade of length ``n`` of ``x`` is a single call: 128 to 16,384, a power of two."""
    return _serves(x) and 128 <= n <= 16384 and n & (n - 1) == 0


def serves_fastfood(x: Tensor, n: int) -> bool:
    """Whether Fastfood blocks of length ``n`` of ``x`` are a single call."""
    return _serves(x) and 64 <= n <= 16384 and n & (n - 1) == 0


def serves_fwht(x: Tensor) -> bool:
    """Whether a Walsh–Hadamard transform of ``x`` is a single call."""
    n = x.shape[-1]
    return _serves(x) and 64 <= n <= 32768 and n & (n - 1) == 0


def _serves(x: Tensor) -> bool:
    return (
        x.is_cuda
        and x.dtype in SUFFIX
        and not torch.compiler.is_compiling()
        and type(x) in (Tensor, torch.nn.Parameter)
        and kernels() is not None
    )


class _Acdc(torch.autograd.Function):
    """The cascade; keeps x and the parameters, no more."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        a: Tensor,
        d: Tensor,
        bias: Tensor | None,
        permutation: Tensor | None,
        out: int,
        relu: bool,
        on: Kernels,
    ) -> Tensor:
        ctx.save_for_backward(x, a, d, bias, permutation)
        ctx.relu, ctx.on = relu, on
        return on.acdc(x, a, d, bias, permutation, out, relu)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> Any:
        x, a, d, bias, permutation = ctx.saved_tensors
        return *ctx.on.acdc_backward(x, a, d, bias, permutation, ctx.relu, grad_y), None, None, None, None


class _Fastfood(torch.autograd.Function):
    """The stacked blocks; keeps x and the parameters, no more."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, B: Tensor, G: Tensor, S: Tensor, permutation: Tensor, on: Kernels) -> Tensor:
        ctx.save_for_backward(x, B, G, S, permutation)
        ctx.on = on
        return on.fastfood(x, B, G, S, permutation)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> Any:
        return *ctx.on.fastfood_backward(*ctx.saved_tensors, grad_y), None, None


class _Fwht(torch.autograd.Function):
    """The transform, whose gradient is itself."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, on: Kernels) -> Tensor:
        ctx.on = on
        return on.fwht(x)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> Any:
        return _Fwht.apply(grad_y, ctx.on), None  # type: ignore[no-untyped-call]


def acdc(
    x: Tensor,
    a: Tensor,
    d: Tensor,
    bias: Tensor | None,
    permutation: Tensor | None,
    out_features: int,
    relu: bool,
    on: Kernels | None = None,
) -> Tensor:
    """`reference.acdc`, differentiable; only where `serves_acdc`."""
    y: Tensor = _Acdc.apply(x, a, d, bias, permutation, out_features, relu, on or kernels())  # type: ignore[no-untyped-call]
    return y


def fastfood(x: Tensor, B: Tensor, permutation: Tensor, G: Tensor, S: Tensor, on: Kernels | None = None) -> Tensor:
    """`Kernels.fastfood`, differentiable; only where `serves_fastfood`."""
    y: Tensor = _Fastfood.apply(x, B, G, S, permutation, on or kernels())  # type: ignore[no-untyped-call]
    return y


def fwht(x: Tensor, on: Kernels | None = None) -> Tensor:
    """`reference.fwht`, differentiable; only where `serves_fwht`."""
    y: Tensor = _Fwht.apply(x, on or kernels())  # type: ignore[no-untyped-call]
    return y


def as_rows(x: Tensor) -> Tensor:
    """``x`` as ``(rows, N)`` with neighbours side by side in each row: a view where that can be."""
    rows = x if x.dim() == 2 else x.reshape(-1, x.shape[-1])
    return rows if rows.stride(1) == 1 or rows.shape[1] == 1 else rows.contiguous()


def row_stride(rows: Tensor) -> int:
    """The distance of two rows in elements."""
    return rows.stride(0)


def parameter(table: Tensor | None) -> Tensor | None:
    """A table as the kernels read it: float32, side by side, on a boundary of 16 bytes."""
    if table is None:
        return None
    table = table.detach().float().contiguous()
    return table if table.data_ptr() % 16 == 0 else table.clone()


def indices(permutation: Tensor | None) -> Tensor | None:
    """A permutation as the kernels read it: uint16 or int32, side by side."""
    if permutation is None:
        return None
    return (permutation if is_16_bit(permutation) else permutation.to(torch.int32)).contiguous()


def is_16_bit(permutation: Tensor | None) -> bool:
    """Whether it is of uint16."""
    return permutation is not None and permutation.dtype == torch.uint16


def pointer(table: Tensor | None) -> int | None:
    """The address of its memory, NULL where there is nothing."""
    return None if table is None or not table.numel() else table.data_ptr()


def on_device(x: Tensor) -> torch.cuda.device | _Here:
    """Makes ``x``'s device the current one, for the length of a call."""
    return torch.cuda.device(x.device) if x.is_cuda else _Here()


class _Here:
    """Stands for a device where there is none to choose."""

    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


def _workspace(size_bytes: int, device: torch.device) -> Tensor:
    return torch.empty(size_bytes, dtype=torch.uint8, device=device)


def _stack(rows: Tensor, B: Tensor, G: Tensor, S: Tensor, permutation: Tensor) -> tuple[list[Tensor | None], Stack]:
    """The arguments of stacked blocks, and the tensors that must live until the call was made."""
    keep = [*(parameter(table) for table in (B, G, S)), indices(permutation)]
    sizes = B.shape[1], B.shape[0], len(S), rows.shape[1]
    return keep, Stack(*sizes, FASTFOOD_INDEX_16 * is_16_bit(permutation), *map(pointer, keep))
