"""Progressive replacement: the original's blocks stand in for the structured ones, less and less as training goes on.

Four ways, each with a share that goes from 1 to 0:

- ``linear``: unit by unit, the original's with that probability, which falls evenly;
- ``mollify``: the same, and the share follows the loss (Moczulski 2019, eq. 4.31), ``1 − exp(−v/v₁ l/L (1/τ − 1))`` for
  block l of L, v/v₁ a moving average of the loss over its highest so far, τ the time that has passed: high while the
  loss is, lower blocks first, 0 at τ = 1. (Not over the first loss: that is 0 where all blocks are the original's.)
- ``cosine``: both outputs are mixed, the share falls as a cosine (self-guided training);
- ``theseus``: block by block, the original's with that probability (random module replacement).
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from compressor.train.schedule import Schedule

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
            fine = torch.promote_types(y.dtype, torch.float32)  # a small share would be none in half precision
            keep = torch.rand(shape, dtype=fine, device=y.device) < self.share
        return torch.where(keep, original, y)


class Shares(Schedule):
    """The share of each of ``count`` blocks, from the input up, as time and loss go on; no way: nobody asks."""

    kept: ClassVar = ("average", "highest")

    def __init__(self, way: Way | None, count: int) -> None:
        self.way = way
        self.count = count
        self.average = self.highest = 0.0

    def see(self, loss: float) -> None:
        """Count the loss of a step."""
        self.average = _MEMORY * self.average + (1 - _MEMORY) * loss if self.highest else loss
        self.highest = max(self.highest, self.average)

    def at(self, passed: float) -> list[float]:
        """The shares when ``passed`` of the time is over, 0 to 1."""
        if passed >= 1:
            return [0.0] * self.count
        if self.way == "cosine":
            return [0.5 * (1 + math.cos(math.pi * passed))] * self.count
        if self.way != "mollify":
            return [1 - passed] * self.count
        if passed <= 0:
            return [1.0] * self.count
        height = (self.average / self.highest if self.highest else 1.0) * (1 / passed - 1)
        return [1 - math.exp(-height * (block + 1) / self.count) for block in range(self.count)]
