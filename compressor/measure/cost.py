"""What a network costs by its shapes alone: the numbers it stores and its multiply-adds."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from compressor.layers import StructuredLayer


def count_params(model: nn.Module) -> int:
    """All numbers stored to rebuild ``model``: parameters and persistent buffers (tied ones once) and seeds."""
    stored = {id(parameter): parameter.numel() for parameter in model.parameters()}
    seeds = 0
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if name not in module._non_persistent_buffers_set:
                stored[id(buffer)] = buffer.numel()
        seeds += module.seeds if isinstance(module, StructuredLayer) else 0
    return sum(stored.values()) + seeds


def count_macs(model: nn.Module, example: tuple[Tensor, ...]) -> int:
    """Multiply-adds per example: convolutions, matrix products, attention, and what structured layers say of theirs.

    ``example`` is a batch of inputs on the model's device; the meta device will do. Additions of biases,
    activations, norms and poolings are not counted. A structured layer counts as its `macs` for each row that
    enters it, not as the operators that it happens to be written in.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False, custom_mapping=_matrix_vector_flops())
    fast_path = torch.backends.mha.get_fastpath_enabled()
    # Fused operators (attention, recurrent layers) are counted by the products that they are made of.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with (
            _evaluating(model),
            _structured_flops(model, counter) as corrections,
            torch.no_grad(),
            _without_mkldnn(),
            sdpa_kernel(SDPBackend.MATH),
            counter,
        ):
            model(*example)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
    return round((counter.get_total_flops() + sum(corrections)) / 2 / len(example[0]))


@contextlib.contextmanager
def _without_mkldnn() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*TF32 acceleration")  # said when the flags are merely set back
        with torch.backends.mkldnn.flags(enabled=False):
            yield


def _matrix_vector_flops() -> dict[Any, Callable[..., int]]:
    """Products with a vector, which torch's own counter leaves out."""
    aten = torch.ops.aten

    def product(matrix: torch.Size, vector: torch.Size, *_: Any, **__: Any) -> int:
        return 2 * math.prod(matrix)

    def added(start: torch.Size, matrix: torch.Size, vector: torch.Size, *_: Any, **__: Any) -> int:
        return 2 * math.prod(matrix)

    return {aten.mv: product, aten.dot: product, aten.addmv: added}


@contextlib.contextmanager
def _structured_flops(model: nn.Module, counter: Any) -> Iterator[list[int]]:
    """What must be added to the counter's total so that structured layers count as they say, call by call."""
    corrections: list[int] = []
    entered: list[int] = []  # the total when each structured layer under way was entered

    def before(_layer: nn.Module, _inputs: tuple[Tensor, ...]) -> None:
        entered.append(counter.get_total_flops())

    def after(layer: StructuredLayer, inputs: tuple[Tensor, ...], _output: object) -> None:
        inside = counter.get_total_flops() - entered.pop()
        if not entered:  # one inside another belongs to the outer one
            corrections.append(2 * layer.macs() * (inputs[0].numel() // layer.in_features) - inside)

    with contextlib.ExitStack() as hooks:
        for module in model.modules():
            if isinstance(module, StructuredLayer):
                hooks.enter_context(module.register_forward_pre_hook(before))
                hooks.enter_context(module.register_forward_hook(after))
        yield corrections


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; each module as it was, afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
