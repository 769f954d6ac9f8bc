"""The way of a small call in eager inference: one whose tables the library knows already.

One row takes a microsecond or two in the kernel, and asking four tensors what they are and describing them to the
library takes many times that. So a description is kept for as long as its tables live, and used again while they are
the same tensors and lie in memory as they did; what their numbers are is never kept. A layer of which such a call was
all is known as a whole.

`call` is a small extension module (``kernels/python/quick.c``) where that was built and torch has DLPack's exchange
interface, else the same in Python.
"""

from __future__ import annotations

import ctypes
import importlib
import weakref
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules import module as modules

from compressor_kernels import native

_grad_enabled = torch.is_grad_enabled
_tracing = torch._C._get_tracing_state
_transforms = torch._C._are_functorch_transforms_active
_modes = torch._C._len_torch_dispatch_stack
_threads = torch.get_num_threads
_empty = torch.empty


@dataclass(frozen=True, slots=True)
class _Known:
    """A call that was made before: its tables, weakly, how they lay in memory, and the library's view of them."""

    forward: Any
    description: ctypes.Structure
    settings: Hashable
    columns: int
    outputs: int
    references: tuple[Any, ...]
    views: tuple[Hashable, ...]


_known_layers: dict[int, Any] = {}  # by the id of the layer
_known: dict[int, Any] = {}  # by the id of the first table: a _Known, or what the extension has instead


def call_in_python(x: Tensor, outputs: int, settings: Hashable, *tables: Tensor | None) -> Tensor | None:
    """The result of a call that `remember` has seen, if nothing is recorded; None if not."""
    if type(x) is not Tensor or _grad_enabled():
        return None
    known = _known.get(id(tables[0]))
    if (
        known is None
        or len(tables) != len(known.references)
        or outputs != known.outputs
        or settings != known.settings
        or _tracing() is not None
        or _transforms()
        or _modes()
        or forward_ad._current_level >= 0
        or x.dtype is not torch.float32
        or not x.is_cpu
        or not x.is_contiguous()
        or x.is_neg()
        or not x.numel()
        or x.shape[-1:] != (known.columns,)
    ):
        return None
    for table, reference, view in zip(tables, known.references, known.views, strict=True):
        if table is None:
            if reference is not None:
                return None
        elif reference is None or reference() is not table or _view(table) != view:
            return None
    y = _empty(*x.shape[:-1], outputs)
    if y.dtype is not torch.float32 or not y.is_cpu:  # by a default dtype or device
        return None
    rows = x.numel() // known.columns
    error = known.forward(
        ctypes.addressof(known.description), x.data_ptr(), y.data_ptr(), rows, known.columns, outputs, _threads(), None
    )
    if error:
        native.check(error)
    return y


def _view(table: Tensor | None) -> Hashable:
    """How a tensor lies in memory."""
    return table is not None and (table.data_ptr(), table.dtype, table.shape, table.stride(), table.is_neg())


def _forgetting(known: dict[int, Any], key: int) -> Callable[[object], Any]:
    """What is called once that at ``key`` dies, also when Python ends and this module is gone; it is the default."""
    return partial(known.pop, key)


def remember(
    function: str,
    description: ctypes.Structure,
    x: Tensor,
    outputs: int,
    settings: Hashable,
    *tables: Tensor | None,
) -> None:
    """Let `call` know a call of ``function``, which reads ``description``; where its tables are as that says."""
    held = [table for table in tables if table is not None]
    if _grad_enabled() or not all(type(t) in (Tensor, nn.Parameter) and t.is_contiguous() for t in held):
        return
    key = id(tables[0])
    forget = _forgetting(_known, key)
    forward = getattr(native.loaded(), function)
    references = tuple(None if table is None else weakref.ref(table, forget) for table in tables)
    if _extension is None:
        views = tuple(map(_view, tables))
        _known[key] = _Known(forward, description, settings, x.shape[-1], outputs, references, views)
        return
    _known[key] = _extension.describe(
        ctypes.cast(forward, ctypes.c_void_p).value,
        ctypes.addressof(description),
        description,
        settings,
        x.shape[-1],
        outputs,
        references,
    )


def call_layer(layer: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Tensor | None:
    """``layer(*arguments, **keywords)`` where all that it does is one call that is known; None if not.

    A layer is known by `learn`, for as many rows as it was given then, while it holds the same tensors and nothing
    is hooked to it. Without the extension nothing is: in Python the questions take as long as the layer.
    """
    return None


def learn(layer: nn.Module, arguments: tuple[Any, ...], y: Any) -> None:
    """After `call_layer` gave None: ``y`` is what the layer gave for the arguments."""


def _set_up() -> ModuleType | None:
    """The extension module, ready; None where it was not built, or torch is older than the exchange interface."""
    try:
        found = importlib.import_module("compressor_kernels._quick")
        found.setup(
            Tensor,
            getattr(Tensor, "__dlpack_c_exchange_api__", None),
            _grad_enabled,
            _tracing,
            _transforms,
            _modes,
            forward_ad,
            _threads,
            _empty,
            torch._C.TensorBase.is_neg,
            (
                modules._global_forward_hooks,
                modules._global_forward_pre_hooks,
                modules._global_backward_hooks,
                modules._global_backward_pre_hooks,
            ),
            _known,
            _known_layers,
            partial(_forgetting, _known_layers),
            native.check,
        )
    except ImportError:
        return None
    return found


call = call_in_python
_extension = _set_up()
if _extension is not None:
    call, call_layer, learn = _extension.call, _extension.call_layer, _extension.learn
