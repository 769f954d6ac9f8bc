"""Progressive replacement: the original's blocks stand in for the structured ones, less and less as training goes on.

Four ways, each with a share that goes from 1 to 0:

- ``linear``: unit by unit, the original's with that probability, which falls evenly;
- ``mollify``: the same, and the share follows the loss (Moczulski 2019, eq. 4.31), ``1 − exp(−v/v₀ l/L (1/τ − 1))`` for
  block l of L, v/v₀ a moving average of the loss over the first one, τ the time that has passed: high while the loss
  is, lower blocks first, 0 at τ = 1;
- ``cosine``: both outputs are mixed, the share falls as a cosine (self-guided training);
- ``theseus``: block by block, the original's with that probability (random module replacement).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

Way = Literal["linear", "mollify", "cosine", "theseus"]

_MEMORY = 0.99


class Fading(nn.Module):
    """The original's block with a share of ``share``, else the structured one; without training the latter alone."""

    def __init__(self, original: nn.Module, block: nn.Module, way: Way = "linear") -> None:
        super().__init__()
        self.original = original
        self.block = block
        self.way = way
        self.share = 1.0

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block(x)
        if not self.training or self.share <= 0:
            return y
        original: Tensor = self.original(x)
        if self.way == "cosine":
            return self.share * original + (1 - self.share) * y
        shape = (1,) * y.ndim if self.way == "theseus" else y.shape
        with torch.no_grad():
            keep = torch.rand(shape, dtype=y.dtype, device=y.device) < self.share
        return torch.where(keep, original, y)


class Shares:
    """The share of each of ``count`` blocks, from the input up, as time and loss go on; no way: nobody asks."""

    def __init__(self, way: Way | None, count: int) -> None:
        self.way = way
        self.count = count
        self.first: float | None = None
        self.average: float | None = None

    def see(self, loss: float) -> None:
        """Count the loss of a step."""
        self.first = loss if self.first is None else self.first
        self.average = loss if self.average is None else _MEMORY * self.average + (1 - _MEMORY) * loss

    def at(self, passed: float) -> list[float]:
        """The shares when ``passed`` of the time is over, 0 to 1."""
        if passed >= 1:
            return [0.0] * self.count
        if self.way == "cosine":
            return [0.5 * (1 + math.cos(math.pi * passed))] * self.count
        if self.way != "mollify":
            return [1 - passed] * self.count
        if passed <= 0 or not self.first or self.average is None:
            return [1.0] * self.count
        height = self.average / self.first * (1 / passed - 1)
        return [1 - math.exp(-height * (block + 1) / self.count) for block in range(self.count)]
