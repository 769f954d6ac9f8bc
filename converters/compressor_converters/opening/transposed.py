"""Hugging Face's ``Conv1D`` (GPT-2): a dense map that stores its weight as ``(in, out)``."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from compressor_converters.opening.kind import Kind, dense


def _takes(module: Any) -> bool:
    """By its name and layout, so that ``transformers`` need not be there."""
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    return (
        type(module).__name__ == "Conv1D"
        and isinstance(weight, nn.Parameter)
        and isinstance(bias, nn.Parameter)
        and weight.ndim == 2
        and getattr(module, "nf", None) == weight.shape[1] == len(bias)
    )


def _open(module: Any) -> nn.Module:
    return dense(module.weight.T, module.bias)


def _write_back(opened: Any, module: Any) -> None:
    with torch.no_grad():
        module.weight.copy_(opened.weight.T)
        module.bias.copy_(opened.bias)


TRANSPOSED = Kind("transposed", nn.Linear, _takes, _open, _write_back)
