"""Layers that are n fast products of the input: as a linear map, or through a nonlinearity and a dense read-out.

Three uses share all but the products (Moczulski 2019, 3.9):

- ``linear``: stands for one dense map;
- ``relu`` (arc-cosine kernel, eq. 3.6 to 3.8) and ``rbf`` (``√(1/n) [cos, sin]``, eq. 3.17): features and a dense
  read-out of them; stands for a window of several layers. Not ``adaptive``: the products are drawn once and kept,
  only the read-out is trained.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from compressor.layers.base import LayerConfig, largest
from compressor.layers.fitted import FittedLayer
from compressor.layers.sizes import power_of_two
from compressor.layers.solve import fit_to_samples, ridge
from compressor_kernels.reference import bend

_RIDGE_ROWS = 4096


class FeatureConfig(LayerConfig):
    """What the features are, how many, and how they are read out."""

    grows_by: ClassVar[str]  # the setting that makes a linear layer larger

    adaptive: bool = Field(True, description="train the products; false: random features, only the read-out is trained")
    features: Literal["linear", "relu", "rbf"] = Field(
        "linear", description="relu, rbf: for a window of several layers"
    )
    width: int | None = Field(None, ge=1, description="features of relu and rbf; none: the power of two from in up")
    readout_rank: int | None = Field(None, ge=1, description="factor the read-out of relu and rbf in two")
    sigma: float = Field(1.0, gt=0, description="rows start with standard deviation 1/sigma")
    seed: int = Field(0, ge=0, description="of all that is drawn")

    @model_validator(mode="after")
    def _linear_or_features(self) -> Self:
        if self.features == "linear":
            if not self.adaptive:
                raise ValueError("adaptive=false leaves a linear map nothing to learn; set features=relu or rbf")
            if self.width is not None or self.readout_rank is not None:
                grows = f"linear grows by {self.grows_by}"
                raise ValueError(f"width and readout_rank are for features=relu or rbf; {grows}")
        return self

    def width_for(self, in_features: int, out_features: int) -> int:
        """n, the number of products."""
        if self.features == "linear":
            return out_features
        return power_of_two(in_features) if self.width is None else self.width

    def most_for(self, in_features: int) -> int | None:
        """Where `grows_by` has an end, in a layer of so many inputs."""
        return None


class FeatureLayer(FittedLayer):
    """What such layers share: the read-out, its closed form, and the linear use beside it."""

    config: FeatureConfig

    width: int

    def make_readout(self) -> None:
        """``width``, the read-out of relu and rbf in one matrix or two, and the bias: part of `make_parameters`."""
        c = self.config
        self.width = n = c.width_for(self.in_features, self.out_features)
        inputs = 2 * n if c.features == "rbf" else n
        if c.features == "linear":
            self.readout, self.readout_down = None, None
        elif c.readout_rank is None:
            self.readout, self.readout_down = _matrix(self.out_features, inputs), None
        else:
            self.readout = _matrix(self.out_features, c.readout_rank)
            self.readout_down = _matrix(c.readout_rank, inputs)
        self.bias = nn.Parameter(torch.zeros(self.out_features)) if self.has_bias else None

    def register_drawn(self, name: str, values: Tensor) -> None:
        """``values`` drawn from the seed as ``name``: trained where the layer is adaptive, else kept and not stored."""
        if self.config.adaptive:
            self.register_parameter(name, nn.Parameter(values))
        else:
            self.register_buffer(name, values, persistent=False)

    @abstractmethod
    def products(self, x: Tensor) -> Tensor:
        """``(..., in) -> (..., n)``, linear in x, without a bias."""

    @property
    def is_linear(self) -> bool:
        return self.config.features == "linear"

    @property
    def has_readout(self) -> bool:
        return not self.is_linear

    @property
    def seeds(self) -> int:
        return 1

    def features(self, x: Tensor) -> Tensor:
        """``(..., in) -> (..., n)``, 2n for rbf: the products, through the nonlinearity if there is one."""
        return self.bend(self.products(x))

    def bend(self, products: Tensor) -> Tensor:
        """The nonlinearity, ``(..., n) -> (..., n or 2n)``."""
        return bend(products, self.config.features)

    def read(self, features: Tensor) -> Tensor:
        """``(..., n or 2n) -> (..., out)``: the read-out if there is one, and the bias."""
        down, readout, bias = self.own("readout_down"), self.own("readout"), self.own("bias")
        if down is not None:
            features = nn.functional.linear(features, down)
        if readout is not None:
            return nn.functional.linear(features, readout, bias)
        return features if bias is None else features + bias

    def transform(self, x: Tensor) -> Tensor:
        return self.read(self.features(x))

    def readout_macs(self) -> int:
        """Multiply-adds of the read-out."""
        return sum(matrix.numel() for matrix in (self.readout, self.readout_down) if matrix is not None)

    def fit_samples(self, x: Tensor, y: Tensor) -> float:
        if not self.has_readout:
            return super().fit_samples(x, y)
        self._fit_readout(x[:_RIDGE_ROWS], y[:_RIDGE_ROWS])
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
        size = base.grows_by if base.features == "linear" else "width"

        def with_size(value: int) -> Any:
            return base.model_copy(update={size: value})

        end = base.most_for(in_features) if base.features == "linear" else None
        most = params if end is None else min(params, end)  # each one stores at least one number
        return largest(cls, (in_features, out_features), bias, params, with_size, most)


def _matrix(rows: int, columns: int) -> nn.Parameter:
    parameter = nn.Parameter(torch.empty(rows, columns))
    nn.init.kaiming_uniform_(parameter, a=math.sqrt(5))
    return parameter
