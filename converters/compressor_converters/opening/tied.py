"""Tied weights: parameters that several modules of a network hold together."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn


def find_tied(model: nn.Module) -> dict[str, str]:
    """Dense maps that are the same as an earlier one, with its name: same weight, same bias, nothing hooked on."""
    first: dict[tuple[int, int], str] = {}
    tied = {}
    for name, module in model.named_modules():
        if type(module) is nn.Linear and not module._forward_hooks and not module._forward_pre_hooks:
            known = first.setdefault((id(module.weight), id(module.bias)), name)
            if known != name:
                tied[name] = known
    return tied


def merge(model: nn.Module, tied: Mapping[str, str]) -> None:
    """Put one module at all names of a tied map, so that what replaces it is tied too."""
    for name, first in tied.items():
        again = model.get_submodule(name)
        for place in [place for place, found in model.named_modules(remove_duplicate=False) if found is again]:
            model.set_submodule(place, model.get_submodule(first))


def holders(model: nn.Module) -> dict[int, list[str]]:
    """The names of the modules that hold each parameter, by the parameter's id."""
    found: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                found.setdefault(id(parameter), []).append(name)
    return found
