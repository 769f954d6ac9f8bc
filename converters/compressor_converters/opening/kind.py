"""What a kind of opening is: how a module with dense maps inside becomes one with `nn.Linear` children, and back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


def _never(_module: nn.Module) -> bool:
    return False


@dataclass(frozen=True)
class Kind:
    """One kind of module that can be opened.

    ``open`` makes a module that is called in the same way and computes the same, with every dense map an
    `nn.Linear`; ``write_back`` puts the parameters of such a module into one of the original's type.
    """

    name: str
    made: type[nn.Module]
    takes: Callable[[nn.Module], bool]
    open: Callable[[nn.Module], nn.Module]
    write_back: Callable[[nn.Module, nn.Module], None]
    by_name_only: Callable[[nn.Module], bool] = _never  # opened only where it is targeted by name


def dense(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """The map ``x Wᵀ + b`` as a module with parameters of its own. ``weight (out, in)``, ``bias (out,)``."""
    with torch.device("meta"):
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    linear.weight = _parameter(weight)
    if bias is not None:
        linear.bias = _parameter(bias)
    return linear


def _parameter(values: Tensor) -> nn.Parameter:
    copied = values.detach().clone(memory_format=torch.contiguous_format)
    return nn.Parameter(copied, requires_grad=values.requires_grad)
