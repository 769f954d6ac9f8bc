"""Mollifying: a network that starts nearly linear and shallow, and grows into its own form (Moczulski 2019, 4.4).

Each layer l has a level ``p`` from 1 to 0. Its activation is drawn towards its linearisation (eq. 4.24, 4.25),

``ψ(x) = sgn(u) min(|u|, |f(x) + sgn(u) |s||)``, ``s = p c (sigmoid(a Δ) − ½)² |ξ|``, ``Δ = u(x) − f(x)``,

f the activation moved so that f(0) = 0, u its line at 0; and its units are skipped, each for itself (eq. 4.28),
``h = π ⊙ skip(x) + (1 − π) ⊙ layer(x)``, π ~ Bernoulli(p). At p = 0 the layer is itself, and deterministic.
`Mollification` sets the levels from the loss (eq. 4.31).
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from compressor.errors import CompressorError, nearest

Function = Literal["sigmoid", "tanh", "relu"]

_SLOPES = {"sigmoid": 0.25, "tanh": 1.0, "relu": 1.0}
_HALF_NORMAL_MEAN = math.sqrt(2 / math.pi)


class Mollified(nn.Module):
    """An activation that is a line at high ``p`` and ``function``, moved so that f(0) = 0, at p = 0."""

    def __init__(self, function: Function = "sigmoid", *, c: float = 100.0, units: int = 1) -> None:
        super().__init__()
        if function not in get_args(Function):
            raise CompressorError(f"there is no activation '{function}'; {nearest(function, get_args(Function))}")
        self.function = function
        self.c = c
        self.p = 1.0
        self.a = nn.Parameter(torch.empty(units).uniform_(-2, 2))

    def settled(self, x: Tensor) -> Tensor:
        """f(x)."""
        if self.function == "sigmoid":
            return x.sigmoid() - 0.5
        return x.tanh() if self.function == "tanh" else x.relu()

    def forward(self, x: Tensor) -> Tensor:
        f = self.settled(x)
        if self.p <= 0:
            return f
        u = _SLOPES[self.function] * x
        size = torch.randn_like(x).abs() if self.training else _HALF_NORMAL_MEAN
        s = self.p * self.c * ((self.a * (u - f)).sigmoid() - 0.5).square() * size
        sign = torch.where(u >= 0, 1.0, -1.0)
        return sign * torch.minimum(u.abs(), (f + sign * s).abs())

    def extra_repr(self) -> str:
        return f"{self.function}, c={self.c:g}, p={self.p:g}"


class Skipped(nn.Module):
    """``layer``, of which each unit is ``skip`` instead with probability ``p``; without training, the mean of both.

    ``skip`` is the identity, cut or padded with zeros to the width of the layer, unless it is given.
    """

    def __init__(self, layer: nn.Module, skip: nn.Module | None = None) -> None:
        super().__init__()
        self.layer = layer
        self.skip = skip
        self.p = 1.0

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        if self.p <= 0:
            return y
        passed = nn.functional.pad(x, (0, y.shape[-1] - x.shape[-1])) if self.skip is None else self.skip(x)
        if not self.training:
            return self.p * passed + (1 - self.p) * y
        return torch.where(torch.rand_like(y) < self.p, passed, y)


class Mollification:
    """The levels of the `Skipped` layers of ``model``, from the input up, and of the activations in them.

    ``p = 1 − exp(−k v l / (t L))`` for layer l of L, v a moving average of the loss, t the steps so far: high while
    the loss is, and lower layers settle first. Once their sum is at most ``threshold``, all are 0 for good.
    """

    def __init__(self, model: nn.Module, k: float = 1000.0, *, threshold: float = 0.01, memory: float = 0.99) -> None:
        self.layers = [module for module in model.modules() if isinstance(module, Skipped)]
        if not self.layers:
            raise CompressorError("the model has no layer to mollify; wrap its layers in Skipped")
        if k < 0 or not 0 <= memory < 1:
            raise ValueError(f"k must not be negative and memory in [0, 1), not {k}, {memory}")
        self.k, self.threshold, self.memory = k, threshold, memory
        self.t = 0
        self.loss: float | None = None
        self.is_settled = False
        self._set([1.0] * len(self.layers))

    @property
    def levels(self) -> list[float]:
        """p of each layer."""
        return [layer.p for layer in self.layers]

    def _set(self, levels: list[float]) -> None:
        for layer, p in zip(self.layers, levels, strict=True):
            layer.p = p
            for module in layer.modules():
                if isinstance(module, Mollified):
                    module.p = p

    def step(self, loss: float) -> None:
        """Count a step of the optimiser, at which the loss was ``loss``."""
        self.t += 1
        self.loss = loss if self.loss is None else self.memory * self.loss + (1 - self.memory) * loss
        if self.is_settled:
            return
        count = len(self.layers)
        levels = [1 - math.exp(-self.k * self.loss * (i + 1) / (self.t * count)) for i in range(count)]
        self.is_settled = sum(levels) <= self.threshold
        self._set([0.0] * count if self.is_settled else levels)

    def finish(self) -> None:
        """Settle all layers now."""
        self.is_settled = True
        self._set([0.0] * len(self.layers))
