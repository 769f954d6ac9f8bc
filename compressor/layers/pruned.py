"""Pruned: the weights that matter, stored with their places (Collins & Kohli 2014; Han et al. 2015b).

``ŷ = x Ŵᵀ + b`` with ``count`` of the in · out entries of Ŵ not zero. Which: ``magnitude`` (the papers' rule: the
largest stay as they are) or ``metric``: see `subset.best_subset`.

Stored, all of it persistent and counted: the values ``(count,)``, a column for each, the length of each row, the
bias: ``2 count + out (+ out)`` numbers. MACs: the values.

``iterative``: `from_dense` keeps more than is asked for, and while the network trains the smallest are dropped step
by step (Han's prune-and-retrain; cubic schedule of Zhu & Gupta 2017). ``regulariser`` adds an l1 norm to the loss.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from compressor.layers.base import LayerConfig, Metric, StructuredLayer, register
from compressor.layers.positions import Positions


class PrunedConfig(LayerConfig):
    """How much is kept, and how it is chosen."""

    density: float = Field(0.1, gt=0, le=1, description="share of the weights that is kept")
    count: int | None = Field(None, ge=0, description="weights kept, in place of density")
    criterion: Literal["metric", "magnitude"] = Field(
        "metric", description="metric: those that the outputs need, solved again; magnitude: the largest, as they are"
    )

    @property
    def uses_metric(self) -> bool:
        return self.criterion == "metric"

    def count_for(self, in_features: int, out_features: int) -> int:
        """How many weights stay."""
        size = in_features * out_features
        wanted = max(1, round(self.density * size)) if self.count is None else self.count
        if wanted > size:
            raise ValueError(f"count={wanted} is more than the {size} weights of {in_features} -> {out_features}")
        return wanted


@register("pruned", source="Collins & Kohli 2014; Han et al. 2015b")
class Pruned(StructuredLayer):
    """Pruning: the weights that matter and their places, in compressed sparse rows."""

    Config: ClassVar[type[LayerConfig]] = PrunedConfig
    config: PrunedConfig

    def make_parameters(self) -> None:
        count = self.config.count_for(self.in_features, self.out_features)
        self.positions = Positions(self.in_features, self.out_features, count)
        self.values = nn.Parameter(torch.empty(count))
        self.bias = nn.Parameter(torch.zeros(self.out_features)) if self.has_bias else None
        bound = 1 / math.sqrt(max(1.0, count / self.out_features))  # as nn.Linear's, for the mean row
        nn.init.uniform_(self.values, -bound, bound)

    def transform(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.positions.scatter(self.values), self.bias)

    def macs(self) -> int:
        """Those of a sparse product: one for each value."""
        return len(self.values)

    @classmethod
    def from_sparse(cls, weight: Tensor, bias: Tensor | None) -> Self:
        """The layer that keeps exactly the entries of ``weight (out, in)`` that are not zero, and ``bias (out,)``."""
        mask = weight.detach() != 0
        out_features, in_features = weight.shape
        config = PrunedConfig(count=int(mask.sum()))
        with torch.device(weight.device):
            layer = cls(in_features, out_features, bias=bias is not None, config=config).to(weight.dtype)
        layer._take(mask, weight, bias)
        return layer

    @torch.no_grad()
    def _take(self, mask: Tensor, weight: Tensor, bias: Tensor | None) -> None:
        self.positions.set(mask)
        self.values.copy_(self.positions.gather(weight))
        if self.bias is not None and bias is not None:
            self.bias.copy_(bias)

    @classmethod
    def from_dense(cls, weight: Tensor, bias: Tensor | None, config: Any, metric: Metric) -> Self:
        raise NotImplementedError

    @classmethod
    def config_for_params(cls, in_features: int, out_features: int, bias: bool, params: int, base: Any) -> Any:
        count = (params - out_features * (2 if bias else 1)) // 2
        return base.model_copy(update={"count": max(1, min(count, in_features * out_features))})
