"""Kronecker: ``Ŵ = Σ_t A_t ⊗ B_t`` (van Loan and Pitsianis 1993).

``A (o₁, i₁)`` and ``B (o₂, i₂)``, o₁o₂ ≥ out and i₁i₂ ≥ in; sides that cannot be factored are padded. With x laid
out as a matrix ``X (i₁, i₂)`` row by row, ``Y = Σ_t A_t X B_tᵀ``. In Σ = I the best is the truncated SVD of W
rearranged to ``(o₁i₁, o₂i₂)``; the same holds for any Σ = Σ₁ ⊗ Σ₂, which the fit starts from.
Stored: ``a (T, o₁, i₁)``, ``b (T, o₂, i₂)``.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from compressor.layers.alternating import Factors, descend, least_squares_step, padded_metric, roots
from compressor.layers.base import LayerConfig, Metric, register
from compressor.layers.factoring import near_factor
from compressor.layers.fitted import FittedLayer, take
from compressor.layers.truncation import balanced, truncated

_FILLED = 0.9  # of the most that can be used of a budget: of the factors that reach it, those with most terms


class KroneckerConfig(LayerConfig):
    """How many products are added, and how the sides are factored."""

    terms: int = Field(1, ge=1, description="T, products that are added; more terms, more parameters and work")
    out_factor: int | None = Field(None, ge=1, description="o₁, rows of A; none: near the root of out, least padding")
    in_factor: int | None = Field(None, ge=1, description="i₁, columns of A; none: near the root of in, likewise")

    def shapes(self, in_features: int, out_features: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """The shapes of A and of B."""
        o1 = self.out_factor or near_factor(out_features, math.sqrt(out_features))
        i1 = self.in_factor or near_factor(in_features, math.sqrt(in_features))
        return (o1, i1), (math.ceil(out_features / o1), math.ceil(in_features / i1))


@register("kronecker", source="van Loan and Pitsianis 1993; sums of Kronecker products")
class Kronecker(FittedLayer):
    """Kronecker: a sum of products of two small matrices."""

    Config: ClassVar[type[LayerConfig]] = KroneckerConfig
    config: KroneckerConfig

    def make_parameters(self) -> None:
        (o1, i1), (o2, i2) = self.config.shapes(self.in_features, self.out_features)
        self.a = nn.Parameter(torch.empty(self.config.terms, o1, i1))
        self.b = nn.Parameter(torch.empty(self.config.terms, o2, i2))
        self.bias = nn.Parameter(torch.zeros(self.out_features)) if self.has_bias else None
        bound = math.sqrt(3) * (3 * self.in_features * self.config.terms) ** -0.25  # W as spread as in nn.Linear
        for factor in (self.a, self.b):
            nn.init.uniform_(factor, -bound, bound)

    def transform(self, x: Tensor) -> Tensor:
        (terms, o1, i1), (_, o2, i2) = self.a.shape, self.b.shape
        if i1 * i2 > self.in_features:
            x = nn.functional.pad(x, (0, i1 * i2 - self.in_features))
        h = nn.functional.linear(x.reshape(-1, i1, i2).mT, self.a.flatten(0, 1))  # (rows, i₂, T · o₁)
        h = h.reshape(-1, i2, terms, o1).permute(0, 3, 2, 1).flatten(2)  # (rows, o₁, T · i₂)
        y = nn.functional.linear(h, self.b.transpose(0, 1).flatten(1))  # (rows, o₁, o₂)
        y = y.reshape(*x.shape[:-1], o1 * o2)[..., : self.out_features]
        return y if self.bias is None else y + self.bias

    def macs(self) -> int:
        """Of all A first, then all B in one product, the padding included."""
        (terms, o1, i1), (_, o2, i2) = self.a.shape, self.b.shape
        return terms * o1 * i2 * (i1 + o2)

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{}, {"terms": 2, "out_factor": 2, "in_factor": 3}]

    def fit_map(self, weight: Tensor, metric: Metric) -> None:
        take((self.a, self.b), _Fit(self, weight, metric).factors())

    @classmethod
    def config_for_params(cls, in_features: int, out_features: int, bias: bool, params: int, base: Any) -> Any:
        """As many terms as fit, at factors as balanced as they can be without more work than the dense layer.

        Many terms of balanced factors cost more than the dense layer long before they store as much; a smaller A
        beside a larger B stores more for the same work. Factors that ``base`` gives stay, and take any work.
        """
        given = base.out_factor is not None or base.in_factor is not None
        found: list[tuple[int, Any]] = []
        for o1, i1 in [(None, None)] if given else _left_shapes(in_features, out_features):
            shaped = base if given else base.model_copy(update={"out_factor": o1, "in_factor": i1})
            (o1, i1), (o2, i2) = shaped.shapes(in_features, out_features)
            term, most = o1 * i1 + o2 * i2, min(o1 * i1, o2 * i2)
            if not given:
                most = min(most, in_features * out_features // (o1 * i2 * (i1 + o2)))
            terms = max(1, min(most, (params - bias * out_features) // term))
            found.append((terms * term + bias * out_features, shaped.model_copy(update={"terms": terms})))
        fitting = [(stored, config) for stored, config in found if stored <= params]
        if not fitting:
            return min(found, key=lambda pair: pair[0])[1]
        enough = _FILLED * max(stored for stored, _ in fitting)
        return max((pair for pair in fitting if pair[0] >= enough), key=lambda pair: pair[1].terms)[1]


class _Fit:
    """Alternating least squares, exact for all A and for all B in turn.

    Starts: the truncated SVD of the rearranged W, in Σ = I and in the Σ₁ ⊗ Σ₂ of Σ's partial traces.
    """

    def __init__(self, layer: Kronecker, weight: Tensor, metric: Metric) -> None:
        (self.terms, o1, i1), (_, o2, i2) = layer.a.shape, layer.b.shape
        more = (0, i1 * i2 - weight.shape[1], 0, o1 * o2 - len(weight))
        w = nn.functional.pad(weight.detach().double(), more)
        sigma = padded_metric(metric, i1 * i2)
        self.w = w.reshape(o1, o2, i1, i2)
        self.seen = (w @ sigma).reshape(o1, o2, i1, i2)
        self.sigma = sigma.reshape(i1, i2, i1, i2).permute(0, 2, 1, 3).contiguous()  # (i₁, i₁, i₂, i₂)
        self.counts = (torch.arange(o1 * o2) < len(weight)).double().reshape(o1, o2)  # 0 where y is cut off
        self.total = (self.seen * self.w).sum()
        products = self.terms**2 * (i1 * i2) ** 2
        self.cost = 2 * products + self.terms**3 * (i1**3 + i2**3) / 3 + 2 * self.terms * self.seen.numel()

    def factors(self) -> Factors:
        """``a`` and ``b`` as the layer holds them."""
        ones = [torch.eye(n, dtype=self.sigma.dtype) for n in self.w.shape[2:]]
        traces = [torch.einsum("abii->ab", self.sigma), torch.einsum("iiab->ab", self.sigma)]
        starts = [self.start(*ones), self.start(*traces)]
        a, b = descend(starts, self.loss, self.sweep, self.cost)
        a, b = balanced(a.flatten(1).T, b.flatten(1))
        return a.T.reshape(starts[0][0].shape), b.reshape(starts[0][1].shape)

    def start(self, sigma1: Tensor, sigma2: Tensor) -> Factors:
        (root1, inverse1), (root2, inverse2) = roots(sigma1), roots(sigma2)
        o1, o2, i1, i2 = self.w.shape
        r = torch.einsum("abjm,jk,mn->akbn", self.w, root1, root2).reshape(o1 * i1, o2 * i2)
        left, right = balanced(*truncated(r, self.terms))
        return left.T.reshape(-1, o1, i1) @ inverse1, right.reshape(-1, o2, i2) @ inverse2

    def loss(self, factors: Factors) -> Tensor:
        """``‖(W − Ŵ) Σ^½‖²``."""
        a, b = factors
        missed = self.total
        for rows, gram, right in _normal(b, self.sigma, self.seen, self.counts):
            missed = missed + _missed(_rows(a, rows), gram, right)
        return missed

    def sweep(self, factors: Factors) -> tuple[Factors, Tensor]:
        a, b = factors
        a, _ = _best(a, b, self.sigma, self.seen, self.counts)
        turned = self.sigma.permute(2, 3, 0, 1), self.seen.permute(1, 0, 3, 2), self.counts.T
        b, missed = _best(b, a, *turned)
        return (a, b), self.total + missed


def _normal(b: Tensor, sigma: Tensor, seen: Tensor, counts: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Normal equations of the rows of A for ``b (T, o₂, i₂)``: some rows, their Gram matrix, their right-hand sides.

    ``sigma (i₁, i₁, i₂, i₂)``, ``seen (o₁, o₂, i₁, i₂)``, ``counts (o₁, o₂)``: rows alike in the outputs that count
    share a Gram matrix ``(T · i₁, T · i₁)``.
    """
    kinds, kind = torch.unique(counts, dim=0, return_inverse=True)
    terms, (i1, _, i2, _) = len(b), sigma.shape
    normal = []
    for index, counted in enumerate(kinds):
        part = b * counted[:, None]
        among = torch.einsum("tbm,ubn->tumn", part, b).reshape(terms**2, i2 * i2)
        gram = (among @ sigma.reshape(i1 * i1, i2 * i2).T).reshape(terms, terms, i1, i1).transpose(1, 2)
        rows = (kind == index).nonzero().flatten()
        right = torch.einsum("tbm,abjm->atj", part, seen[rows]).flatten(1)
        normal.append((rows, gram.reshape(terms * i1, terms * i1), right))
    return normal


