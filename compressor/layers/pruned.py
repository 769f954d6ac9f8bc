"""Pruned: the weights that matter, stored with their places (Collins & Kohli 2014; Han et al. 2015b).

``ŷ = x Ŵᵀ + b`` with ``count`` of the in · out entries of Ŵ not zero. Which: ``magnitude`` (the papers' rule: the
largest stay, as they are) or ``metric`` (see `subset`: those that the outputs need, and their best values).

Stored, all of it persistent and counted: the values ``(count,)``, a column for each, the length of each row, the
bias: ``2 count + out (+ out)`` numbers. MACs: the values, as a sparse product takes.

``block`` keeps or drops the weights of so many neighbouring outputs of one input together (of all, where there are
fewer): one column for each such vector, and the length of each ``block`` rows. The vectors kept are the share of all
vectors that ``count`` is of all weights, rounded; those of the last rows are stored whole, also past the last output.

``iterative``: `from_dense` keeps ``√density`` first, and while the network trains the smallest go step by step (Han's
prune and retrain, on the cubic schedule of Zhu & Gupta 2017). ``regulariser`` adds an l1 norm to the loss.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from compressor.layers.base import LayerConfig, Metric, StructuredLayer, register
from compressor.layers.fitted import fit_from_dense
from compressor.layers.onnx_sparse import sparse_functions, sparse_node
from compressor.layers.positions import Positions, block_rows, count_of, vectors_of
from compressor.layers.solve import wanted_offset
from compressor.layers.subset import best_subset, largest_entries, largest_vectors

if TYPE_CHECKING:
    import onnx

_PRUNED_BY = 0.5  # of the training; the rest is for the weights that stay


class PrunedConfig(LayerConfig):
    """How much is kept, and how it is chosen."""

    density: float = Field(0.1, gt=0, le=1, description="share of the weights that is kept")
    count: int | None = Field(None, ge=0, description="weights kept; in place of density")
    criterion: Literal["metric", "magnitude"] = Field(
        "metric", description="metric: those the outputs need, solved again; magnitude: the largest, as they are"
    )
    block: int = Field(
        1,
        ge=1,
        description="neighbouring outputs (all, if fewer) whose weights of an input are kept or dropped together",
    )
    iterative: bool = Field(False, description="drop the smallest step by step while the network trains")
    start: int | None = Field(None, ge=1, description="iterative: weights kept at first; none: the fit takes √density")
    regulariser: float = Field(0.0, ge=0, description="l1 norm of the weights times this is added to the loss")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.start is not None and not self.iterative:
            raise ValueError("start is for iterative=true")
        return self

    @property
    def uses_metric(self) -> bool:
        return self.criterion == "metric"

    def count_for(self, in_features: int, out_features: int) -> int:
        """How many weights stay in the end."""
        return count_of("pruned", in_features, out_features, self.density, self.count)

    def start_for(self, in_features: int, out_features: int) -> int:
        """How many weights are kept before the training drops some."""
        count = self.count_for(in_features, out_features)
        return count if self.start is None else max(count, min(self.start, in_features * out_features))

    def block_for(self, out_features: int) -> int:
        """Outputs of a vector: all where there are fewer than ``block``."""
        return min(self.block, out_features)


@register("pruned", source="Collins & Kohli 2014; Han et al. 2015b")
class Pruned(StructuredLayer):
    """Pruning: the weights that matter and their places, in compressed sparse rows."""

    Config: ClassVar[type[LayerConfig]] = PrunedConfig
    config: PrunedConfig

    alive: Tensor | None
    scale: Tensor | None

    def make_parameters(self) -> None:
        c, sides = self.config, (self.in_features, self.out_features)
        block = c.block_for(self.out_features)
        held = vectors_of(self.out_features, c.start_for(*sides), block)
        self.positions = Positions(*sides, held, block)
        self.values = nn.Parameter(torch.empty(held * block))
        self.bias = nn.Parameter(torch.zeros(self.out_features)) if self.has_bias else None
        shrinks = held > self._count()  # until `finished`, which vectors are left and how much inputs vary
        self.register_buffer("alive", torch.ones(held, dtype=torch.bool) if shrinks else None)
        self.register_buffer("scale", torch.ones(self.in_features) if shrinks else None)
        bound = 1 / math.sqrt(max(1.0, held / len(self.positions.lengths)))  # as nn.Linear's, for the mean row
        nn.init.uniform_(self.values, -bound, bound)

    @property
    def is_exact(self) -> bool:
        """For the places chosen, and for a map that it can hold; the best places for another are NP-hard to find."""
        return True

    def living(self) -> Tensor:
        """The values, zero where training has dropped them, ``(held · block,)``."""
        return self.values if self.alive is None else self.values * self.alive.repeat_interleave(self.positions.block)

    def transform(self, x: Tensor) -> Tensor:
        return self.positions.product(x, self.living(), self.bias)

    def onnx_node(self, x: Tensor) -> Tensor:
        y = sparse_node(x, self.positions, self.living())
        return y if self.bias is None else y + self.bias

    def onnx_functions(self) -> list[onnx.FunctionProto]:
        return sparse_functions(self.positions)

    def macs(self) -> int:
        """Those of a sparse product: one for each value."""
        return len(self.values)

    def penalty(self) -> Tensor | None:
        return self.config.regulariser * self.living().abs().sum() if self.config.regulariser else None

    def anneal(self, done: float) -> None:
        """Drop the smallest of the living (times the spread of their inputs) down to what the schedule leaves."""
        if self.alive is None or self.is_settled:
            return
        least, held = self._count(), len(self.alive)
        left = max(0.0, 1 - done / _PRUNED_BY) ** 3
        stay = least + round(left * (held - least))
        due = int(self.alive.sum()) - stay
        if due >= max(1, held // 100) or (due > 0 and stay == least):
            self.alive.copy_(self._most_alive(stay))

    @property
    def is_settled(self) -> bool:
        return self.alive is None or int(self.alive.sum()) <= self._count()

    def finished(self) -> StructuredLayer:
        if self.alive is None:
            return self
        mask = self.positions.mask(self._most_alive(self._count()))
        weight = self.positions.scatter(self.living().detach())
        config = self.config.model_copy(update={"iterative": False, "start": None})
        return self._of(mask, weight, self.bias, config)

    def _count(self) -> int:
        """How many vectors stay in the end."""
        count = self.config.count_for(self.in_features, self.out_features)
        return vectors_of(self.out_features, count, self.config.block_for(self.out_features))

    @torch.no_grad()
    def _most_alive(self, count: int) -> Tensor:
        assert self.alive is not None
        assert self.scale is not None
        norms = self.values.reshape(-1, self.positions.block).norm(dim=1)
        scores = norms * self.scale[self.positions.columns.long()]
        return largest_entries(torch.where(self.alive, scores, -1.0), count)

    @classmethod
    def _of(cls, mask: Tensor, weight: Tensor, bias: Tensor | None, config: PrunedConfig) -> Self:
        """The layer of ``config`` that keeps the vectors of ``weight`` where ``mask`` is true."""
        out_features, in_features = weight.shape
        with torch.device(weight.device):
            layer = cls(in_features, out_features, bias=bias is not None, config=config).to(weight.dtype)
        with torch.no_grad():
            layer.positions.set(mask)
            layer.values.copy_(layer.positions.gather(weight))
            if layer.bias is not None and bias is not None:
                layer.bias.copy_(bias)
        return layer

    @classmethod
    def from_sparse(cls, weight: Tensor, bias: Tensor | None) -> Self:
        """The layer that keeps exactly the entries of ``weight (out, in)`` that are not zero, and ``bias (out,)``."""
        mask = weight.detach() != 0
        return cls._of(mask, weight.detach(), bias, PrunedConfig(count=int(mask.sum())))

    @classmethod
    def from_dense(cls, weight: Tensor, bias: Tensor | None, config: Any, metric: Metric) -> Self:
        out_features, in_features = weight.shape
        size, count = weight.numel(), config.count_for(in_features, out_features)
        if config.iterative and config.start is None:
            config = config.model_copy(update={"start": math.ceil(math.sqrt(count * size))})
        block = config.block_for(out_features)
        held = vectors_of(out_features, config.start_for(in_features, out_features), block)
        if config.uses_metric:
            mask, found = best_subset(weight, metric, held, block)
        else:
            mask, found = largest_vectors(weight.detach(), held, block), weight.detach()
        layer = cls._of(mask, found.to(weight.dtype), bias, config)
        with torch.no_grad():
            if layer.scale is not None and config.uses_metric:
                layer.scale.copy_(metric.covariance.diagonal().clamp_min(0).sqrt())
            if layer.bias is not None:
                layer.bias.copy_(wanted_offset(layer, weight, bias, metric))
        return layer

    def fit_samples(self, x: Tensor, y: Tensor) -> float:
        count = self.config.start_for(self.in_features, self.out_features)
        near = {"count": count, "iterative": False, "start": None}  # without what drops values later
        return fit_from_dense(self, x, y, near=self.config.model_copy(update=near))

    @classmethod
    def config_for_params(cls, in_features: int, out_features: int, bias: bool, params: int, base: Any) -> Any:
        block = base.block_for(out_features)
        rows = block_rows(out_features, block)
        vectors = (params - rows - (out_features if bias else 0)) // (block + 1)
        count = vectors * out_features // rows
        return base.model_copy(update={"count": max(1, min(count, in_features * out_features)), "start": None})

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [
            {"density": 0.3},
            {"density": 0.3, "criterion": "magnitude"},
            {"density": 0.25, "iterative": True, "regulariser": 1e-4},
            {"density": 0.35, "block": 4},
            {"density": 0.35, "block": 3, "criterion": "magnitude", "iterative": True},
        ]
