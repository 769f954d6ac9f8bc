"""Fastfood: ``ŷ = S H G Π H B x``, diagonals between Walsh–Hadamard transforms (Le et al. 2013; Moczulski 2019, 3.9.2).

H is Walsh–Hadamard in natural order on d = 2^p ≥ in, Π a fixed permutation; ⌈n / d⌉ independent blocks are stacked
and cut to n features. Everything is times ``1/(σ√d)``, so that at the start each row is like one of a Gaussian
matrix with standard deviation 1/σ. Three uses:

- ``linear``: stands for one dense map; ``terms`` > 1 adds that many such maps (n = terms · out).
- ``relu`` and ``rbf``: n features and a dense read-out of them. Not ``adaptive``: B, G and S are drawn once and kept
  (eq. 3.16, 3.22).

Stored: ``B`` and ``G`` ``(blocks, d)``, ``S`` ``(n,)`` (3n numbers where d divides n), the read-out, a seed.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from compressor.layers import seeded
from compressor.layers.base import LayerConfig, Metric, ParameterKind, register
from compressor.layers.features import FeatureConfig, FeatureLayer
from compressor.layers.onnx_fastfood import fastfood_functions, fastfood_node
from compressor.layers.sizes import power_of_two
from compressor.layers.solve import fit_linear
from compressor_kernels import dispatch

if TYPE_CHECKING:
    import onnx

_B, _G, _S, _PERMUTATION = 20, 11, 12, 21  # streams of the seed (normals take two each: 22 to 25)


class FastfoodConfig(FeatureConfig):
    """What the features are, how many, and how they are read out."""

    grows_by: ClassVar[str] = "terms"

    terms: int = Field(1, ge=1, description="linear: how many Fastfood maps are added")
    dropout: float = Field(0.0, ge=0, lt=1, description="while training: before B, after the permutation and after S")

    @model_validator(mode="after")
    def _terms_are_linear(self) -> Self:
        if self.features != "linear" and self.terms > 1:
            raise ValueError("terms is for features=linear; relu and rbf grow by width")
        return self

    def width_for(self, in_features: int, out_features: int) -> int:
        """n, the number of products of the transform."""
        return self.terms * super().width_for(in_features, out_features)


@register(
    "fastfood",
    source="Le et al. 2013; Moczulski 2019, 3.9.2 (Adaptive Fastfood)",
    presets={"fastfood-random": {"adaptive": False, "features": "relu"}},
)
class Fastfood(FeatureLayer):
    """Fastfood: diagonals and a permutation between Walsh–Hadamard transforms, linear or as features."""

    Config: ClassVar[type[LayerConfig]] = FastfoodConfig
    config: FastfoodConfig

    d: int
    B: Tensor
    G: Tensor
    S: Tensor
    permutation: Tensor

    def make_parameters(self) -> None:
        c = self.config
        self.make_readout()
        self.d = d = power_of_two(self.in_features)
        n = self.width
        blocks = math.ceil(n / d)
        for name, values in _diagonals(c.seed, blocks, d, n).items():
            self.register_drawn(name, values)
        self.register_buffer("permutation", seeded.permutations(c.seed, _PERMUTATION, blocks, d), persistent=False)

    def kind(self, name: str) -> ParameterKind:
        return "diagonal" if name in ("B", "G", "S") else super().kind(name)

    def transform(self, x: Tensor) -> Tensor:
        if self.is_linear and self.config.terms == 1 and not self._drops:
            return self._fused(x, "linear", self.own("bias"))
        return super().transform(x)

    def products(self, x: Tensor) -> Tensor:
        return self._products_in_steps(x) if self._drops else self._fused(x, "linear")

    def features(self, x: Tensor) -> Tensor:
        return self.bend(self._products_in_steps(x)) if self._drops else self._fused(x, self.config.features)

    def _fused(self, x: Tensor, features: str, bias: Tensor | None = None) -> Tensor:
        fixed: dict[str, Any] = self._buffers
        B, G, S = (self.own(name) if self.config.adaptive else fixed[name] for name in "BGS")
        return dispatch.fastfood(x, B, fixed["permutation"], G, S, scale=self.scale, features=features, bias=bias)

    @property
    def _drops(self) -> bool:
        return self.training and self.config.dropout > 0

    def _products_in_steps(self, x: Tensor) -> Tensor:
        """With dropout between the steps."""
        h = nn.functional.pad(self._dropped(x), (0, self.d - self.in_features)).unsqueeze(-2)  # (..., 1, d)
        h = dispatch.fwht(h * self.B)  # (..., blocks, d)
        h = torch.stack([h[..., m, :].index_select(-1, p.long()) for m, p in enumerate(self.permutation)], -2)
        h = dispatch.fwht(self._dropped(h) * self.G).flatten(-2)[..., : self.width]
        return self._dropped(h * self.scaled_s())

    def _dropped(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x, self.config.dropout, self.training)

    @property
    def scale(self) -> float:
        """``1 / (σ√d)``: S itself is kept near 1, so that all diagonals train at one rate."""
        return 1 / (self.config.sigma * math.sqrt(self.d))

    def scaled_s(self) -> Tensor:
        """``S / (σ√d)``, ``(n,)``."""
        return self.S * self.scale

    def read(self, features: Tensor) -> Tensor:
        """``(..., n or 2n) -> (..., out)``: the read-out, or the sum of the terms, and the bias."""
        if self.is_linear and self.config.terms > 1:
            features = features.reshape(*features.shape[:-1], self.config.terms, self.out_features).sum(-2)
        return super().read(features)

    def onnx_node(self, x: Tensor) -> Tensor:
        features = fastfood_node(
            x,
            self.B,
            self.permutation,
            self.G,
            self.scaled_s(),
            features=self.config.features,
            width=self.width,
        )
        return self.read(features)

    def onnx_functions(self) -> list[onnx.FunctionProto]:
        blocks, d = self.B.shape
        return fastfood_functions(self.in_features, d=d, blocks=blocks, width=self.width, features=self.config.features)

    def macs(self) -> int:
        """Additions of a transform count half; three diagonals; the read-out."""
        bits = self.d.bit_length() - 1
        return self.B.numel() * (bits + 2) + self.width + self.readout_macs()

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [
            {},
            {"terms": 3, "seed": 5},
            {"features": "relu", "width": 37, "sigma": 2.0},
            {"features": "rbf", "width": 16, "readout_rank": 2},
            {"features": "relu", "adaptive": False},
        ]

    def fit_map(self, weight: Tensor, metric: Metric) -> None:
        fit_linear(self, weight, metric, order=3)


def _diagonals(seed: int, blocks: int, d: int, n: int) -> dict[str, Tensor]:
    """``B = ±1``, ``G ~ N(0, 1)``, ``S = s / ‖G‖_F`` with ``s ~ χ(d)`` (Le et al. 2013), float of the default type."""
    g = seeded.normals(seed, _G, (blocks, d))
    s = seeded.chi(seed, _S, (blocks, d), d) / g.norm(dim=1, keepdim=True)
    like = torch.empty(0)
    return {
        "B": seeded.signs(seed, _B, (blocks, d)).to(like),
        "G": g.to(like),
        "S": s.flatten()[:n].to(like, copy=True),
    }
