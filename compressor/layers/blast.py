"""BLAST: b × b blocks ``W_ij = U_i diag(s_ij) V_j`` that share their outer factors (Lee et al. 2024, eq. 1).

Chosen over the block tensor train because low rank (s = 1), block-diagonal and Monarch-like maps are all special cases
of one formula, with one forward of three batched products. Sides that b does not divide are padded. Stored:
``u (b, out / b, r)``, ``s (b, b, r)`` indexed (output block, input block), ``v (b, r, in / b)``.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from compressor.layers.alternating import Factors, descend, least_squares_step, padded_metric
from compressor.layers.base import LayerConfig, Metric, ParameterKind, register
from compressor.layers.fitted import FittedLayer, take
from compressor.layers.truncation import balanced, leading_vectors

_MOST_BLOCKS = 8
_DEFAULT_FRACTION = 0.25
_OTHER_STARTS = 2


class BLASTConfig(LayerConfig):
    """Into how many blocks each side is cut, and how many numbers join every pair of them."""

    blocks: int | None = Field(
        None,
        ge=1,
        description="b, on both sides; none: up to 8, so that b² is at most (in + out) / 16",
    )
    rank: int | None = Field(None, ge=1, description="r, of the shared factors; none: a quarter of min(in, out)")

    def blocks_for(self, in_features: int, out_features: int) -> int:
        """b: where it is not given, ``b²`` is at most a 16th of ``in + out``."""
        return self.blocks or max(1, min(_MOST_BLOCKS, math.isqrt((in_features + out_features) // 16)))

    def rank_for(self, in_features: int, out_features: int) -> int:
        return self.rank or max(1, int(min(in_features, out_features) * _DEFAULT_FRACTION))


@register("blast", source="Lee et al. 2024 (BLAST)")
class BLAST(FittedLayer):
    """BLAST: blocks of low rank that share their factors, each with a diagonal of its own."""

    Config: ClassVar[type[LayerConfig]] = BLASTConfig
    config: BLASTConfig

    blocks: int

    def make_parameters(self) -> None:
        sides = self.in_features, self.out_features
        self.blocks = b = self.config.blocks_for(*sides)
        r, p, q = self.config.rank_for(*sides), math.ceil(self.in_features / b), math.ceil(self.out_features / b)
        self.u = nn.Parameter(torch.empty(b, q, r))
        self.s = nn.Parameter(torch.empty(b, b, r))
        self.v = nn.Parameter(torch.empty(b, r, p))
        self.bias = nn.Parameter(torch.zeros(self.out_features)) if self.has_bias else None
        nn.init.uniform_(self.s, 0, 2)  # a mean of 1: low rank, disturbed
        nn.init.uniform_(self.u, -1 / math.sqrt(r), 1 / math.sqrt(r))
        nn.init.uniform_(self.v, -1 / math.sqrt(b * p), 1 / math.sqrt(b * p))

    def kind(self, name: str) -> ParameterKind:
        return "diagonal" if name == "s" else super().kind(name)

    def transform(self, x: Tensor) -> Tensor:
        b, p, q = self.blocks, self.v.shape[2], self.u.shape[1]
        if b * p > self.in_features:
            x = nn.functional.pad(x, (0, b * p - self.in_features))
        h = x.reshape(-1, b, p).transpose(0, 1) @ self.v.mT  # (input block, rows, r)
        h = self.s.permute(2, 0, 1) @ h.permute(2, 0, 1)  # (r, output block, rows)
        y = h.permute(1, 2, 0) @ self.u.mT  # (output block, rows, q)
        y = y.transpose(0, 1).reshape(*x.shape[:-1], b * q)[..., : self.out_features]
        return y if self.bias is None else y + self.bias

    def macs(self) -> int:
        """Of the three batched products, the padding included."""
        return self.u.numel() + self.s.numel() + self.v.numel()

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{}, {"blocks": 3, "rank": 2}]

    def fit_map(self, weight: Tensor, metric: Metric) -> None:
        take((self.u, self.s, self.v), _Fit(self, weight, metric).factors())

    @classmethod
    def config_for_params(cls, in_features: int, out_features: int, bias: bool, params: int, base: Any) -> Any:
        """More rank at the blocks that ``base`` says; fewer blocks only where rank 1 is too large."""

        def a_rank(blocks: int) -> int:
            padded = math.ceil(in_features / blocks) + math.ceil(out_features / blocks)
            return blocks * padded + blocks * blocks

        b, left = base.blocks_for(in_features, out_features), params - bias * out_features
        b = next((blocks for blocks in range(b, 0, -1) if a_rank(blocks) <= left), 1)
        rank = max(1, min(left // a_rank(b), in_features, out_features))
        return base.model_copy(update={"blocks": b, "rank": rank})


class _Fit:
    """Alternating least squares, exact for every V_j and every column of diagonals in turn, and for all U.

    Starts: the best map of rank r, with s = 1, and two that differ from it in s: there the blocks are all alike, and
    what could tell them apart grows slowly.
    """

    def __init__(self, layer: BLAST, weight: Tensor, metric: Metric) -> None:
        self.b = b = layer.blocks
        q, self.r, p = layer.u.shape[1], layer.u.shape[2], layer.v.shape[2]
        w = nn.functional.pad(weight.detach().double(), (0, b * p - weight.shape[1], 0, b * q - len(weight)))
        sigma = padded_metric(metric, b * p)
        seen = w @ sigma
        self.total = (seen * w).sum()
        self.low_rank = self.start(w, leading_vectors(seen @ w.T, self.r))
        self.seen = seen.reshape(b, q, b, p).transpose(1, 2).contiguous()  # W Σ: (output block, input block, q, p)
        self.sigma = sigma.reshape(b, p, b, p).transpose(1, 2).contiguous()  # (block, block, p, p)
        n, m, r = b * p, b * q, self.r
        self.cost = 2 * r * n * (n + m) + 3 * b * r * r * (n + b * b) + b * b * r**3 / 3

    def start(self, w: Tensor, left: Tensor) -> Factors:
        """``left leftᵀ W``, the map of rank r whose outputs ``left (out, r)`` spans."""
        u, v = balanced(left, left.T @ w)
        return (
            u.reshape(self.b, -1, self.r),
            w.new_ones(self.b, self.b, self.r),
            v.reshape(self.r, self.b, -1).transpose(0, 1).contiguous(),
        )

    def factors(self) -> Factors:
        """``u``, ``s`` and ``v`` as the layer holds them: diagonals around 1, the outer factors equally large."""
        u, s, v = self.low_rank
        generator = torch.Generator().manual_seed(0)
        others = [(u, s + torch.randn(s.shape, generator=generator, dtype=s.dtype), v) for _ in range(_OTHER_STARTS)]
        u, s, v = descend([*others, self.low_rank], self.loss, self.sweep, self.cost)
        sizes = u.norm(dim=(0, 1)), s.square().mean((0, 1)).sqrt(), v.norm(dim=(0, 2))
        lu, ls, lv = (torch.where((sizes[0] * sizes[1] * sizes[2]) > 0, size, 1.0) for size in sizes)
        u_gain, v_gain = (ls * lv / lu).sqrt(), (ls * lu / lv).sqrt()
        return u * u_gain, s / ls, v * v_gain[:, None]

    def normal(self, s: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Normal equations of U: ``H_i Σ H_iᵀ (block, r, r)``, ``W_i Σ H_iᵀ (block, q, r)``; H_i = diag(s_ij) V_j."""
        gram, right = v.new_zeros(()), v.new_zeros(())
        for j in range(self.b):
            common = (v @ self.sigma[:, j]) @ v[j].T  # (block, r, r)
            gram = gram + torch.einsum("ijr,jrt->irt", s, common) * s[:, j, None, :]
            right = right + self.seen[:, j] @ v[j].T * s[:, j, None, :]
        return gram, right

    def loss(self, factors: Factors) -> Tensor:
        """``‖(W − Ŵ) Σ^½‖²``."""
        u, s, v = factors
        return self.missed(u, *self.normal(s, v))

    def missed(self, u: Tensor, gram: Tensor, right: Tensor) -> Tensor:
        return self.total + ((u @ gram - 2 * right) * u).sum()

    def sweep(self, factors: Factors) -> tuple[Factors, Tensor]:
        u, s, v = factors[0], factors[1].clone(), factors[2].clone()
        among = u.mT @ u  # (output block, r, r)
        for j in range(self.b):
            self.improve(j, u, s, v, among)
        gram, right = self.normal(s, v)
        u = u + least_squares_step(gram, (right - u @ gram).mT).mT
        return (u, s, v), self.missed(u, gram, right)

    def improve(self, j: int, u: Tensor, s: Tensor, v: Tensor, among: Tensor) -> None:
        """The best ``v[j]``, then the best ``s[:, j]``, in place; ``among`` is UᵀU."""
        aim = u.mT @ self.seen[:, j]  # (output block, r, p)
        seen = v @ self.sigma[:, j]  # V Σ at the inputs of block j: (block, r, p)
        by = torch.einsum("irt,ijt->jrt", s[:, j, :, None] * among, s)  # (block, r, r)
        downhill = (s[:, j, :, None] * aim).sum(0) - (by @ seen).sum(0)
        step = least_squares_step(by[j], downhill)
        v[j] += least_squares_step(self.sigma[j, j], step.T).T
        seen[j] = v[j] @ self.sigma[j, j]
        common = v[j] @ seen.mT  # (block, r, r): V_j Σ V_j'ᵀ
        now = (torch.einsum("ijt,jrt->irt", s, common) * among).sum(-1)
        downhill = (aim * v[j]).sum(-1) - now  # (output block, r)
        s[:, j] += least_squares_step(among * common[j], downhill[..., None])[..., 0]
