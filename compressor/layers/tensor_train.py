"""Tensor train (Novikov et al. 2015, eq. 2 and 5): W as a product of small cores over the factored sides.

``Ŵ[(m₁ … m_d), (n₁ … n_d)] = G₁[m₁, n₁] G₂[m₂, n₂] … G_d[m_d, n_d]``, each ``G_k[m, n]`` an ``r_{k−1} × r_k`` matrix,
r₀ = r_d = 1. Sides that cannot be factored are padded. The forward pass takes one core after the other and never makes
W; its work grows with r², and beyond small ranks it is more than the dense layer's.
Stored: ``cores[k] (r_{k−1}, m_k, n_k, r_k)``.

Fit: TT-SVD (within √(d − 1) of the optimum in Σ = I; also in Σ₁ ⊗ … ⊗ Σ_d), then least squares in Σ, core by core.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from compressor.errors import CompressorError
from compressor.layers.alternating import Factors, descend, least_squares_step, padded_metric, roots
from compressor.layers.base import LayerConfig, Metric, largest, register
from compressor.layers.factoring import balanced_factors
from compressor.layers.fitted import FittedLayer, take
from compressor.layers.truncation import truncated

_ORDERS = (3, 2)  # the first where nothing is asked for

Dims = tuple[int, ...]


class TensorTrainConfig(LayerConfig):
    """How the sides are factored, and the rank between the cores."""

    rank: int = Field(8, ge=1, description="r between all cores, or what the sides allow; parameters grow with r²")
    order: int | None = Field(None, ge=2, description="d, how many cores; none: 3, or as many as the dims given")
    in_dims: Dims | None = Field(None, description="n₁xn₂x…, at least in together; none: nearly equal, least padding")
    out_dims: Dims | None = Field(None, description="m₁xm₂x…, at least out together; none: likewise")

    @field_validator("in_dims", "out_dims", mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return value.split("x") if isinstance(value, str) else value

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        given = [dims for dims in (self.in_dims, self.out_dims) if dims is not None]
        if any(len(dims) < 2 or min(dims) < 1 for dims in given):
            raise ValueError("dims are two or more positive numbers, as 4x8x8")
        if len({len(dims) for dims in given} | ({self.order} if self.order else set())) > 1:
            raise ValueError("in_dims, out_dims and order must say the same number of cores")
        return self

    def shapes(self, in_features: int, out_features: int) -> list[tuple[int, int, int, int]]:
        """Of the cores; CompressorError where dims are too small for the layer."""
        count = len(self.in_dims or self.out_dims or ()) or self.order or _ORDERS[0]
        sides = []
        for name, dims, features in (("out", self.out_dims, out_features), ("in", self.in_dims, in_features)):
            chosen = balanced_factors(features, count) if dims is None else dims
            if math.prod(chosen) < features:
                held = f"{name}_dims={'x'.join(map(str, chosen))} hold {math.prod(chosen)}"
                raise CompressorError(f"method 'tensor_train': {held}, the layer's {name} is {features}")
            sides.append(chosen)
        sizes = [m * n for m, n in zip(*sides, strict=True)]
        ranks = [min(self.rank, math.prod(sizes[:k]), math.prod(sizes[k:])) for k in range(count + 1)]
        return list(zip(ranks, *sides, ranks[1:], strict=False))


@register("tensor_train", source="Novikov et al. 2015 (TT layer); Oseledets 2011 (TT-SVD)")
class TensorTrain(FittedLayer):
    """Tensor train: a chain of small cores over the factored sides."""

    Config: ClassVar[type[LayerConfig]] = TensorTrainConfig
    config: TensorTrainConfig

    def make_parameters(self) -> None:
        shapes = self.config.shapes(self.in_features, self.out_features)
        variance = 1 / (3 * self.in_features * math.prod(shape[3] for shape in shapes))  # of W, as in nn.Linear
        bound = math.sqrt(3) * variance ** (1 / (2 * len(shapes)))
        self.cores = nn.ParameterList([nn.Parameter(torch.empty(shape)) for shape in shapes])
        self.bias = nn.Parameter(torch.zeros(self.out_features)) if self.has_bias else None
        for core in self.cores:
            nn.init.uniform_(core, -bound, bound)

    def transform(self, x: Tensor) -> Tensor:
        shapes = [core.shape for core in self.cores]
        width, height = math.prod([shape[2] for shape in shapes]), math.prod([shape[1] for shape in shapes])
        if width > self.in_features:
            x = nn.functional.pad(x, (0, width - self.in_features))
        state, done, left = x, 1, width  # state: (rows, m₁ … m_{k−1}, r_{k−1} · n_k, n_{k+1} … n_d)
        for core, (before, m, n, after) in zip(self.cores, shapes, strict=True):
            left //= n
            state = state.reshape(-1, done, before * n, left).mT
            matrix = core.permute(1, 3, 0, 2).reshape(m * after, before * n)
            state, done = nn.functional.linear(state, matrix).mT, done * m
        y = state.reshape(*x.shape[:-1], height)[..., : self.out_features]
        return y if self.bias is None else y + self.bias

    def dense(self) -> tuple[Tensor, Tensor | None]:
        """The product of the cores: less work than passing the unit vectors through them."""
        whole = _joined(list(self.cores))[..., 0]
        return whole[: self.out_features, : self.in_features], self.bias

    def macs(self) -> int:
        """Of the contraction with one core after the other, from the first, the padding included."""
        done, left, total = 1, math.prod(core.shape[2] for core in self.cores), 0
        for core in self.cores:
            left //= core.shape[2]
            total += done * left * core.numel()
            done *= core.shape[1]
        return total

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{}, {"order": 4, "rank": 2}, {"in_dims": "5x16", "out_dims": "9x8", "rank": 4}]

    def fit_map(self, weight: Tensor, metric: Metric) -> None:
        take(self.cores, _Fit(self, weight, metric).factors())

    @classmethod
    def config_for_params(cls, in_features: int, out_features: int, bias: bool, params: int, base: Any) -> Any:
        """The largest rank that fits and is no more work than the dense layer, with 3 cores or 2, what stores more.

        A larger budget stays unspent: more rank would be slower than the dense layer, many times over. An order or
        dims that ``base`` gives stay, and take any work.
        """
        given = (base.order, base.in_dims, base.out_dims) != (None, None, None)
        found: list[tuple[int, Any]] = []
        for order in (base.order,) if given else _ORDERS:
            shaped = base.model_copy(update={"order": order})
            config = _largest_rank(in_features, out_features, bias, params, shaped, any_work=given)
            with torch.device("meta"):
                found.append((cls(in_features, out_features, bias=bias, config=config).params(), config))
        fitting = [(stored, config) for stored, config in found if stored <= params]
        if fitting:
            return max(fitting, key=lambda pair: pair[0])[1]
        return min(found, key=lambda pair: pair[0])[1]


def _joined(cores: Sequence[Tensor]) -> Tensor:
    """Some cores from the first on as one: ``(m₁ … m_k, n₁ … n_k, r_k)``."""
    product = cores[0][0]
    for core in cores[1:]:
        (done, wide, _), (a, m, n, b) = product.shape, core.shape
        product = (product.reshape(done * wide, a) @ core.reshape(a, m * n * b)).reshape(done, wide, m, n, b)
        product = product.transpose(1, 2).reshape(done * m, wide * n, b)
    return product


def _around(cores: Sequence[Tensor], k: int) -> tuple[Tensor, Tensor]:
    """All cores before k as one ``(m₁ … , n₁ … , r_{k−1})`` and all behind it ``(r_k, m_{k+1} … , n_{k+1} … )``."""
    one = cores[0].new_ones(1, 1, 1)
    behind = one
    for core in reversed(cores[k + 1 :]):
        (a, m, n, b), (_, done, wide) = core.shape, behind.shape
        behind = (core.reshape(a * m * n, b) @ behind.reshape(b, done * wide)).reshape(a, m, n, done, wide)
        behind = behind.transpose(2, 3).reshape(a, m * done, n * wide)
    return _joined(cores[:k]) if k else one, behind


def _largest_rank(in_features: int, out_features: int, bias: bool, params: int, base: Any, *, any_work: bool) -> Any:
    sizes = [m * n for _, m, n, _ in base.shapes(in_features, out_features)]
    return largest(
        TensorTrain,
        (in_features, out_features),
        bias,
        params,
        lambda rank: base.model_copy(update={"rank": rank}),
        max(min(math.prod(sizes[:k]), math.prod(sizes[k:])) for k in range(len(sizes))),
        fits=lambda layer: any_work or layer.macs() <= in_features * out_features,
    )


class _Fit:
    """Least squares for one core after the other, each exact; starts by TT-SVD.

    Outputs that are cut off have no aim. A step takes what the cores give there now for it, which cannot raise
    the loss of the others.
    """

    def __init__(self, layer: TensorTrain, weight: Tensor, metric: Metric) -> None:
        self.shapes = [tuple(core.shape) for core in layer.cores]
        self.m, self.n = ([shape[side] for shape in self.shapes] for side in (1, 2))
        self.out = len(weight)
        width, height = math.prod(self.n), math.prod(self.m)
        self.w = nn.functional.pad(weight.detach().double(), (0, width - weight.shape[1], 0, height - self.out))
        self.sigma = padded_metric(metric, width)
        self.seen = self.w @ self.sigma
        self.total = (self.seen * self.w).sum()
        ranks = [shape[3] for shape in self.shapes]
        solved = [a * n * b for a, _, n, b in self.shapes]
        self.cost = 2 * width**2 * ranks[0] ** 2 + 2 * ranks[0] * width * height
        tails = [math.prod(self.n[k:]) for k in range(len(self.n))]
        grams = [
            r**2 * (width**2 + tail**2 * after**2) for r, after, tail in zip(ranks, ranks[1:], tails, strict=False)
        ]
        self.sweep_cost = sum(grams) + sum(n**3 / 3 for n in solved) + 2 * sum(ranks) * width * height

    def factors(self) -> Factors:
        """The cores, equally large."""
        plain = [torch.eye(n, dtype=self.w.dtype) for n in self.n]
        starts = [self.start(plain), self.start(self.traces())]
        cores = descend(starts, self.loss, self.sweep, self.cost, self.sweep_cost)
        sizes = [float(core.norm()) for core in cores]
        mean = math.prod(size ** (1 / len(sizes)) for size in sizes)
        return tuple(core * (mean / size if mean > 0 else 1) for core, size in zip(cores, sizes, strict=True))

    def traces(self) -> list[Tensor]:
        """Σ traced over all factors of the input but one, for each."""
        traced = []
        for k, n in enumerate(self.n):
            before, after = math.prod(self.n[:k]), math.prod(self.n[k + 1 :])
            parts = self.sigma.reshape(before, n, after, before, n, after)
            traced.append(torch.einsum("abcadc->bd", parts))
        return traced

    def start(self, sigmas: list[Tensor]) -> Factors:
        """TT-SVD in the metric ``sigmas[0] ⊗ sigmas[1] ⊗ …``."""
        d, both = len(self.n), [roots(sigma) for sigma in sigmas]
        rest = self.w.reshape(*self.m, *self.n)
        for k, (root, _) in enumerate(both):
            rest = (rest.movedim(d + k, -1) @ root).movedim(-1, d + k)
        rest = rest.permute([axis for k in range(d) for axis in (k, d + k)])  # (m₁, n₁, m₂, n₂, …)
        cores: list[Tensor] = []
        for (before, m, n, after), (_, inverse) in zip(self.shapes, both, strict=True):
            rest = rest.reshape(before * m * n, -1)
            left, rest = truncated(rest, after) if len(cores) < d - 1 else (rest, rest)
            cores.append(torch.einsum("amnb,nk->amkb", left.reshape(before, m, n, after), inverse))
        return tuple(cores)

    def normal(self, k: int, left: Tensor, right: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Normal equations of core k between ``left`` and ``right``, ``(anb, anb)`` and ``(m, anb)``."""
        (a, m, n, b), (ml, nl, _), (_, mr, nr) = self.shapes[k], left.shape, right.shape
        sigma = self.sigma.reshape(nl, n, nr, nl, n, nr)
        flat = left.reshape(ml, nl * a)
        before = (flat.T @ flat).reshape(nl, a, nl, a).permute(1, 3, 0, 2).reshape(a * a, nl * nl)
        flat = right.transpose(1, 2).reshape(b * nr, mr)
        behind = (flat @ flat.T).reshape(b, nr, b, nr).permute(1, 3, 0, 2).reshape(nr * nr, b * b)
        gram = before @ sigma.permute(0, 3, 1, 4, 2, 5).reshape(nl * nl, -1)
        gram = (gram.reshape(a * a * n * n, nr * nr) @ behind).reshape(a, a, n, n, b, b)
        gram = gram.permute(0, 2, 4, 1, 3, 5).reshape(a * n * b, a * n * b)
        aim = seen.reshape(ml, m, mr, nl, n, nr).permute(0, 3, 1, 4, 2, 5).reshape(ml * nl, -1)
        aim = (left.reshape(ml * nl, a).T @ aim).reshape(-1, mr * nr) @ right.reshape(b, mr * nr).T
        return gram, aim.reshape(a, m, n, b).transpose(0, 1).reshape(m, a * n * b)

    def cut_off(self, cores: Factors) -> Tensor:
        """Rows of Ŵ that are no outputs, ``(padding, in)``: all among the last values of m₁."""
        block = math.prod(self.m[1:])
        whole, cut = divmod(self.out, block)
        return _joined((cores[0][:, whole:], *cores[1:]))[cut:, :, 0]

    def loss(self, cores: Factors) -> Tensor:
        """``‖(W − Ŵ) Σ^½‖²``."""
        gram, aim = self.normal(0, *_around(cores, 0), self.seen)
        values = cores[0].transpose(0, 1).flatten(1)
        unseen = self.cut_off(cores)
        return self.total + ((values @ gram - 2 * aim) * values).sum() - ((unseen @ self.sigma) * unseen).sum()

    def sweep(self, factors: Factors) -> tuple[Factors, Tensor]:
        cores, reached = factors, self.total
        for k, (a, m, n, b) in enumerate(self.shapes):
            unseen = self.cut_off(cores)
            extra = unseen @ self.sigma
            seen = torch.cat((self.seen[: self.out], extra))
            gram, aim = self.normal(k, *_around(cores, k), seen)
            values = cores[k].transpose(0, 1).flatten(1)  # (m, a · n · b)
            values = values + least_squares_step(gram, (aim - values @ gram).T).T
            cores = (*cores[:k], values.reshape(m, a, n, b).transpose(0, 1), *cores[k + 1 :])
            reached = self.total + (extra * unseen).sum() + ((values @ gram - 2 * aim) * values).sum()
        return cores, reached
