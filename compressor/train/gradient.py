"""Noise on gradients whose variance falls as training goes on: ``η / (1 + t)^γ`` (Neelakantan et al. 2015)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Tensor, nn

from compressor.train.schedule import Schedule


class GradientNoise(Schedule):
    """Adds the noise to the gradients of ``parameters``: call `add_` between ``backward`` and the optimiser's step.

    With a scaler of gradients, after its ``unscale_``. ValueError for parameters that have no gradients of their own.
    """

    kept: ClassVar = ("eta", "gamma", "t")

    def __init__(self, parameters: Iterable[nn.Parameter], eta: float = 0.01, gamma: float = 0.55) -> None:
        if not (0 <= eta < math.inf and 0 <= gamma < math.inf):
            raise ValueError(f"eta and gamma must be finite and not negative, not {eta}, {gamma}")
        self.parameters = list(parameters)
        if not self.parameters:
            raise ValueError("there are no parameters to add noise to; an iterator over them can be used only once")
        for parameter in self.parameters:
            if not (isinstance(parameter, Tensor) and parameter.is_leaf):
                raise ValueError(f"not a parameter: {type(parameter).__name__}; give what model.parameters() gives")
        self.eta = eta
        self.gamma = gamma
        self.t = 0

    @property
    def deviation(self) -> float:
        """Standard deviation of the noise that comes next."""
        return float((self.eta / (1 + self.t) ** self.gamma) ** 0.5)

    @torch.no_grad()
    def add_(self) -> None:
        """Add noise to every gradient that there is, and count a step."""
        for parameter in self.parameters:
            if parameter.grad is not None:
                parameter.grad.add_(torch.randn_like(parameter.grad), alpha=self.deviation)
        self.t += 1
