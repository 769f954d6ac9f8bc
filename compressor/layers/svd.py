"""Low rank: ``x → (x downᵀ) upᵀ + b``, plain or aware of what the layer sees.

Aware (the optimum of ``‖(W − Ŵ) Σ^½‖`` at rank r): with ``W Σ^½ = U S Vᵀ``, ``Ŵ = U_r U_rᵀ W``. Plain (the
papers' baseline, Moczulski 2019, 3.9.8): the same with Σ = I. ``svd-half`` and ``svd-quarter`` are plain, at
``min(in, out) / 2`` and ``/ 4``.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from compressor.layers.base import LayerConfig, Metric, StructuredLayer, register
from compressor.layers.fitted import fit_from_dense
from compressor.layers.semidefinite import damped
from compressor.layers.solve import wanted_offset

_DEFAULT_FRACTION = 0.25


class SVDConfig(LayerConfig):
    """Rank, given in one way; a quarter of ``min(in, out)`` when in none."""

    rank: int | None = Field(None, ge=1, description="rank of the product")
    energy: float | None = Field(None, gt=0, le=1, description="share of ‖W Σ^½‖² to keep: sets the rank by layer")
    fraction: float | None = Field(None, gt=0, le=1, description="rank as a fraction of min(in, out)")
    aware: bool = Field(True, description="optimal for the inputs the layer sees; false: for the weights alone")

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if sum(value is not None for value in (self.rank, self.energy, self.fraction)) > 1:
            raise ValueError("give only one of rank, energy and fraction")
        return self

    @property
    def uses_metric(self) -> bool:
        return self.aware

    def rank_for(self, in_features: int, out_features: int) -> int:
        """The rank that shapes alone give: full for ``energy``, which only the weights can turn into a rank."""
        least = min(in_features, out_features)
        if self.rank is not None:
            return self.rank
        if self.energy is not None:
            return least
        return max(1, int(least * (_DEFAULT_FRACTION if self.fraction is None else self.fraction)))


@register(
    "svd",
    source="Moczulski 2019, 3.9.8; activation-aware: W Σ^½ truncated",
    presets={"svd-half": {"fraction": 0.5, "aware": False}, "svd-quarter": {"fraction": 0.25, "aware": False}},
)
class SVD(StructuredLayer):
    """Low rank: two thin matrices, the best for what the layer sees."""

    Config: ClassVar[type[LayerConfig]] = SVDConfig
    config: SVDConfig

    def make_parameters(self) -> None:
        rank = self.config.rank_for(self.in_features, self.out_features)
        self.down = nn.Parameter(torch.empty(rank, self.in_features))
        self.up = nn.Parameter(torch.empty(self.out_features, rank))
        self.bias = nn.Parameter(torch.zeros(self.out_features)) if self.has_bias else None
        for factor in (self.down, self.up):
            nn.init.kaiming_uniform_(factor, a=math.sqrt(5))

    @property
    def is_sized(self) -> bool:
        return self.config.energy is None

    @property
    def is_exact(self) -> bool:
        return True

    def transform(self, x: Tensor) -> Tensor:
        h = nn.functional.linear(x, self.down)  # (..., rank)
        return nn.functional.linear(h, self.up, self.bias)

    def dense_chain(self) -> tuple[Tensor, ...]:
        return self.down, self.up

    def macs(self) -> int:
        return self.down.numel() + self.up.numel()

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{}, {"rank": 2}, {"fraction": 1.0}, {"energy": 0.9}, {"fraction": 0.5, "aware": False}]

    @classmethod
    def from_dense(cls, weight: Tensor, bias: Tensor | None, config: Any, metric: Metric) -> Self:
        out_features, in_features = weight.shape
        w = weight.detach().double()
        u, s = _left(w, metric) if config.aware else torch.linalg.svd(w, full_matrices=False)[:2]
        if config.energy is not None:
            kept = s.square().cumsum(0)
            rank = min(int((kept < config.energy * kept[-1]).sum()) + 1, len(s))
            config = config.model_copy(update={"rank": rank, "energy": None})
        layer = cls(in_features, out_features, bias=bias is not None, config=config).to(weight.dtype)
        u = u[:, : len(layer.down)]
        down = u.T @ w  # (r, in)
        size = down.norm(dim=1).sqrt()
        size = torch.where(size > 0, size, 1.0)
        with torch.no_grad():  # both factors equally large; a rank above min(in, out) adds zeros
            layer.down.zero_()[: u.shape[1]] = down / size[:, None]
            layer.up.zero_()[:, : u.shape[1]] = u * size
            if layer.bias is not None:
                layer.bias.copy_(wanted_offset(layer, weight, bias, metric))
        return layer

    def fit_samples(self, x: Tensor, y: Tensor) -> float:
        near = {"rank": len(self.down), "energy": None, "fraction": None}
        return fit_from_dense(self, x, y, near=self.config.model_copy(update=near))

    @classmethod
    def config_for_params(cls, in_features: int, out_features: int, bias: bool, params: int, base: Any) -> Any:
        rank = (params - bias * out_features) // (in_features + out_features)
        rank = max(1, min(rank, in_features, out_features))
        return base.model_copy(update={"rank": rank, "energy": None, "fraction": None})


def _left(w: Tensor, metric: Metric) -> tuple[Tensor, Tensor]:
    """Left singular vectors and values of ``W Σ^½``, through the smaller of the two symmetric problems."""
    sigma = damped(metric.covariance.double())  # directions never seen are ordered by W alone
    if len(w) > len(sigma):
        u, s, _ = torch.linalg.svd(w @ Metric(sigma, metric.mean).root(), full_matrices=False)
        return u, s
    values, vectors = torch.linalg.eigh(w @ sigma @ w.T)
    return vectors.flip(1), values.flip(0).clamp_min(0).sqrt()
