"""Fastfood: ``ŷ = S H G Π H B x``, diagonals between Walsh–Hadamard transforms (Le et al. 2013; Moczulski 2019, 3.9.2).

H is Walsh–Hadamard in natural order on d = 2^p ≥ in, Π a fixed permutation; ⌈n / d⌉ independent blocks are stacked
and cut to n features. Everything is times ``1/(σ√d)``, so that at the start each row is like one of a Gaussian
matrix with standard deviation 1/σ. Three uses:

- ``linear``: stands for one dense map; ``terms`` > 1 adds that many such maps (n = terms · out).
- ``relu`` (arc-cosine kernel) and ``rbf`` (``√(1/n) [cos, sin]``): n features and a dense read-out of them; stands for
  a window of several layers. Not ``adaptive``: B, G and S are drawn once and kept (eq. 3.16, 3.22), only the
  read-out is trained.

Stored: ``B`` and ``G`` ``(blocks, d)``, ``S`` ``(n,)`` (3n numbers where d divides n), the read-out, a seed.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from compressor.layers import seeded
from compressor.layers.base import LayerConfig, Metric, ParameterKind, StructuredLayer, largest, register
from compressor.layers.onnx_fastfood import fastfood_functions, fastfood_node
from compressor.layers.sizes import power_of_two
from compressor.layers.solve import fit_linear, fit_to_samples, linear_aim, ridge, wanted_offset
from compressor_kernels import dispatch

if TYPE_CHECKING:
    import onnx

_B, _G, _S, _PERMUTATION = 20, 11, 12, 21  # streams of the seed (normals take two each: 22 to 25)
_RIDGE_ROWS = 4096


class FastfoodConfig(LayerConfig):
    """What the features are, how many, and how they are read out."""

    adaptive: bool = Field(True, description="train B, G and S; false: random features, only the read-out is trained")
    features: Literal["linear", "relu", "rbf"] = Field(
        "linear", description="relu, rbf: for a window of several layers"
    )
    width: int | None = Field(None, ge=1, description="features of relu and rbf; none: the power of two from in up")
    readout_rank: int | None = Field(None, ge=1, description="factor the read-out of relu and rbf in two")
    terms: int = Field(1, ge=1, description="linear: how many Fastfood maps are added")
    dropout: float = Field(0.0, ge=0, lt=1, description="while training: before B, after the permutation and after S")
    sigma: float = Field(1.0, gt=0, description="rows start with standard deviation 1/sigma")
    seed: int = Field(0, ge=0, description="of the permutation and the draws")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.features == "linear":
            if not self.adaptive:
                raise ValueError("adaptive=false leaves a linear map nothing to learn; set features=relu or rbf")
            if self.width is not None or self.readout_rank is not None:
                raise ValueError("width and readout_rank are for features=relu or rbf; linear grows by terms")
        elif self.terms > 1:
            raise ValueError("terms is for features=linear; relu and rbf grow by width")
        return self

    def width_for(self, in_features: int, out_features: int) -> int:
        """n, the number of products of the transform."""
        if self.features == "linear":
            return self.terms * out_features
        return power_of_two(in_features) if self.width is None else self.width


@register(
    "fastfood",
    source="Le et al. 2013; Moczulski 2019, 3.9.2 (Adaptive Fastfood)",
    presets={"fastfood-random": {"adaptive": False, "features": "relu"}},
)
class Fastfood(StructuredLayer):
    """Fastfood: diagonals and a permutation between Walsh–Hadamard transforms, linear or as features."""

    Config: ClassVar[type[LayerConfig]] = FastfoodConfig
    config: FastfoodConfig

    d: int
    width: int
    B: Tensor
    G: Tensor
    S: Tensor
    permutation: Tensor

    def make_parameters(self) -> None:
        c = self.config
        self.d = d = power_of_two(self.in_features)
        self.width = n = c.width_for(self.in_features, self.out_features)
        blocks = math.ceil(n / d)
        for name, values in _diagonals(c.seed, blocks, d, n).items():
            if c.adaptive:
                self.register_parameter(name, nn.Parameter(values))
            else:
                self.register_buffer(name, values, persistent=False)
        self.register_buffer("permutation", seeded.permutations(c.seed, _PERMUTATION, blocks, d), persistent=False)
        inputs = 2 * n if c.features == "rbf" else n
        if c.features == "linear":
            self.readout, self.readout_down = None, None
        elif c.readout_rank is None:
            self.readout, self.readout_down = _matrix(self.out_features, inputs), None
        else:
            self.readout = _matrix(self.out_features, c.readout_rank)
            self.readout_down = _matrix(c.readout_rank, inputs)
        self.bias = nn.Parameter(torch.zeros(self.out_features)) if self.has_bias else None

    @property
    def is_linear(self) -> bool:
        return self.config.features == "linear"

    @property
    def has_readout(self) -> bool:
        return not self.is_linear

    @property
    def seeds(self) -> int:
        return 1

    def kind(self, name: str) -> ParameterKind:
        return "diagonal" if name in ("B", "G", "S") else super().kind(name)

    def features(self, x: Tensor) -> Tensor:
        """``(..., in) -> (..., n)``, 2n for rbf: the products, through the nonlinearity if there is one."""
        h = nn.functional.pad(self._dropped(x), (0, self.d - self.in_features)).unsqueeze(-2)  # (..., 1, d)
        h = dispatch.fwht(h * self.B)  # (..., blocks, d)
        h = torch.stack([h[..., m, :].index_select(-1, p.long()) for m, p in enumerate(self.permutation)], -2)
        h = dispatch.fwht(self._dropped(h) * self.G).flatten(-2)[..., : self.width]
        h = self._dropped(h * self.scaled_s())
        if self.config.features == "relu":
            return h.relu()
        if self.config.features == "rbf":
            return torch.cat((h.cos(), h.sin()), -1) * math.sqrt(1 / self.width)
        return h

    def _dropped(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x, self.config.dropout, self.training)

    def scaled_s(self) -> Tensor:
        """``S / (σ√d)``, ``(n,)``: S itself is kept near 1, so that all diagonals train at one rate."""
        return self.S * (1 / (self.config.sigma * math.sqrt(self.d)))

    def read(self, features: Tensor) -> Tensor:
        """``(..., n or 2n) -> (..., out)``: the read-out, or the sum of the terms, and the bias."""
        if self.readout is None:
            y = features.reshape(*features.shape[:-1], self.config.terms, self.out_features).sum(-2)
            return y if self.bias is None else y + self.bias
        if self.readout_down is not None:
            features = nn.functional.linear(features, self.readout_down)
        return nn.functional.linear(features, self.readout, self.bias)

    def transform(self, x: Tensor) -> Tensor:
        return self.read(self.features(x))

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
        readout = sum(matrix.numel() for matrix in (self.readout, self.readout_down) if matrix is not None)
        return self.B.numel() * (bits + 2) + self.width + readout

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [
            {},
            {"terms": 3, "seed": 5},
            {"features": "relu", "width": 37, "sigma": 2.0},
            {"features": "rbf", "width": 16, "readout_rank": 2},
            {"features": "relu", "adaptive": False},
        ]

    @classmethod
    def from_dense(cls, weight: Tensor, bias: Tensor | None, config: Any, metric: Metric) -> Self:
        out_features, in_features = weight.shape
        layer = cls(in_features, out_features, bias=bias is not None, config=config).to(weight.dtype)
        layer._fit_map(weight, bias, metric)
        return layer

    def _fit_map(self, weight: Tensor, bias: Tensor | None, metric: Metric) -> None:
        fit_linear(self, weight, metric, order=3)
        if self.bias is not None:
            with torch.no_grad():
                self.bias.copy_(wanted_offset(self, weight, bias, metric))

    def fit_samples(self, x: Tensor, y: Tensor) -> float:
        if self.has_readout:
            self._fit_readout(x[:_RIDGE_ROWS], y[:_RIDGE_ROWS])
        else:
            self._fit_map(*linear_aim(x, y, has_bias=self.has_bias))
        return fit_to_samples(self, x, y)

    @torch.no_grad()
    def _fit_readout(self, x: Tensor, y: Tensor) -> None:
        """The best read-out of the features as they are: ridge, cut to its rank in the metric of the features."""
        assert self.readout is not None
        f = self.features(x).double()
        f_mean = f.mean(0) if self.bias is not None else torch.zeros_like(f[0])
        y_mean = y.double().mean(0) if self.bias is not None else torch.zeros_like(y[0]).double()
        matrix = ridge(f - f_mean, y - y_mean)  # (features, out)
        if self.readout_down is None:
            self.readout.copy_(matrix.T)
        else:
            v = torch.linalg.svd((f - f_mean) @ matrix, full_matrices=False)[2][: len(self.readout_down)]  # (r, out)
            self.readout.zero_()[:, : len(v)] = v.T
            self.readout_down[: len(v)] = (matrix @ v.T).T
            matrix = matrix @ v.T @ v
        if self.bias is not None:
            self.bias.copy_(y_mean - f_mean @ matrix)

    @classmethod
    def config_for_params(cls, in_features: int, out_features: int, bias: bool, params: int, base: Any) -> Any:
        size = "terms" if base.features == "linear" else "width"

        def with_size(value: int) -> Any:
            return base.model_copy(update={size: value})

        # each term or feature stores at least one number
        return largest(cls, (in_features, out_features), bias, params, with_size, params)


def _matrix(rows: int, columns: int) -> nn.Parameter:
    parameter = nn.Parameter(torch.empty(rows, columns))
    nn.init.kaiming_uniform_(parameter, a=math.sqrt(5))
    return parameter


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
