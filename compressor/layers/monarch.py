"""Monarch: block-diagonal, permutation, block-diagonal (Dao et al. 2022, 3.1: ``M = P L Pᵀ R``), of any rank.

The input is cut into k blocks of p neighbours, the outputs into k classes of q (output ``u`` is in class
``u mod k``); every pair of them is joined by s hidden numbers:

    ``h[i, j] = first[i, j] x[i]``  ``(s,)``        ``y[j] = Σ_i second[j, i] h[i, j]``  ``(q,)``

so that each q × p block of W has rank s (s = 1: Monarch; k = 1: low rank s). Sides that k does not divide are
padded. Stored: ``first (k, k·s, p)``, rows ordered (class, s); ``second (k, q, k·s)``, columns ordered (block, s).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from compressor.layers.alternating import Factors, descend, least_squares_step, padded_metric
from compressor.layers.base import LayerConfig, Metric, largest, register
from compressor.layers.fitted import FittedLayer, take
from compressor.layers.onnx_monarch import Shape, monarch_functions, monarch_node
from compressor.layers.semidefinite import damped
from compressor.layers.truncation import balanced, left_vectors
from compressor_kernels import dispatch

if TYPE_CHECKING:
    import onnx


class MonarchConfig(LayerConfig):
    """Into how many blocks each side is cut, and the rank of each pair of them."""

    blocks: int | None = Field(
        None, ge=1, description="k, on both sides; none: near the root of the smaller side, a divisor of both if near"
    )
    rank: int = Field(1, ge=1, description="s, of each of the k² blocks of W; more rank, more parameters")

    def blocks_for(self, in_features: int, out_features: int) -> int:
        """k: as asked, or the common divisor nearest to the root of the smaller side, the root if none is near."""
        if self.blocks is not None:
            return self.blocks
        root = math.sqrt(min(in_features, out_features))
        common = math.gcd(in_features, out_features)
        near = [k for k in range(1, common + 1) if common % k == 0 and root / 1.5 <= k <= root * 1.5]
        return min(near, key=lambda k: abs(math.log(k / root))) if near else max(1, round(root))


@register("monarch", source="Dao et al. 2022 (Monarch); each block of W at rank s")
class Monarch(FittedLayer):
    """Monarch: two block-diagonal matrices with a permutation between them."""

    Config: ClassVar[type[LayerConfig]] = MonarchConfig
    config: MonarchConfig

    blocks: int

    def make_parameters(self) -> None:
        self.blocks = k = self.config.blocks_for(self.in_features, self.out_features)
        p, q, hidden = math.ceil(self.in_features / k), math.ceil(self.out_features / k), k * self.config.rank
        self.first = nn.Parameter(torch.empty(k, hidden, p))
        self.second = nn.Parameter(torch.empty(k, q, hidden))
        self.bias = nn.Parameter(torch.zeros(self.out_features)) if self.has_bias else None
        for factor in (self.first, self.second):
            nn.init.uniform_(factor, -1 / math.sqrt(factor.shape[-1]), 1 / math.sqrt(factor.shape[-1]))

    def transform(self, x: Tensor) -> Tensor:
        return dispatch.monarch(x, self.own("first"), self.own("second"), self.own("bias"), self.out_features)

    def onnx_node(self, x: Tensor) -> Tensor:
        return monarch_node(x, self.first, self.second, self.bias, self._shape())

    def onnx_functions(self) -> list[onnx.FunctionProto]:
        return monarch_functions(self._shape())

    def _shape(self) -> Shape:
        p, q = self.first.shape[-1], self.second.shape[1]
        return Shape(self.in_features, self.out_features, self.blocks, self.config.rank, p, q, self.has_bias)

    def macs(self) -> int:
        """Of the two batched products, the padding included."""
        return self.first.numel() + self.second.numel()

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{}, {"blocks": 3, "rank": 2}]

    def fit_map(self, weight: Tensor, metric: Metric) -> None:
        take((self.first, self.second), _Fit(self, weight, metric).factors())

    @classmethod
    def config_for_params(cls, in_features: int, out_features: int, bias: bool, params: int, base: Any) -> Any:
        """More rank at the blocks that ``base`` says; fewer blocks only where rank 1 is too large."""
        sides, k = (in_features, out_features), base.blocks_for(in_features, out_features)

        def stored(blocks: int) -> int:
            padded = math.ceil(in_features / blocks) + math.ceil(out_features / blocks)
            return blocks * blocks * padded + bias * out_features

        k = next((blocks for blocks in range(k, 0, -1) if stored(blocks) <= params), 1)
        full = min(math.ceil(side / k) for side in sides)
        return largest(cls, sides, bias, params, lambda s: base.model_copy(update={"blocks": k, "rank": s}), full)


class _Fit:
    """Alternating least squares: for ``first`` exact for each (block, class) in turn, for ``second`` exact.

    Starts: each block of W truncated in the inputs' own block of Σ, and in Σ = I (both exact where Σ is so).
    Its factors: lower ``(block, class, s, p)`` and upper ``(class, q, block · s)``.
    """

    def __init__(self, layer: Monarch, weight: Tensor, metric: Metric) -> None:
        self.k, self.s = layer.blocks, layer.config.rank
        k, (p, q) = self.k, (layer.first.shape[-1], layer.second.shape[1])
        w = nn.functional.pad(weight.detach().double(), (0, k * p - weight.shape[1], 0, k * q - len(weight)))
        sigma = padded_metric(metric, k * p)
        self.seen = (w @ sigma).reshape(q, k, k, p).permute(2, 1, 0, 3)  # W Σ: (block, class, q, p)
        self.w = w.reshape(q, k, k, p).permute(2, 1, 0, 3)
        self.sigma = sigma.reshape(k, p, k, p).transpose(1, 2).contiguous()  # (block, block, p, p)
        self.own = torch.stack([self.sigma[i, i] for i in range(k)])  # (block, p, p)
        self.total = (self.seen * self.w).sum()
        self.cost = 2 * self.s * k * (k * p) ** 2

    def factors(self) -> Factors:
        """``first`` and ``second`` as the layer holds them."""
        k, s = self.k, self.s
        plain = torch.eye(self.own.shape[-1], dtype=self.own.dtype).expand_as(self.own)
        starts = [self.start(plain), self.start(self.own)]
        lower, upper = descend(starts, self.loss, self.sweep, self.cost)
        return lower.reshape(k, k * s, lower.shape[-1]), upper

    def start(self, sigma: Tensor) -> Factors:
        """Every block of W truncated in its ``sigma (block, p, p)``."""
        upper = left_vectors(self.w, sigma[:, None], self.s)
        upper, lower = balanced(upper, upper.mT @ self.w)
        return lower, upper.permute(1, 2, 0, 3).flatten(2)

    def seen_lower(self, lower: Tensor, i: int) -> Tensor:
        """``H_j Σ`` at the inputs of block i, ``(class, block · s, p)``."""
        seen = lower.flatten(1, 2) @ self.sigma[:, i]  # (block, class · s, p)
        return seen.reshape(lower.shape).transpose(0, 1).flatten(1, 2)

    def normal(self, lower: Tensor) -> tuple[Tensor, Tensor]:
        """``H_j Σ H_jᵀ (class, ks, ks)`` and ``W_j Σ H_jᵀ (class, q, ks)``."""
        gram = [self.seen_lower(lower, i) @ lower[i].mT for i in range(self.k)]
        return torch.cat(gram, -1), torch.cat(list(self.seen @ lower.mT), -1)

    def loss(self, factors: Factors) -> Tensor:
        return self.missed(factors[1], *self.normal(factors[0]))

    def missed(self, upper: Tensor, gram: Tensor, right: Tensor) -> Tensor:
        """``‖(W − Ŵ) Σ^½‖²`` from the normal equations of ``upper``."""
        return self.total + ((upper @ gram - 2 * right) * upper).sum()

    def sweep(self, factors: Factors) -> tuple[Factors, Tensor]:
        lower, upper = factors[0].clone(), factors[1]
        among = (upper.mT @ upper).reshape(self.k, self.k, self.s, -1)  # (class, block, s, ks)
        aim = upper.reshape(self.k, -1, self.k, self.s).permute(2, 0, 3, 1) @ self.seen  # (block, class, s, p)
        inner = torch.linalg.cholesky(damped(self.own))
        for i in range(self.k):
            own = among[:, i, :, i * self.s : (i + 1) * self.s]
            downhill = least_squares_step(own, aim[i] - among[:, i] @ self.seen_lower(lower, i))
            lower[i] += torch.cholesky_solve(downhill.mT, inner[i]).mT
        gram, right = self.normal(lower)
        upper = upper + least_squares_step(gram, (right - upper @ gram).mT).mT
        return (lower, upper), self.missed(upper, gram, right)
