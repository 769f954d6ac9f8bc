"""Sparse FC: ``W = Λ ⊙ K(u_i, v_j)`` with a kernel of finite support, ``K = max(0, 1 − ‖u − v‖²)``.

Müller, Martel, Indiveri 2018, 2.3.2, eq. 7, 16 and 17; the distance is that of the authors' code. Λ ``(out, in)`` is
as large as W; places ``u (in, d)``, ``v (out, d)`` say where W is not zero. The loss takes ``λ₂ ΣΛ² + λ₀ ΣK²`` (eq. 8);
λ₀ grows from 0 while the network trains. Nothing is saved until then: `finished` drops the zeros.

From scratch all places start next to each other, and K near 1. The fit of a dense layer: places such that the weights
that matter, ``|W| Σ_ii^½``, lie within reach, exactly ``count`` of them; their values by least squares in the metric.
Weights without one of these places stay zero from then on (``held``).
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from compressor.layers import seeded
from compressor.layers.base import LayerConfig, Metric, StructuredLayer, register
from compressor.layers.fitted import FittedLayer, fit_from_dense
from compressor.layers.nearness import nearness
from compressor.layers.positions import count_of
from compressor.layers.pruned import Pruned
from compressor.layers.semidefinite import unit_covariance
from compressor.layers.subset import largest_entries, refit
from compressor.layers.truncation import factors

_U, _V = 103, 104  # streams of the seed (normals take two each: 206 to 209)
_NEAR = 1e-3  # standard deviation of the places at the start (the authors')
_LEAST = 0.1  # value of the kernel at the farthest weight that the fit keeps
_GROWN_BY = 0.5  # share of the training after which λ₀ is whole


class SparseFCConfig(LayerConfig):
    """How many weights the fit keeps, and what drives more of them to zero."""

    density: float = Field(0.1, gt=0, le=1, description="share of the weights that the fit of a dense layer keeps")
    count: int | None = Field(None, ge=1, description="weights kept, in place of density")
    d: int = Field(5, ge=1, description="coordinates of a place")
    l2: float = Field(0.0, ge=0, description="λ₂, of ΣΛ² in the loss (the authors' 60 is for a sum over all ratings)")
    l0: float = Field(0.0, ge=0, description="λ₀, of ΣK² in the loss, which thins the support (the authors': 0.013)")
    held: bool = Field(False, description="which weights may not be zero is fixed, and stored; set by the fit")
    seed: int = Field(0, ge=0, description="of the start")

    def count_for(self, in_features: int, out_features: int) -> int:
        """How many weights the fit keeps."""
        return count_of("sparse_fc", in_features, out_features, self.density, self.count)


@register("sparse_fc", source="Müller, Martel, Indiveri 2018, 2.3.2, eq. 7, 8, 16, 17")
class SparseFC(FittedLayer):
    """Sparse FC: free weights times a kernel of finite support; pruned once trained."""

    Config: ClassVar[type[LayerConfig]] = SparseFCConfig
    config: SparseFCConfig

    alive: Tensor | None

    def make_parameters(self) -> None:
        c, like = self.config, torch.get_default_dtype()
        self.factors = nn.Parameter(torch.empty(self.out_features, self.in_features))
        nn.init.kaiming_uniform_(self.factors, a=math.sqrt(5))
        self.u = nn.Parameter((_NEAR * seeded.normals(c.seed, _U, (self.in_features, c.d))).to(like))
        self.v = nn.Parameter((_NEAR * seeded.normals(c.seed, _V, (self.out_features, c.d))).to(like))
        self.bias = nn.Parameter(torch.zeros(self.out_features)) if self.has_bias else None
        alive = torch.ones(self.out_features, self.in_features, dtype=torch.bool) if c.held else None
        self.register_buffer("alive", alive)
        self._grown = 0.0

    @property
    def is_sized(self) -> bool:
        return False

    def kernel(self) -> Tensor:
        """K ``(out, in)``, 0 where a weight may not be."""
        k = nearness(self.u, self.v, 1.0).relu()
        return k if self.alive is None else k * self.alive

    def weight(self) -> Tensor:
        """W ``(out, in)``."""
        return self.factors * self.kernel()

    def transform(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight(), self.bias)

    def macs(self) -> int:
        """Those of the dense map; of what is left of it once `finished`."""
        return self.in_features * self.out_features

    def penalty(self) -> Tensor | None:
        c = self.config
        if not (c.l2 or c.l0):
            return None
        return c.l2 * self.factors.square().sum() + c.l0 * self._grown * self.kernel().square().sum()

    def anneal(self, done: float) -> None:
        """λ₀ grows evenly."""
        self._grown = min(1.0, done / _GROWN_BY)

    @property
    def is_settled(self) -> bool:
        return self._grown == 1 or not self.config.l0

    def finished(self) -> StructuredLayer:
        """The weights that are not zero, in sparse rows; all else of no more use is dropped."""
        weight = self.weight().detach()
        return Pruned.from_sparse(weight, None if self.bias is None else self.bias.detach()).train(self.training)

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{"density": 0.4}, {"density": 0.5, "d": 2, "l2": 1e-3, "l0": 1e-3, "held": True}]

    @classmethod
    def from_dense(cls, weight: Tensor, bias: Tensor | None, config: Any, metric: Metric) -> Self:
        return super().from_dense(weight, bias, config.model_copy(update={"held": True}), metric)

    @torch.no_grad()
    def fit_map(self, weight: Tensor, metric: Metric) -> None:
        w = weight.double()
        size = metric.covariance.diagonal().double().clamp_min(0).sqrt()
        mask = self._place(w.abs() * size)
        k = self.kernel().double()
        values = refit(w, unit_covariance(metric), mask)
        self.factors.copy_(torch.where(mask, values / torch.where(mask, k, 1.0), 0.0))

    def _place(self, importance: Tensor) -> Tensor:
        """Set the places, and give the mask of the ``count`` weights that they bring together, ``(out, in)``.

        Of several proposals, the one whose mask holds most of ``importance (out, in)``, squared.
        """
        count = self.config.count_for(self.in_features, self.out_features)
        masks = []
        for v, u in self._proposals(importance, count):
            distance = torch.cdist(v, u, compute_mode="donot_use_mm_for_euclid_dist")
            mask = largest_entries(-distance, count)
            masks.append((float((importance * mask).square().sum()), mask, float(distance[mask].max()), v, u))
        _, mask, farthest, v, u = max(masks, key=lambda found: found[0])
        scale = math.sqrt(1 - _LEAST) / farthest if farthest > 0 else 1.0
        self.v.copy_(v * scale)
        self.u.copy_(u * scale)
        if self.alive is not None:
            self.alive.copy_(mask)
        return mask

    def _proposals(self, importance: Tensor, count: int) -> list[tuple[Tensor, Tensor]]:
        """``v (out, d)``, ``u (in, d)``: near to each other where the importance is large.

        Drawn; by the distances that the importance would ask for; by products instead, on spheres, where the larger
        product is the smaller distance.
        """
        d = self.config.d
        drawn = (self.v.double(), self.u.double())
        enough = float(importance.flatten().topk(count).values[-1])
        wanted = 1 - (importance / enough).clamp_max(1) if enough > 0 else torch.ones_like(importance)
        centred = wanted - wanted.mean(0) - wanted.mean(1, keepdim=True) + wanted.mean()
        proposals = [drawn, factors(-centred / 2, d)]
        if d > 2:
            proposals.append(_on_spheres(*factors(-wanted, d - 2)))
        return proposals

    def fit_samples(self, x: Tensor, y: Tensor) -> float:
        return fit_from_dense(self, x, y, near=self.config)  # which weights are held is stored there in any case

    @classmethod
    def config_for_params(cls, in_features: int, out_features: int, bias: bool, params: int, base: Any) -> Any:
        """Of the finished layer, that is, of what `Pruned` stores."""
        pruned = Pruned.config_for_params(in_features, out_features, bias, params, Pruned.Config())
        return base.model_copy(update={"count": pruned.count})


def _on_spheres(v: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Two coordinates more, so that all v are equally long and all u: ``‖u − v‖² = constant − 2 u·v``."""

    def rest(places: Tensor) -> Tensor:
        lengths = places.square().sum(1, keepdim=True)
        return (lengths.max() - lengths).sqrt()

    a, b = rest(v), rest(u)
    return torch.cat((v, a, torch.zeros_like(a)), 1), torch.cat((u, torch.zeros_like(b), b), 1)
