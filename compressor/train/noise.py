"""Noisy activations: noise where a unit saturates, so that gradients flow there too (Moczulski 2019, 4.3).

h is hard-tanh or hard-sigmoid, u the line that it clips, ``Δ = h − u``, ``σ(x) = c (sigmoid(p Δ) − ½)²`` with p
trained (eq. 4.10), ``d(x) = −sgn(x) sgn(1 − α)``. While training:

- ``nan`` and ``nah``: ``α h + (1 − α) u + d(x) σ(x) ε`` (eq. 4.15), ε normal, or half-normal;
- ``nani`` and ``nanil``: ``h(x + σ ε)`` (eq. 4.18), σ fixed, or σ(x) with p trained;
- ``nanis``: ``h(x + σ ε)`` only where h saturates (eq. 4.19).

Else ε is its mean (eq. 4.17): 0, or √(2/π) for the half-normal one. That form is deterministic, and it is what an
exported model holds. `Annealing` lets c fall from 30 to 0.5 as ``c / √(t + 1)`` (ibid., 4.3.6.6). `disturbed` is for a
network whose activations must be what they were when its training ends.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from compressor.errors import CompressorError, nearest
from compressor.layers import replace
from compressor.sites import device_of
from compressor.train.schedule import Schedule

Kind = Literal["nan", "nah", "nani", "nanil", "nanis"]

_AT_OUTPUT: tuple[Kind, ...] = ("nan", "nah")
_LEARNED: tuple[Kind, ...] = ("nan", "nah", "nanil")  # those with σ(x), and so with c and p
KINDS_WITH: dict[str, tuple[Kind, ...]] = {"c": _LEARNED, "alpha": _AT_OUTPUT, "sigma": ("nani", "nanis")}
_HALF_NORMAL_MEAN = math.sqrt(2 / math.pi)
FIRST_C, LAST_C = 30.0, 0.5
NOISY_FOR = 0.8  # share of a training after which `disturbed` activations are themselves
LEAKY = 0.9  # α of nah; the others have no leak
SIGMA = 0.05


@dataclass(frozen=True)
class Line:
    """A line and where it is clipped: ``min(max(slope x + offset, low), high)``."""

    slope: float
    offset: float
    low: float
    high: float

    @property
    def middle(self) -> float:
        """Half way between the two clips."""
        return (self.low + self.high) / 2


HARD_TANH = Line(1.0, 0.0, -1.0, 1.0)
HARD_SIGMOID = Line(0.25, 0.5, 0.0, 1.0)


class NoisyActivation(nn.Module):
    """A clipped line with noise of ``kind`` while training; the output has the shape and type of the input.

    ``c`` (0.5 unless given) is for ``nan``, ``nah`` and ``nanil``, ``alpha`` (0.9 for ``nah``, else 1) for ``nan`` and
    ``nah``, ``sigma`` (0.05) for ``nani`` and ``nanis``: CompressorError where it is given to another. ``units``: how
    many trained ``p`` there are, one or as many as the last axis is long.
    """

    def __init__(
        self,
        kind: Kind = "nah",
        line: Line = HARD_TANH,
        *,
        c: float | None = None,
        alpha: float | None = None,
        sigma: float | None = None,
        units: int = 1,
    ) -> None:
        super().__init__()
        if kind not in get_args(Kind):
            raise CompressorError(f"there is no noise '{kind}'; {nearest(kind, get_args(Kind))}")
        for name, value in {"c": c, "alpha": alpha, "sigma": sigma}.items():
            if value is not None and kind not in KINDS_WITH[name]:
                raise CompressorError(f"{name}={value} is for noise {' or '.join(KINDS_WITH[name])}, not for {kind}")
        self.noise = kind
        self.line = line
        self.c = LAST_C if c is None else c
        self.sigma = SIGMA if sigma is None else sigma
        self.alpha = (LEAKY if kind == "nah" else 1.0) if alpha is None else alpha
        if not (0 <= self.c < math.inf and 0 <= self.sigma < math.inf and 0 <= self.alpha <= 2 and units >= 1):
            raise ValueError(
                "c and sigma must be finite and not negative, alpha in [0, 2] and units at least 1,"
                f" not {self.c}, {self.sigma}, {self.alpha}, {units}"
            )
        self.p = nn.Parameter(torch.empty(units).uniform_(-1, 1)) if kind in _LEARNED else None

    def _deviation(self, x: Tensor) -> Tensor:
        """σ(x), 0 where the unit does not saturate."""
        assert self.p is not None
        return self.c * ((self.p.to(x.dtype) * (self._hard(x) - self._line(x))).sigmoid() - 0.5).square()

    def _line(self, x: Tensor) -> Tensor:
        return self.line.slope * x + self.line.offset

    def _hard(self, x: Tensor) -> Tensor:
        return self._line(x).clamp(self.line.low, self.line.high)

    def forward(self, x: Tensor) -> Tensor:
        if self.noise in _AT_OUTPUT:
            return self._at_output(x)
        if not self.training:
            return self._hard(x)
        if self.noise == "nanil":
            return self._hard(x + self._deviation(x) * torch.randn_like(x))
        noise = self.sigma * torch.randn_like(x)
        if self.noise == "nanis":
            u = self._line(x)
            noise = noise * ((u <= self.line.low) | (u >= self.line.high))
        return self._hard(x + noise)

    def _at_output(self, x: Tensor) -> Tensor:
        y = self.alpha * self._hard(x) + (1 - self.alpha) * self._line(x)
        half = self.noise == "nah"
        if not self.training:
            if not half:
                return y
            size = _HALF_NORMAL_MEAN * self._deviation(x)
        else:
            drawn = torch.randn_like(x)
            size = self._deviation(x) * (drawn.abs() if half else drawn)
        inwards = self.alpha <= 1  # d(x) = −sgn(x) where sgn(1 − α) is 1; x counts from the middle of the line
        return torch.where((self._line(x) >= self.line.middle) == inwards, y - size, y + size)

    def extra_repr(self) -> str:
        own = (f"{name}={getattr(self, name):g}" for name, kinds in KINDS_WITH.items() if self.noise in kinds)
        return ", ".join((self.noise, str(self.line), *own))


_LINES: dict[type[nn.Module], Line] = {
    nn.Tanh: HARD_TANH,
    nn.Sigmoid: HARD_SIGMOID,
    nn.Hardsigmoid: Line(1 / 6, 0.5, 0.0, 1.0),
}


def _line_of(module: nn.Module) -> Line | None:
    """What takes the place of ``module``; None where it is no activation that saturates both ways."""
    if type(module) is nn.Hardtanh:
        return Line(1.0, 0.0, float(module.min_val), float(module.max_val))
    return _LINES.get(type(module))


def noisy_(
    model: nn.Module,
    kind: Kind = "nah",
    *,
    c: float | None = None,
    alpha: float | None = None,
    sigma: float | None = None,
) -> nn.Module:
    """Swap each tanh, sigmoid and hard form of them in ``model`` for its `NoisyActivation`, in place; gives ``model``.

    For fine-tuning, distilling or training: in ``eval()`` the network is deterministic. Activations that are called
    as functions, and those inside ``nn.LSTM`` and the like, are not modules and stay; CompressorError where there is
    nothing to swap.
    """
    device = device_of(model)
    for name, line in saturating(model):
        replace(model, name, NoisyActivation(kind, line, c=c, alpha=alpha, sigma=sigma).to(device))
    return model


def saturating(model: nn.Module) -> list[tuple[str, Line]]:
    """Name and line of each module that saturates; CompressorError where there is none to swap."""
    found = [(name, line) for name, module in model.named_modules() if (line := _line_of(module)) is not None]
    if not found:
        raise CompressorError(
            "the model has no module that saturates both ways to make noisy; "
            "build it with nn.Tanh, nn.Sigmoid, nn.Hardtanh or nn.Hardsigmoid"
        )
    if found[0][0] == "":
        raise CompressorError(f"the model is a single {type(model).__name__}: make a NoisyActivation in its place")
    return found


class Disturbed(nn.Module):
    """An activation, and its noisy form in its place while it trains and ``is_noisy``; its c falls, as `at` says."""

    def __init__(
        self, original: nn.Module, noisy: NoisyActivation, start: float = FIRST_C, end: float = LAST_C
    ) -> None:
        super().__init__()
        self.original = original
        self.noisy = noisy
        self.start, self.end = start, end
        self.is_noisy = True

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.noisy(x) if self.training and self.is_noisy else self.original(x)
        return y

    def at(self, done: float) -> None:
        """Let c fall as ``start / √(t + 1)`` to ``end`` at four fifths of the training, of which ``done`` is over."""
        self.is_noisy = done < NOISY_FOR
        steps = (self.start / self.end) ** 2
        self.noisy.c = max(self.end, self.start / math.sqrt(1 + steps * done / NOISY_FOR))


@contextlib.contextmanager
def disturbed(
    model: nn.Module,
    kind: Kind | None,
    *,
    start: float = FIRST_C,
    end: float = LAST_C,
    alpha: float | None = None,
    sigma: float | None = None,
) -> Iterator[Sequence[Disturbed]]:
    """Within it, activations that saturate are noisy while ``model`` trains; they are themselves after it.

    Nothing happens where ``kind`` is None. ``start`` and ``end`` are of c, as `Disturbed` has them.
    """
    wrapped: list[tuple[str, Disturbed]] = []
    if kind is not None:
        for name, line in saturating(model):
            noisy = NoisyActivation(kind, line, alpha=alpha, sigma=sigma).to(device_of(model))
            wrapped.append((name, Disturbed(model.get_submodule(name), noisy, start, end)))
    for name, module in wrapped:
        replace(model, name, module)
    try:
        yield [module for _, module in wrapped]
    finally:
        for name, module in wrapped:
            replace(model, name, module.original)


class Annealing(Schedule):
    """Lets c of every noisy activation in ``model`` fall: ``start / √(t + 1)``, t one more each ``every`` steps."""

    kept: ClassVar = ("start", "end", "every", "steps")

    def __init__(self, model: nn.Module, start: float = FIRST_C, end: float = LAST_C, every: int = 200) -> None:
        if every < 1:
            raise ValueError(f"every must be at least 1 step, not {every}")
        if not 0 <= end <= start < math.inf:
            raise ValueError(
                f"c must fall from a finite start to an end that is not negative, not from {start} to {end}"
            )
        self.activations = [
            module for module in model.modules() if isinstance(module, NoisyActivation) and module.p is not None
        ]
        if not self.activations:
            raise CompressorError(f"the model has no noise with c to anneal; make it noisy with {', '.join(_LEARNED)}")
        self.start, self.end, self.every = start, end, every
        self.steps = 0
        self._apply()

    @property
    def c(self) -> float:
        """c of the step that comes next."""
        return max(self.end, self.start / math.sqrt(self.steps // self.every + 1))

    def _apply(self) -> None:
        for activation in self.activations:
            activation.c = self.c

    def step(self) -> None:
        """Count one step of the optimiser."""
        self.steps += 1
        self._apply()
