"""Opening: every module that hides dense maps becomes one whose dense maps are `nn.Linear` children.

What works on `nn.Linear` (sites, calibration, fit, distillation, the manifest, exports) then works on all of them.
After compression each opened module whose maps all stayed dense is closed again: the original's own module, with
the parameters as they are now.
"""

from __future__ import annotations

import copy
import fnmatch
from collections.abc import Collection, Iterator, Mapping, Sequence

import torch
from torch import nn

from compressor.layers import StructuredLayer, replace
from compressor_converters.opening.attention import ATTENTION, settle_fused_paths
from compressor_converters.opening.convolution import CONVOLUTION
from compressor_converters.opening.kind import Kind
from compressor_converters.opening.recurrent import RECURRENT
from compressor_converters.opening.tied import holders
from compressor_converters.opening.transposed import TRANSPOSED

KINDS: dict[str, Kind] = {kind.name: kind for kind in (TRANSPOSED, CONVOLUTION, RECURRENT, ATTENTION)}


def find_openable(model: nn.Module, targets: Sequence[str] = (), *, leave: Collection[str] = ()) -> dict[str, str]:
    """The modules of ``model`` that can be opened, with their kinds.

    ``targets`` are the patterns by which sites are asked for: a kind that costs something is there only where one of
    them matches the module or a map inside it. The modules named in ``leave`` are not.
    """
    found = {}
    for name, kind in _openable(model):
        wanted = not kind.by_name_only(model.get_submodule(name)) or _is_named(name, targets)
        if wanted and name not in leave:
            found[name] = kind.name
    return found


def open_model(model: nn.Module, targets: Sequence[str] = (), *, leave: Collection[str] = ()) -> dict[str, str]:
    """Open in place all that `find_openable` finds, and say what it was."""
    found = find_openable(model, targets, leave=leave)
    reopen(model, found)
    return found


def reopen(model: nn.Module, opened: Mapping[str, str]) -> None:
    """Open the modules named in ``opened``, each as its kind says. KeyError, ValueError where one does not fit."""
    for name, kind in opened.items():
        module = model.get_submodule(name)
        if not KINDS[kind].takes(module):
            raise ValueError(f"'{name}' is a {type(module).__name__}, which cannot be opened as {kind}")
        with torch.enable_grad():  # so that a part of a parameter still says whether it is trained
            replace(model, name, KINDS[kind].open(module))
    settle_fused_paths(model)


def opened_in(model: nn.Module) -> dict[str, str]:
    """The kinds of the modules of ``model`` that stand opened, by name."""
    made = {kind.made: kind.name for kind in KINDS.values() if kind.made is not nn.Linear}
    return {name: made[type(module)] for name, module in model.named_modules() if type(module) in made}


def close_model(model: nn.Module, original: nn.Module) -> None:
    """Put back the module of ``original``, with the present parameters, wherever no map of an opened one was replaced.

    ``original`` itself is only read.
    """
    for name, kind in _openable(original):
        opened = model.get_submodule(name)
        if type(opened) is not kind.made or not _is_dense(opened):
            continue
        closed = copy.deepcopy(original.get_submodule(name)).to(next(opened.parameters()).device)
        kind.write_back(opened, closed)
        replace(model, name, closed)
    settle_fused_paths(model, original)


def _openable(model: nn.Module) -> Iterator[tuple[str, Kind]]:
    """Modules that some kind takes: with parameters that no other module has, and without hooks on them."""
    owners = holders(model)
    for name, module in list(model.named_modules()):
        alone = all(len(owners[id(parameter)]) == 1 for parameter in module.parameters())
        if not name or not alone or module._forward_hooks or module._forward_pre_hooks:
            continue
        for kind in KINDS.values():
            if kind.takes(module):
                yield name, kind


def _is_named(name: str, targets: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, target) or target.startswith(name + ".") for target in targets)


def _is_dense(opened: nn.Module) -> bool:
    """Whether every map inside is still the dense one."""
    return not any(isinstance(module, StructuredLayer | nn.Identity) for module in opened.modules())
