"""The native kernels as operators of torch: with shapes for tracing, gradients, and a name in compiled graphs.

``torch.ops.compressor_kernels.*``. Eager inference goes past them (see `dispatch`): an operator's own cost is several
microseconds. On a GPU they are CUDA kernels (`gpu`). What no kernel takes an operator computes by `reference`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from compressor_kernels import gpu, native, reference

_NAMESPACE = "compressor_kernels"
_library = torch.library.Library(_NAMESPACE, "DEF")  # type: ignore[no-untyped-call]
_define = cast(Callable[[str], str], _library.define)
_define("dct(Tensor x, bool inverse) -> Tensor")
_define(
    "acdc(Tensor x, Tensor a, Tensor d, Tensor? bias, Tensor? permutation, int out_features, bool relu, "
    "bool separable) -> Tensor"
)
_define(
    "acdc_backward(Tensor grad, Tensor x, Tensor a, Tensor d, Tensor? bias, Tensor? permutation, bool relu, "
    "bool separable) -> (Tensor, Tensor, Tensor, Tensor)"
)


def dct(x: Tensor, *, inverse: bool = False) -> Tensor:
    """`reference.dct` or `reference.idct` as one operator."""
    y: Tensor = torch.ops.compressor_kernels.dct(x, inverse)
    return y


def acdc(
    x: Tensor,
    a: Tensor,
    d: Tensor,
    bias: Tensor | None,
    permutation: Tensor | None,
    out_features: int,
    relu: bool,
    separable: bool,
) -> Tensor:
    """`reference.acdc` as one operator, whose gradient is one too."""
    y: Tensor = torch.ops.compressor_kernels.acdc(x, a, d, bias, permutation, out_features, relu, separable)
    return y


@torch.library.impl(_library, "dct", "CompositeExplicitAutograd")
def _dct(x: Tensor, inverse: bool) -> Tensor:
    if native.takes(x) and x.numel():
        return native.dct(x, inverse=inverse)
    return reference.idct(x) if inverse else reference.dct(x)


def _dct_shape(x: Tensor, inverse: bool) -> Tensor:
    return x.new_empty(x.shape)


@torch.library.impl(_library, "acdc", "CompositeExplicitAutograd")
def _acdc(
    x: Tensor,
    a: Tensor,
    d: Tensor,
    bias: Tensor | None,
    permutation: Tensor | None,
    out_features: int,
    relu: bool,
    separable: bool,
) -> Tensor:
    if native.takes(x, a, d, bias) and native.can_cascade(d.shape[1], separable=separable) and x.numel():
        return native.acdc(x, a, d, bias, permutation, out_features=out_features, relu=relu, separable=separable)
    if not separable and gpu.takes_cascade(d.shape[1], x, a, d, bias, permutation):
        return gpu.acdc(x, a, d, bias, permutation, out_features, relu)
    return reference.acdc(x, a, d, bias, permutation, out_features, relu, separable).contiguous()


def _acdc_shape(
    x: Tensor,
    a: Tensor,
    d: Tensor,
    bias: Tensor | None,
    permutation: Tensor | None,
    out_features: int,
    relu: bool,
    separable: bool,
) -> Tensor:
    return x.new_empty((*x.shape[:-1], out_features))


@torch.library.impl(_library, "acdc_backward", "CompositeExplicitAutograd")
def _acdc_backward(
    grad: Tensor,
    x: Tensor,
    a: Tensor,
    d: Tensor,
    bias: Tensor | None,
    permutation: Tensor | None,
    relu: bool,
    separable: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    none = d.new_empty(0)
    if native.takes(grad, x, a, d, bias) and native.can_cascade(d.shape[1], separable=separable) and x.numel():
        found = native.acdc_backward(grad, x, a, d, bias, permutation, relu=relu, separable=separable)
    elif not separable and gpu.takes_cascade(d.shape[1], x, grad, a, d, bias, permutation):
        found = gpu.acdc_backward(grad, x, a, d, bias, permutation, relu)
    else:
        found = _reference_gradients(grad, x, a, d, bias, permutation, relu, separable, differentiable=False)
    return *found[:3], none if found[3] is None else found[3]


def _acdc_backward_shape(
    grad: Tensor,
    x: Tensor,
    a: Tensor,
    d: Tensor,
    bias: Tensor | None,
    permutation: Tensor | None,
    relu: bool,
    separable: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    tables = [table.new_empty(table.shape) for table in (x, a, d)]
    return tables[0], tables[1], tables[2], d.new_empty(0) if bias is None else bias.new_empty(bias.shape)


def _reference_gradients(
    grad: Tensor,
    x: Tensor,
    a: Tensor,
    d: Tensor,
    bias: Tensor | None,
    permutation: Tensor | None,
    relu: bool,
    separable: bool,
    *,
    differentiable: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """`reference.gradients` by x, a, d and the bias."""

    def run(x: Tensor, a: Tensor, d: Tensor, bias: Tensor | None = None) -> Tensor:
        return reference.acdc(x, a, d, bias, permutation, grad.shape[-1], relu, separable)

    used = [x, a, d] if bias is None else [x, a, d, bias]
    found = reference.gradients(run, used, grad, differentiable=differentiable)
    return found[0], found[1], found[2], None if bias is None else found[3]


def _keep_dct(ctx: Any, inputs: tuple[Tensor, bool], output: Tensor) -> None:
    ctx.inverse = inputs[1]


def _dct_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    return dct(grad, inverse=not ctx.inverse), None


def _keep_acdc(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, _, ctx.relu, ctx.separable = inputs
    ctx.save_for_backward(*tensors)


def _acdc_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, a, d, bias, permutation = ctx.saved_tensors
    found: tuple[Tensor | None, ...]
    if reference.wanted_twice():
        found = _reference_gradients(grad, x, a, d, bias, permutation, ctx.relu, ctx.separable, differentiable=True)
    else:
        found = torch.ops.compressor_kernels.acdc_backward(grad, x, a, d, bias, permutation, ctx.relu, ctx.separable)
    return *found[:3], None if bias is None else found[3], None, None, None, None


for _name, _shape in (("dct", _dct_shape), ("acdc", _acdc_shape), ("acdc_backward", _acdc_backward_shape)):
    torch.library.register_fake(f"{_NAMESPACE}::{_name}", _shape, lib=_library)
torch.library.register_autograd(f"{_NAMESPACE}::dct", _dct_gradient, setup_context=_keep_dct, lib=_library)
torch.library.register_autograd(f"{_NAMESPACE}::acdc", _acdc_gradient, setup_context=_keep_acdc, lib=_library)
