"""The rows of `kernels_cpu` about all kernels but ACDC's."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from kernel_timing import Call, Job, dense
from torch import Tensor, nn

from compressor.layers import method
from compressor_kernels import fourier, hadamard, monarch, native, sparse

Cells = list[tuple[int, int]]


def structured_call(function: str, table: ctypes.Structure | None, x: Tensor, width: int) -> Call:
    """A C function ``function([table,] x, y, ...)`` with everything bound."""
    library, (batch, n), y = native.loaded(), x.shape, torch.empty(len(x), width)
    run_c = getattr(library, function)
    sizes = [batch, n, n, n] if table is None else [batch, n, width]
    first = [] if table is None else [ctypes.addressof(table)]
    arguments = [*first, x.data_ptr(), y.data_ptr(), *sizes, 1, None]

    def call(_: Any = (table, x, y)) -> None:
        run_c(*arguments)

    return call


def nothing() -> Call:
    """A C call that does nothing: a transform of no rows."""
    return structured_call("ck_fwht_f32", None, torch.empty(0, 8), 8)


def layer_step(layer: nn.Module, x: Tensor) -> Call:
    """Forward and backward of one layer."""
    grad, leaves = torch.randn(len(x), layer.out_features), [x.clone().requires_grad_(), *layer.parameters()]

    def call() -> None:
        with torch.enable_grad():
            torch.autograd.grad(layer(leaves[0]), leaves, grad)

    return call


def plainly(call: Call) -> Call:
    """``call`` with the library hidden."""

    def without() -> None:
        found, native.is_loaded = native.is_loaded, lambda: False
        try:
            call()
        finally:
            native.is_loaded = found

    return without


def layer_jobs(
    op: str,
    name: str,
    prepare: Callable[[nn.Module, Tensor], Call],
    cells: Cells,
    *,
    variant: str = "",
    **settings: Any,
) -> Iterator[Job]:
    """Warm, cold, Python and training rows of one method."""
    for n, batch in cells:
        layer, x = method(name).layer(n, n, bias=True, **settings), torch.randn(batch, n)
        call, flops = prepare(layer, x), 2.0 * batch * layer.macs()
        yield Job(op, n, 1, batch, "warm", dense(n, batch), call, nothing(), flops, x.clone, variant)
    for n in (1024, 4096):
        layer, x = method(name).layer(n, n, bias=True, **settings), torch.randn(1, n)
        yield Job(op, n, 1, 1, "cold", dense(n, 1), prepare(layer, x), nothing(), variant=variant)
    layer, x, linear = (
        method(name).layer(1024, 1024, bias=True, **settings),
        torch.randn(1, 1024),
        nn.Linear(1024, 1024),
    )
    yield Job(op, 1024, 1, 1, "python", {"torch": lambda: linear(x)}, lambda: layer(x), variant=variant)
    step_ = layer_step(layer, torch.randn(128, 1024))
    yield Job(op, 1024, 1, 128, "train", {"plain torch": plainly(step_)}, step_, variant=variant)


def cells_for(quick: bool) -> Cells:
    sizes, batches = ((1024, 4096), (1, 128)) if quick else ((512, 1024, 2048, 4096), (1, 8, 32, 128))
    return [(n, batch) for n in sizes for batch in batches]


def fwht_jobs(quick: bool) -> Iterator[Job]:
    for n, batch in cells_for(quick):
        x, bits = torch.randn(batch, n), n.bit_length() - 1
        flops = float(batch * n * bits)
        yield Job(
            "fwht",
            n,
            1,
            batch,
            "warm",
            dense(n, batch),
            structured_call("ck_fwht_f32", None, x, n),
            nothing(),
            flops,
            x.clone,
        )


def fastfood_jobs(quick: bool) -> Iterator[Job]:
    def prepare(layer: Any, x: Tensor) -> Call:
        tables = [layer.B, layer.G, layer.S, layer.permutation]
        stack = hadamard.stack(layer.in_features, tables, layer.scale, "linear", layer.bias)
        return structured_call("ck_fastfood_forward_f32", stack, x, layer.width)

    yield from layer_jobs("fastfood", "fastfood", prepare, cells_for(quick))


def monarch_jobs(quick: bool) -> Iterator[Job]:
    def prepare(layer: Any, x: Tensor) -> Call:
        stack = monarch.stack(layer.in_features, layer.first, layer.second, layer.bias, layer.out_features)
        return structured_call("ck_monarch_forward_f32", stack, x, layer.out_features)

    yield from layer_jobs("monarch", "monarch", prepare, cells_for(quick))


def sparse_jobs(quick: bool) -> Iterator[Job]:
    def prepare(layer: Any, x: Tensor) -> Call:
        places = layer.positions
        tables = [layer.values, places.columns, places.lengths, layer.bias]
        matrix = sparse.matrix(layer.in_features, tables, layer.out_features, places.block)
        return structured_call("ck_csr_forward_f32", matrix, x, layer.out_features)

    yield from layer_jobs("csr", "pruned", prepare, cells_for(quick), density=0.1)
    yield from layer_jobs("csr", "pruned", prepare, cells_for(quick=True), variant="block=16", density=0.1, block=16)


def fourier_jobs(kind: fourier.Kind, _quick: bool) -> Iterator[Job]:
    """Circulant, Toeplitz-like and AFDF layers, which have no kernel for gradients."""
    for n, batch in cells_for(quick=True):
        layer, x, linear = method(kind).layer(n, n, bias=True), torch.randn(batch, n), nn.Linear(n, n)
        first, second = (table for name, table in {**layer._parameters, **layer._buffers}.items() if name != "bias")
        described, _tables = fourier.describe(kind, n, first, second, layer.bias, n)
        call = structured_call(f"ck_{kind}_forward_f32", described, x, n)
        members, flops = len(first), 2.0 * batch * layer.macs()
        yield Job(kind, n, members, batch, "warm", dense(n, batch), call, nothing(), flops, x.clone)
        if (n, batch) == (1024, 1):
            yield Job(kind, n, members, batch, "python", {"torch": partial(linear, x)}, partial(layer, x))
