"""Learning rates by kind of parameter, the same wherever structured layers are trained."""

from __future__ import annotations

from torch import nn

from compressor.layers.base import StructuredLayer

DIAGONAL_RATE = 10.0  # learning rate of diagonals over that of dense parameters: their fan-in is 1


def parameter_groups(module: nn.Module, rate: float, weight_decay: float) -> list[dict[str, object]]:
    """AdamW groups by kind of parameter: diagonals quick and never decayed, biases never decayed."""
    kinds: dict[int, str] = {}
    for layer in module.modules():
        if isinstance(layer, StructuredLayer):
            kinds.update({id(parameter): layer.kind(name) for name, parameter in layer.named_parameters()})
    groups: dict[str, list[nn.Parameter]] = {"diagonal": [], "bias": [], "dense": []}
    for parameter in module.parameters():
        if parameter.requires_grad:
            kind = kinds.get(id(parameter), "dense" if parameter.ndim > 1 else "bias")
            groups[kind].append(parameter)
    rates = {"diagonal": rate * DIAGONAL_RATE, "bias": rate, "dense": rate}
    decays = {"diagonal": 0.0, "bias": 0.0, "dense": weight_decay}
    return [
        {"params": group, "lr": rates[kind], "weight_decay": decays[kind]} for kind, group in groups.items() if group
    ]
