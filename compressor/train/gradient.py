"""Noise on gradients whose variance falls as training goes on: ``η / (1 + t)^γ`` (Neelakantan et al. 2015)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn


class GradientNoise:
    """Adds the noise to the gradients of ``parameters``: call `add_` between ``backward`` and the optimiser's step."""

    def __init__(self, parameters: Iterable[nn.Parameter], eta: float = 0.01, gamma: float = 0.55) -> None:
        if not (eta >= 0 and gamma >= 0):
            raise ValueError(f"eta and gamma must not be negative, not {eta}, {gamma}")
        self.parameters = list(parameters)
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
