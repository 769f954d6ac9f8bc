"""Mollifying: a network that starts nearly linear and shallow, and grows into its own form (Moczulski 2019, 4.4).

Each layer l has a level ``p`` from 1 to 0. Its activation is drawn towards its linearisation (eq. 4.24, 4.25),

``ψ(x) = sgn(u) min(|u|, |f(x) + sgn(u) |s||)``, ``s = p c (sigmoid(a Δ) − ½)² |ξ|``, ``Δ = u(x) − f(x)``,

f the activation moved so that f(0) = 0, u its line at 0; and its units are skipped, each for itself (eq. 4.28),
``h = π ⊙ skip(x) + (1 − π) ⊙ layer(x)``, π ~ Bernoulli(p). At p = 0 the layer is itself, and deterministic.
`Mollification` sets the levels from the loss (eq. 4.31). Levels are in the state dict of the network: one that is
loaded is what was saved.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from compressor.errors import CompressorError, nearest
from compressor.train.schedule import Schedule

Function = Literal["sigmoid", "tanh", "relu"]

_SLOPES = {"sigmoid": 0.25, "tanh": 1.0, "relu": 1.0}
_HALF_NORMAL_MEAN = math.sqrt(2 / math.pi)


class Levelled(nn.Module):
    """A module with a level ``p``, 1 at first."""

    def __init__(self) -> None:
        super().__init__()
        self.p = 1.0

    def get_extra_state(self) -> Tensor:
        """p, for the state dict; a tensor, as some formats hold nothing else."""
        return torch.tensor(self.p, dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        """Take p from a state dict."""
        self.p = float(state)


class Mollified(Levelled):
    """An activation that is a line at high ``p`` and ``function``, moved so that f(0) = 0, at p = 0.

    ``units``: how many trained ``a`` there are, one or as many as the last axis is long.
    """

    def __init__(self, function: Function = "sigmoid", *, c: float = 100.0, units: int = 1) -> None:
        super().__init__()
        if function not in get_args(Function):
            raise CompressorError(f"there is no activation '{function}'; {nearest(function, get_args(Function))}")
        if not (0 <= c < math.inf and units >= 1):
            raise ValueError(f"c must be finite and not negative and units at least 1, not {c}, {units}")
        self.function = function
        self.c = c
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
        noise = torch.randn_like(x).abs() if self.training else _HALF_NORMAL_MEAN
        s = self.p * self.c * ((self.a.to(x.dtype) * (u - f)).sigmoid() - 0.5).square() * noise
        size = torch.minimum(u.abs(), torch.where(u >= 0, f + s, f - s).abs())
        return torch.where(u >= 0, size, -size)

    def extra_repr(self) -> str:
        return f"{self.function}, c={self.c:g}, p={self.p:g}"


class Skipped(Levelled):
    """``layer``, of which each unit is ``skip`` instead with probability ``p``; without training, the mean of both.

    ``skip`` is the identity, its last axis cut or padded with zeros to the length of the layer's, unless it is given.
    ValueError where the outputs of the two have different shapes.
    """

    def __init__(self, layer: nn.Module, skip: nn.Module | None = None) -> None:
        super().__init__()
        self.layer = layer
        self.skip = skip

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        if self.p <= 0:
            return y
        passed = nn.functional.pad(x, (0, y.shape[-1] - x.shape[-1])) if self.skip is None else self.skip(x)
        if passed.shape != y.shape:
            raise ValueError(
                f"the layer gives {tuple(y.shape)}, the skip {tuple(passed.shape)}; give a skip of the layer's shape"
            )
        if not self.training:
            return self.p * passed + (1 - self.p) * y
        fine = torch.promote_types(y.dtype, torch.float32)  # in half precision a small p would be rounded to none
        return torch.where(torch.rand_like(y, dtype=fine) < self.p, passed, y)


class Mollification(Schedule):
    """The levels of the `Skipped` layers of ``model``, from the input up, and of the activations in them.

    ``p = 1 − exp(−k v l / (t L))`` for layer l of L, v a moving average of the loss, t the steps so far: high while
    the loss is, and lower layers settle first. Once their sum is at most ``threshold``, all are 0 for good. A
    `Mollified` activation outside of them is a layer of its own.
    """

    kept: ClassVar = ("k", "threshold", "memory", "t", "loss", "is_settled")

    def __init__(self, model: nn.Module, k: float = 1000.0, *, threshold: float = 0.01, memory: float = 0.99) -> None:
        found = [module for module in model.modules() if isinstance(module, Levelled)]
        within = {id(m) for layer in found if isinstance(layer, Skipped) for m in layer.modules() if m is not layer}
        self.layers = [layer for layer in found if isinstance(layer, Skipped) or id(layer) not in within]
        if not self.layers:
            raise CompressorError("the model has no layer to mollify; wrap its layers in Skipped")
        if not (0 <= k < math.inf and 0 <= memory < 1 and 0 <= threshold < math.inf):
            raise ValueError(
                f"k and threshold must be finite and not negative and memory in [0, 1), not {k}, {threshold}, {memory}"
            )
        self.k, self.threshold, self.memory = k, threshold, memory
        self.t = 0
        self.loss: float | None = None
        self.is_settled = False
        self._apply()

    @property
    def levels(self) -> list[float]:
        """p of each layer."""
        return [layer.p for layer in self.layers]

    def _apply(self) -> None:
        for layer, p in zip(self.layers, self._wanted(), strict=True):
            for module in layer.modules():
                if isinstance(module, Levelled):
                    module.p = p

    def _wanted(self) -> list[float]:
        count = len(self.layers)
        if self.is_settled:
            return [0.0] * count
        if self.loss is None:
            return [1.0] * count
        return [1 - math.exp(-self.k * self.loss * (i + 1) / (self.t * count)) for i in range(count)]

    def step(self, loss: float | Tensor) -> None:
        """Count a step of the optimiser, at which the loss was ``loss``: a number, finite and not negative."""
        loss = float(loss.detach() if isinstance(loss, Tensor) else loss)
        if not 0 <= loss < math.inf:
            raise ValueError(f"the loss must be finite and not negative for levels to follow it, not {loss}")
        self.t += 1
        self.loss = loss if self.loss is None else self.memory * self.loss + (1 - self.memory) * loss
        if not self.is_settled:
            self.is_settled = sum(self._wanted()) <= self.threshold
            self._apply()

    def finish(self) -> None:
        """Settle all layers now."""
        self.is_settled = True
        self._apply()
