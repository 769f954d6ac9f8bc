"""How a network is called: by position, whatever the order of its arguments; and what it returns, as plain data."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_map


def input_names(model: nn.Module) -> tuple[str, ...]:
    """The names of the inputs that ``model`` needs; the first one where it needs none by name."""
    parameters = _arguments(model)
    needed = tuple(p.name for p in parameters if p.default is p.empty)
    return needed or tuple(p.name for p in parameters[:1]) or ("input",)


def given_names(model: nn.Module, names: Sequence[str], given: Collection[str]) -> tuple[str, ...]:
    """The inputs of ``model`` that data with the arrays ``given`` holds, in its order; ``names`` where one is missing.

    The networks of ``transformers`` take everything by name and need nothing: what they are given says what they get.
    """
    parameters = _arguments(model)
    if any(p.default is p.empty and p.name not in given for p in parameters):
        return tuple(names)
    return tuple(p.name for p in parameters if p.name in given) or tuple(names)


def call_in_order(model: nn.Module, names: Sequence[str]) -> None:
    """Let positional arguments of ``model`` be those called ``names``, where they are not the first ones anyway."""
    if tuple(names) != tuple(p.name for p in _arguments(model))[: len(names)]:
        model.register_forward_pre_hook(_ByName(names), with_kwargs=True)


class _ByName:
    """A hook, as an object so that a network with it can be copied."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)

    def __call__(self, _model: nn.Module, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return (), {**dict(zip(self.names, args, strict=False)), **kwargs}


def spare_inputs(model: nn.Module) -> None:
    """Let ``model``, which changes its inputs in place, do so on copies: the same rows go through several networks."""
    model.register_forward_pre_hook(_on_copies, with_kwargs=True)


def _on_copies(_model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    args, kwargs = tree_map(lambda value: value.clone() if isinstance(value, Tensor) else value, (args, kwargs))
    return args, kwargs


@contextlib.contextmanager
def plain_output(model: nn.Module) -> Iterator[None]:
    """Within it, ``model`` returns plain dicts and tuples in place of classes of its own: files know no classes."""

    def plain(_model: nn.Module, _inputs: object, output: object) -> object:
        return _plain(output)

    with model.register_forward_hook(plain):
        yield


def _plain(output: object) -> object:
    """Mappings as dicts and named tuples as tuples, at every depth."""
    if isinstance(output, Mapping):
        return {key: _plain(value) for key, value in output.items()}
    if isinstance(output, list | tuple):
        kind = list if isinstance(output, list) else tuple
        return kind(_plain(value) for value in output)
    return output


def _arguments(model: nn.Module) -> list[inspect.Parameter]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [p for p in inspect.signature(model.forward).parameters.values() if p.kind in kinds]
