"""A compressed network with every structured layer expanded to the dense one that does the same."""

from __future__ import annotations

import torch
from torch import nn

from compressor.errors import CompressorError
from compressor.layers import StructuredLayer, replace
from compressor_converters.opening import close_model


def expanded(model: nn.Module, original: nn.Module) -> nn.Module:
    """``model``, changed in place to modules of the original's types; ``original`` is what it was made from.

    CompressorError for a block with a nonlinearity inside, which no dense layer does.
    """
    for name, layer in [(name, m) for name, m in model.named_modules() if isinstance(m, StructuredLayer)]:
        if not layer.is_linear:
            raise CompressorError(
                f"'{name}' is a {layer.method} block with a nonlinearity inside, which no dense layer does: it cannot"
                " be written dense; compress with --set window=off and a linear method"
            )
        with torch.no_grad():
            weight, bias = layer.dense()
            dense = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
            dense.weight.copy_(weight)
            if bias is not None:
                dense.bias.copy_(bias)
        replace(model, name, dense)
    close_model(model, original)
    return model.eval()
