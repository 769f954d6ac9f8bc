"""Toeplitz-like: ``y = Σ_j Z₁(g_j) Z₋₁(h_j) x``, matrices of low displacement rank (Sindhwani et al. 2015).

``Z_f(v)_ij = v[i − j]`` on and below the diagonal and ``f · v[N + i − j]`` above: circulant for f = 1, skew-circulant
for f = −1. A sum of r such products is every A whose displacement ``Z₁ A − A Z₋₁`` (Z_f = Z_f(e₁), a shift) has
rank r: Toeplitz matrices and their inverses at r = 2, all matrices at r = N. The input is zero-padded to N, the
first ``out`` outputs are kept.

Stored: ``G, H (r, N)``.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from compressor.layers import seeded
from compressor.layers.base import LayerConfig, Metric, register
from compressor.layers.fitted import FittedLayer
from compressor.layers.onnx_fourier import toeplitz_functions, toeplitz_node
from compressor.layers.sizes import smooth_size
from compressor.layers.solve import missed_energy, refine_linear
from compressor.layers.truncation import leading
from compressor_kernels import dispatch

if TYPE_CHECKING:
    import onnx

_G, _H = 104, 105  # streams of the seed (normals take two each: 208 to 211)


class ToeplitzConfig(LayerConfig):
    """How many products of a circulant and a skew-circulant matrix are added."""

    rank: int = Field(2, ge=1, description="r, products added: 2 hold every Toeplitz matrix of half the size")
    size: int | None = Field(None, ge=1, description="N; none: the next even size with no prime factor above 7")
    seed: int = Field(0, ge=0, description="of the start")


@register("toeplitz", source="Sindhwani et al. 2015 (low displacement rank)")
class Toeplitz(FittedLayer):
    """Toeplitz-like: a sum of products of circulant and skew-circulant matrices, of low displacement rank."""

    Config: ClassVar[type[LayerConfig]] = ToeplitzConfig
    config: ToeplitzConfig

    size: int

    def make_parameters(self) -> None:
        c = self.config
        self.size = n = smooth_size(self.method, self.in_features, self.out_features, c.size)
        g, h = (seeded.normals(c.seed, purpose, (c.rank, n)) for purpose in (_G, _H))
        scale = (c.rank * n * self.in_features) ** -0.25  # each entry of the map has variance 1 / in
        self.G = nn.Parameter((g * scale).to(torch.get_default_dtype()))
        self.H = nn.Parameter((h * scale).to(torch.get_default_dtype()))
        self.bias = nn.Parameter(torch.zeros(self.out_features)) if self.has_bias else None

    def transform(self, x: Tensor) -> Tensor:
        return dispatch.toeplitz(x, self.G, self.H, self.bias, self.out_features)

    def onnx_node(self, x: Tensor) -> Tensor:
        y = toeplitz_node(x, self.G, self.H, out_features=self.out_features)
        return y if self.bias is None else y + self.bias

    def onnx_functions(self) -> list[onnx.FunctionProto]:
        return toeplitz_functions(self.in_features, self.out_features, size=self.size, rank=self.config.rank)

    def macs(self) -> int:
        """2 (r + 1) transforms of real inputs, ``5/4 N log₂N`` each, twiddles of the skew ones, complex products."""
        n, r = self.size, self.config.rank
        return math.ceil((r + 1) * (2.5 * n * math.log2(n) + n)) + 4 * r * n

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{}, {"rank": 1, "size": 71, "seed": 4}]

    def fit_map(self, weight: Tensor, metric: Metric) -> None:
        self._start_at(weight, metric)
        refine_linear(self, weight, metric, order=2)

    @torch.no_grad()
    def _start_at(self, weight: Tensor, metric: Metric) -> None:
        """The nearer of two maps that the layer can hold: W with its displacement cut, and W cut to rank ⌊r / 2⌋.

        The second is the optimum of that rank in the metric; its displacement has twice the rank.
        """
        w = weight.double()
        self._set(*_generators(w, *self.G.shape))
        seen = w @ metric.covariance.double() @ w.T
        values, u = leading(seen, self.config.rank // 2)
        cut = float(seen.trace() - values.sum())  # what W cut to ⌊r / 2⌋ misses
        if len(values) and cut < missed_energy(self, weight, metric):
            self._set(*_generators(u @ (u.T @ w), *self.G.shape))

    def _set(self, G: Tensor, H: Tensor) -> None:
        self.G.copy_(G)
        self.H.copy_(H)

    @classmethod
    def config_for_params(cls, in_features: int, out_features: int, bias: bool, params: int, base: Any) -> Any:
        n = smooth_size(cls.method, in_features, out_features, base.size)
        rank = (params - bias * out_features) // (2 * n)
        return base.model_copy(update={"rank": max(1, min(rank, n))})


def _generators(weight: Tensor, rank: int, n: int) -> tuple[Tensor, Tensor]:
    """``G, H (rank, n)`` for the displacement of W, padded with zeros, cut to ``rank``; exact where it has that rank.

    With ``Z₁ A − A Z₋₁ = Σ_j g_j h_jᵀ``: ``A = ½ Σ_j Z₁(g_j) Z₋₁(J h_j)``, J the reversal.
    """
    a = nn.functional.pad(weight.detach().double(), (0, n - weight.shape[1], 0, n - len(weight)))
    shifted = torch.cat((a[:, 1:], -a[:, :1]), 1)  # A Z₋₁
    displacement = a.roll(1, 0) - shifted
    vectors = leading(displacement @ displacement.T, rank)[1]  # (n, rank)
    h = displacement.T @ vectors / 2
    size = h.norm(dim=0).sqrt()
    size = torch.where(size > 0, size, 1.0)  # both factors equally large
    return (vectors * size).T, (h.flip(0) / size).T
