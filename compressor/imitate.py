"""Train one block on its own, so that it behaves like the part of the original that it replaced."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from compressor.layers.rates import parameter_groups
from compressor.progress import Limit

_BLOCK_EPOCHS = 15
_HELD_BACK_ROWS = 0.1


def imitate(
    layer: nn.Module,
    activation: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    *,
    seed: int,
    limit: Limit,
    rate: float = 1e-3,
) -> float:
    """Train ``layer`` so that ``activation(layer(x))`` is near ``activation(y)``; keep the best by held-back rows.

    A window that contains the nonlinearity is a better aim than the matrix alone (DESIGN: distil).
    Shapes: ``x (rows, in)``, ``y (rows, out)``. Returns the relative error on held-back rows.
    """
    held = max(1, int(len(x) * _HELD_BACK_ROWS))
    with torch.no_grad():
        aim = activation(y)
    scale = aim.square().mean().clamp_min(1e-12)

    def loss_on(rows: slice | Tensor) -> Tensor:
        return (activation(layer(x[rows])) - aim[rows]).square().mean() / scale

    with torch.no_grad():
        best = float(loss_on(slice(0, held)))
    if held == len(x):  # no row is left to train on
        return math.sqrt(best)
    best_state = copy.deepcopy(layer.state_dict())
    optimizer = torch.optim.AdamW(parameter_groups(layer, rate, 0.0))
    rates = [group["lr"] for group in optimizer.param_groups]
    generator = torch.Generator().manual_seed(seed)
    for epoch in range(_BLOCK_EPOCHS):
        order = held + torch.randperm(len(x) - held, generator=generator)
        for number, rows in enumerate(torch.split(order, 128)):
            if limit.reason is not None:
                break
            done = (epoch + number * 128 / len(order)) / _BLOCK_EPOCHS
            for group, base in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = base * 0.5 * (1 + math.cos(math.pi * done))
            optimizer.zero_grad()
            loss_on(rows).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        with torch.no_grad():
            now = float(loss_on(slice(0, held)))
        if now < best:
            best, best_state = now, copy.deepcopy(layer.state_dict())
    layer.load_state_dict(best_state)
    return math.sqrt(best)
