"""Circulant: ``y = Σ_t C(c_t) S_t x``, circulant matrices times diagonals of signs (Cheng et al. 2015; Moczulski 2019,
eq. 3.23).

``C(c)_ij = c[(i − j) mod N]``, one learned vector of length N; S_t = diag(s_t) of ±1, drawn once and kept, or
learned real diagonals that start there. The input is zero-padded to N, the first ``out`` outputs are kept. One
term is the source's layer; more of them, each with signs of its own, grow it: entry (i, j) is ``(Cᵀ S)[i − j, j]``
with C (T, N) and S (T, in), a matrix of rank T over the diagonals of W, and S of rank in holds every W.

Stored: ``c (T, N)``; a seed, or ``s (T, in)`` where it is learned.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from compressor.layers import seeded
from compressor.layers.base import LayerConfig, Metric, ParameterKind, register
from compressor.layers.fitted import FittedLayer, take
from compressor.layers.onnx_fourier import circulant_functions, circulant_node
from compressor.layers.semidefinite import conjugate_gradients, damped, solve, steps_for
from compressor.layers.sizes import smooth_size
from compressor.layers.solve import refine_linear
from compressor.layers.truncation import leading
from compressor_kernels import dispatch

if TYPE_CHECKING:
    import onnx

_SIGNS, _C = 100, 101  # streams of the seed (normals take two each: 202, 203)
_DIRECT_UNKNOWNS = 4096  # above, the normal equations are solved by conjugate gradients
_SPARE = 10  # terms above in, with which the signs have the rank in but for one draw in a thousand


class CirculantConfig(LayerConfig):
    """How many circulant matrices are added, and the diagonals before them."""

    terms: int = Field(1, ge=1, description="how many circulant matrices, each after signs of its own, are added")
    signs: Literal["fixed", "learned"] = Field(
        "fixed", description="fixed: ±1 drawn from the seed, fitted exactly; learned: diagonals that start there"
    )
    size: int | None = Field(None, ge=1, description="N; none: the next even size with no prime factor above 7")
    seed: int = Field(0, ge=0, description="of the signs and the start")


@register("circulant", source="Cheng et al. 2015; Moczulski 2019, eq. 3.23")
class Circulant(FittedLayer):
    """Circulant: a sum of learned circular convolutions, each of the input under random signs."""

    Config: ClassVar[type[LayerConfig]] = CirculantConfig
    config: CirculantConfig

    size: int
    s: Tensor

    def make_parameters(self) -> None:
        c = self.config
        self.size = n = smooth_size(self.method, self.in_features, self.out_features, c.size)
        like = torch.empty(0)
        start = seeded.normals(c.seed, _C, (c.terms, n)) / math.sqrt(c.terms * self.in_features)
        self.c = nn.Parameter(start.to(like))
        signs = seeded.signs(c.seed, _SIGNS, (c.terms, self.in_features))
        if c.signs == "learned":
            self.s = nn.Parameter(signs.to(like))
        else:
            self.register_buffer("s", signs.to(torch.int8), persistent=False)
        self.bias = nn.Parameter(torch.zeros(self.out_features)) if self.has_bias else None

    @property
    def seeds(self) -> int:
        return int(self.config.signs == "fixed")

    @property
    def is_exact(self) -> bool:
        return self.config.signs == "fixed"

    @property
    def is_expanded(self) -> bool:
        """Whether so many terms are added that one dense matrix, made of them at each call, is quicker."""
        return self._fast_macs() > self.in_features * self.out_features

    def kind(self, name: str) -> ParameterKind:
        return "diagonal" if name == "s" else super().kind(name)

    def transform(self, x: Tensor) -> Tensor:
        if self.is_expanded:
            return nn.functional.linear(x, _expand(self.c, self.s.to(x.dtype), self.out_features), self.bias)
        return dispatch.circulant(x, self.c, self.s, self.bias, self.out_features)

    def onnx_node(self, x: Tensor) -> Tensor:
        y = circulant_node(x, self.c, self.s, out_features=self.out_features, expanded=self.is_expanded)
        return y if self.bias is None else y + self.bias

    def onnx_functions(self) -> list[onnx.FunctionProto]:
        return circulant_functions(
            self.in_features, self.out_features, size=self.size, terms=self.config.terms, expanded=self.is_expanded
        )

    def macs(self) -> int:
        """A real transform a term and one back (``5/4 N log₂N`` each), complex products, signs; or the dense map."""
        return min(self._fast_macs(), self.in_features * self.out_features)

    def _fast_macs(self) -> int:
        n, terms = self.size, self.config.terms
        return math.ceil((terms + 1) * 1.25 * n * math.log2(n)) + terms * (2 * n + self.in_features)

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{"terms": 2}, {"terms": 3, "seed": 5, "size": 71}, {"signs": "learned"}]

    def fit_map(self, weight: Tensor, metric: Metric) -> None:
        wanted, sigma = weight.double(), damped(metric.covariance.double())
        if isinstance(self.s, nn.Parameter):
            take((self.c, self.s), _cut(wanted, sigma, *self.c.shape))
            refine_linear(self, weight, metric, order=2)
        else:
            take((self.c,), (_nearest(wanted, sigma, self.s.double(), self.size),))

    @classmethod
    def config_for_params(cls, in_features: int, out_features: int, bias: bool, params: int, base: Any) -> Any:
        learned = base.signs == "learned"
        term = smooth_size(cls.method, in_features, out_features, base.size) + learned * in_features
        terms = (params - bias * out_features - (not learned)) // term
        return base.model_copy(update={"terms": max(1, min(terms, in_features + (0 if learned else _SPARE)))})


def _expand(c: Tensor, s: Tensor, rows: int) -> Tensor:
    """The first ``rows`` of ``Σ_t C(c_t) S_t``, ``(rows, in)``, from ``c (T, N)`` and ``s (T, in)``."""
    along = c.T @ s  # (N, in): row k holds all entries with i − j = k
    i = torch.arange(rows, device=c.device)
    j = torch.arange(s.shape[1], device=c.device)
    return along.gather(0, (i[:, None] - j) % len(along))


def _along_diagonals(entries: Tensor, n: int) -> Tensor:
    """``entries (out, in) -> (n, in)``: row k holds all with i − j = k mod n, zeros where there is none."""
    k = torch.arange(n, device=entries.device)
    j = torch.arange(entries.shape[1], device=entries.device)
    return nn.functional.pad(entries, (0, 0, 0, n - len(entries))).gather(0, (k[:, None] + j) % n)


def _nearest(weight: Tensor, sigma: Tensor, signs: Tensor, n: int) -> Tensor:
    """The ``c (T, n)`` that minimises ``‖(W − Σ_t C(c_t) S_t) Σ^½‖``: its normal equations, solved.

    Directly up to some thousand unknowns; above by conjugate gradients on products of single precision,
    preconditioned with what a diagonal Σ would give.
    """
    terms, out_features = len(signs), len(weight)
    if terms * n <= _DIRECT_UNKNOWNS:
        aim = signs @ _along_diagonals(weight @ sigma, n).T  # (T, n)
        h = _normal_matrix(sigma, signs, out_features, n)
        return solve(h, aim.reshape(-1, 1), refined=True).reshape(terms, n)
    factor = torch.linalg.cholesky(damped((signs * sigma.diagonal()) @ signs.T))
    weight, sigma, signs = weight.float(), sigma.float(), signs.float()

    def product(c: Tensor) -> Tensor:
        return signs @ _along_diagonals(_expand(c, signs, out_features) @ sigma, n).T

    return conjugate_gradients(
        product,
        signs @ _along_diagonals(weight @ sigma, n).T,
        lambda c: torch.cholesky_solve(c.double(), factor).to(c),
        steps=steps_for(out_features * sigma.numel() + 2 * n * signs.numel()),
    ).double()


def _normal_matrix(sigma: Tensor, signs: Tensor, out_features: int, n: int) -> Tensor:
    """``H[(t, k), (u, l)] = Σ_{i < out} (s_t s_uᵀ ∘ Σ)[i − k, i − l]``, indices modulo n, ``(T n, T n)``.

    Sums over windows of the diagonals of Σ: by running totals, in O((T n)²).
    """
    terms, width = signs.shape
    extra = n - width
    signs, sigma = nn.functional.pad(signs, (0, extra)), nn.functional.pad(sigma, (0, extra, 0, extra))
    index = torch.arange(n)
    partner = (index + index[:, None]) % n  # (difference, j)
    diagonals = sigma[index, partner]  # (difference, j)
    start = (-index) % n
    difference = (index[:, None] - index) % n  # k − l
    h = sigma.new_empty(terms, n, terms, n)
    for t in range(terms):
        for u in range(t + 1):
            entries = diagonals * signs[t] * signs[u][partner]
            totals = nn.functional.pad(torch.cat((entries, entries), 1).cumsum(1), (1, 0))
            windows = totals[:, start + out_features] - totals[:, start]  # (difference, k)
            block = windows.T.gather(1, difference)  # (k, l)
            h[t, :, u] = block
            h[u, :, t] = block.T
    return h.reshape(terms * n, terms * n)


def _cut(weight: Tensor, sigma: Tensor, terms: int, n: int) -> tuple[Tensor, Tensor]:
    """``c (T, n)`` and ``s (T, in)`` for the matrix over the diagonals of W, cut to rank T as a diagonal Σ would."""
    scale = sigma.diagonal().sqrt()
    along = _along_diagonals(weight * scale, n)
    vectors = leading(along.T @ along, terms)[1]  # (in, T, or in where that is less)
    c, s = along @ vectors, vectors.T / scale
    size = (c.norm(dim=0) / s.norm(dim=1)).sqrt()
    size = torch.where(size > 0, size, 1.0)  # both factors equally large
    missing = terms - len(s)
    return nn.functional.pad((c / size).T, (0, 0, 0, missing)), nn.functional.pad(s * size[:, None], (0, 0, 0, missing))