def _best(a: Tensor, b: Tensor, sigma: Tensor, seen: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """The best A for ``b``, starting at ``a``, and what it adds to the loss of Ŵ = 0."""
    a, missed = a.clone(), seen.new_zeros(())
    for rows, gram, right in _normal(b, sigma, seen, counts):
        now = _rows(a, rows)
        now = now + least_squares_step(gram, (right - now @ gram).T).T
        a[:, rows] = now.reshape(len(rows), len(a), -1).transpose(0, 1)
        missed = missed + _missed(now, gram, right)
    return a, missed


def _rows(a: Tensor, rows: Tensor) -> Tensor:
    """The unknowns of some rows of all A: ``(rows, T · i₁)``."""
    return a[:, rows].transpose(0, 1).flatten(1)


def _missed(now: Tensor, gram: Tensor, right: Tensor) -> Tensor:
    return ((now @ gram - 2 * right) * now).sum()


def _left_shapes(in_features: int, out_features: int) -> list[tuple[int, int]]:
    """Shapes of A from the most balanced downwards, each side halved as often as it can be."""
    rows, columns = (
        sorted({near_factor(side, max(1.0, math.sqrt(side) / 2**h)) for h in range(side.bit_length() // 2 + 1)})[::-1]
        for side in (out_features, in_features)
    )
    return [(o1, i1) for o1 in rows for i1 in columns]
