"""AFDF: a cascade of complex diagonals between Fourier transforms (Moczulski 2019, 3.10.4, eq. 3.26).

``y = Re(x Π_k A_k F D_k F⁻¹)``, F the unitary Fourier transform: the complex layer that ACDC is the real version of.
At order N such products come as near as one likes to every complex matrix (ibid., after Huhtanen and Perämäki).
The input is zero-padded to N, the first ``out`` real parts are kept.

Stored: ``a, d (K, 2, N)``, real and imaginary parts: 4NK numbers, and the bias.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from compressor.layers import seeded
from compressor.layers.base import LayerConfig, Metric, ParameterKind, register
from compressor.layers.fitted import FittedLayer
from compressor.layers.onnx_fourier import afdf_functions, afdf_node
from compressor.layers.sizes import smooth_size
from compressor.layers.solve import fit_linear
from compressor_kernels import dispatch

if TYPE_CHECKING:
    import onnx

_A, _D = 102, 103  # streams of the seed (normals take two each: 204 to 207)


class AFDFConfig(LayerConfig):
    """Depth and start of the cascade."""

    depth: int = Field(2, ge=1, description="K, members of the cascade")
    size: int | None = Field(None, ge=1, description="N; none: the next even size with no prime factor above 7")
    sigma: float = Field(0.1, ge=0, description="diagonals start as 1 plus normals of this size, real and imaginary")
    seed: int = Field(0, ge=0, description="of the start")


@register("afdf", source="Moczulski 2019, 3.10.4 (AFDF)")
class AFDF(FittedLayer):
    """AFDF: a cascade of trained complex diagonals between Fourier transforms."""

    Config: ClassVar[type[LayerConfig]] = AFDFConfig
    config: AFDFConfig

    size: int

    def make_parameters(self) -> None:
        c = self.config
        self.size = n = smooth_size(self.method, self.in_features, self.out_features, c.size)
        one = torch.tensor([[1.0], [0.0]], dtype=torch.float64)
        a, d = (one + c.sigma * seeded.normals(c.seed, purpose, (c.depth, 2, n)) for purpose in (_A, _D))
        self.a = nn.Parameter(a.to(torch.get_default_dtype()))
        self.d = nn.Parameter(d.to(torch.get_default_dtype()))
        self.bias = nn.Parameter(torch.zeros(self.out_features)) if self.has_bias else None

    def kind(self, name: str) -> ParameterKind:
        return "diagonal" if name in ("a", "d") else super().kind(name)

    def transform(self, x: Tensor) -> Tensor:
        return dispatch.afdf(x, self.a, self.d, self.bias, self.out_features)

    def onnx_node(self, x: Tensor) -> Tensor:
        y = afdf_node(x, self.a, self.d, out_features=self.out_features)
        return y if self.bias is None else y + self.bias

    def onnx_functions(self) -> list[onnx.FunctionProto]:
        return afdf_functions(self.in_features, self.out_features, size=self.size, depth=self.config.depth)

    def macs(self) -> int:
        """Two complex transforms of ``5/2 N log₂N`` and two complex diagonals a member."""
        return math.ceil(self.config.depth * (5 * self.size * math.log2(self.size) + 8 * self.size))

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{}, {"depth": 1, "size": 71, "sigma": 0.3, "seed": 7}]

    def fit_map(self, weight: Tensor, metric: Metric) -> None:
        fit_linear(self, weight, metric, order=2 * self.config.depth)

    @classmethod
    def config_for_params(cls, in_features: int, out_features: int, bias: bool, params: int, base: Any) -> Any:
        member = 4 * smooth_size(cls.method, in_features, out_features, base.size)
        return base.model_copy(update={"depth": max(1, (params - bias * out_features) // member)})
