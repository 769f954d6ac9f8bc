"""Cascades, Fastfood and Walsh–Hadamard of CUDA tensors in one kernel a call, and their gradients.

`takes` and the ``can_*`` say what there is a kernel for. Everything else runs in plain torch on the GPU, several
kernels a call (the cosine transforms are cuFFT's) and of any length. `dispatch` chooses; the operators of torch are
those of the CPU (`ops`, `hadamard`). For the gradients all between x and y is computed once more.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from compressor_kernels.cuda import SUFFIX, Kernels, Limits, library
from compressor_kernels.reference import bend

DEVICE = "cuda"  # the tests put "cpu" and the emulation in its place
_READ = {*SUFFIX, torch.uint16, torch.int32, torch.int64}


def can_cascade(n: int) -> bool:
    """Whether there is a kernel for cascades of this length: past 16,384 on GPUs whose blocks form clusters."""
    return 128 <= n <= 65536 and n & (n - 1) == 0


def can_fastfood(n: int) -> bool:
    """Whether there is a kernel for Fastfood blocks of this length."""
    return 64 <= n <= 16384 and n & (n - 1) == 0


def can_fwht(n: int) -> bool:
    """Whether there is a kernel for Walsh–Hadamard transforms of this length."""
    return 64 <= n <= 32768 and n & (n - 1) == 0


def takes(x: Tensor, *tables: Tensor | None) -> bool:
    """Whether all are on one GPU and of a type that the kernels read, and a row fits in a block's shared memory."""
    if not _reads(x, *tables):
        return False
    fits: bool = 4 * x.shape[-1] <= _limits(x.device.index).shared_bytes
    return fits


def takes_cascade(n: int, x: Tensor, *tables: Tensor | None) -> bool:
    """Whether cascades of length ``n`` have a kernel, for which there is room on the one GPU that all are on."""
    if not can_cascade(n) or not _reads(x, *tables):
        return False
    fits: bool = n <= _limits(x.device.index).longest_cascade
    return fits


def _reads(x: Tensor, *tables: Tensor | None) -> bool:
    if x.device.type != DEVICE or x.dtype not in SUFFIX:
        return False
    return all(table is None or (table.device == x.device and table.dtype in _READ) for table in tables)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _limits(index: int | None) -> Limits:
    """What a GPU has room for; nothing where there are no kernels for it."""
    found = kernels()
    device = torch.device(DEVICE) if index is None else torch.device(DEVICE, index)
    return Limits(0, 0) if found is None else found.limits(device)


@functools.cache
def kernels() -> Kernels | None:
    """The kernels of this process, None where there is no library."""
    found = library()
    return None if found is None else Kernels(found)


def acdc(
    x: Tensor, a: Tensor, d: Tensor, bias: Tensor | None, permutation: Tensor | None, out_features: int, relu: bool
) -> Tensor:
    """`reference.acdc`, not separable, without autograd."""
    return _loaded().acdc(x, a, d, bias, permutation, out_features, relu)


def acdc_backward(
    grad: Tensor, x: Tensor, a: Tensor, d: Tensor, bias: Tensor | None, permutation: Tensor | None, relu: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """The gradients of x, a, d and bias from that of the output of `acdc`."""
    return _loaded().acdc_backward(x, a, d, bias, permutation, relu, grad)


def fwht(x: Tensor) -> Tensor:
    """`reference.fwht`, without autograd."""
    return _loaded().fwht(x)


def fastfood(x: Tensor, B: Tensor, permutation: Tensor, G: Tensor, S: Tensor, *, scale: float, features: str) -> Tensor:
    """`reference.fastfood`, without autograd: the stack is one call, a nonlinearity more."""
    return bend(_loaded().fastfood(x, B, G, S * scale, permutation), features)


def fastfood_backward(
    grad: Tensor, x: Tensor, B: Tensor, permutation: Tensor, G: Tensor, S: Tensor, *, scale: float, features: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients by x, B, G and S."""
    on, scaled = _loaded(), S * scale
    if features != "linear":
        products = on.fastfood(x, B, G, scaled, permutation)
        (grad,) = torch.func.vjp(lambda h: bend(h, features), products)[1](grad)  # an operator has no autograd within
    gx, gb, gg, gs = on.fastfood_backward(x, B, G, scaled, permutation, grad)
    return gx, gb, gg, gs * scale


def _loaded() -> Kernels:
    found = kernels()
    assert found is not None, "dispatch asks only where there is a library"
    return found
