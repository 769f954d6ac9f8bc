"""ACDC: a cascade of diagonals between cosine transforms (Moczulski 2019, 3.10, eq. 3.26 and 3.27).

``y = ((x ⊙ a) C ⊙ d + β) Cᵀ``, K times, with C the orthonormal DCT-II, or the separable ``C_n1 ⊗ C_n2``; between
neighbours a fixed permutation and, where the cascade stands for several layers, a ReLU. 3NK numbers and a seed;
2NK + N(K − 1) with a₁ fixed at 1.

Between other sizes than N: ``ends=pad`` zero-pads the input and keeps the first ``out`` outputs; ``ends=scatter``, the
scaled rectangular permutation, puts the inputs at random positions, takes the outputs from others, and scales them by a
diagonal of ``out`` more numbers.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from compressor.layers import seeded
from compressor.layers.base import LayerConfig, Metric, ParameterKind, largest, register
from compressor.layers.fitted import FittedLayer
from compressor.layers.onnx_dct import acdc_functions, acdc_node
from compressor.layers.sizes import smooth_size
from compressor.layers.solve import fit_linear, fit_to_samples
from compressor_kernels import dispatch
from compressor_kernels.reference import split

if TYPE_CHECKING:
    import onnx

_A, _D, _PERMUTATION, _BLOCKS, _ENDS = 0, 1, 10, 12, 30  # streams of the seed (normals and blocks take two each)
BLOCK = 8  # neighbours that stay together: what the native kernels move at once


class ACDCConfig(LayerConfig):
    """Depth, basis and what stands between the members of the cascade."""

    depth: int = Field(2, ge=1, description="K, members of the cascade")
    relu: bool = Field(False, description="a ReLU between neighbours: for a window of several layers")
    basis: Literal["dct", "dct2d"] = Field("dct", description="dct2d: separable, half the work, same parameters")
    permutation: Literal["random", "block", "none"] = Field(
        "block", description="between neighbours, drawn from the seed; block: quicker, 8 entries stay together"
    )
    first: Literal["learned", "fixed"] = Field("learned", description="a of the first member; fixed: it is 1")
    ends: Literal["pad", "scatter"] = Field("pad", description="scatter: random positions in N, outputs scaled")
    size: int | None = Field(None, ge=1, description="N; none: the next even size with no prime factor above 7")
    sigma: float = Field(0.1, ge=0, description="diagonals start as N(1, sigma²)")
    seed: int = Field(0, ge=0, description="of the permutations and the start")

    def size_for(self, in_features: int, out_features: int) -> int:
        """N, at least as large as both sides; CompressorError when ``size`` is not."""
        return smooth_size("acdc", in_features, out_features, self.size)


def _permutations(c: ACDCConfig, n: int) -> Tensor | None:
    """``(K − 1, N)``, or None where nothing is permuted."""
    if c.depth == 1 or c.permutation == "none":
        return None
    if c.permutation == "block":
        return seeded.block_permutations(c.seed, _BLOCKS, c.depth - 1, n, BLOCK)
    return seeded.permutations(c.seed, _PERMUTATION, c.depth - 1, n)


@register("acdc", source="Moczulski 2019, 3.10 (ACDC)")
class ACDC(FittedLayer):
    """ACDC: a cascade of trained diagonals between fast cosine transforms."""

    Config: ClassVar[type[LayerConfig]] = ACDCConfig
    config: ACDCConfig

    size: int
    permutation: Tensor | None
    ends: Tensor | None

    def make_parameters(self) -> None:
        c = self.config
        self.size = n = c.size_for(self.in_features, self.out_features)
        a, d = (1 + c.sigma * seeded.normals(c.seed, purpose, (c.depth, n)) for purpose in (_A, _D))
        self.a = nn.Parameter(a[int(c.first == "fixed") :].to(torch.get_default_dtype()))
        self.d = nn.Parameter(d.to(torch.get_default_dtype()))
        self.beta = nn.Parameter(torch.zeros(c.depth, n)) if self.has_bias else None
        self.register_buffer("permutation", _permutations(c, n), persistent=False)
        scattered = c.ends == "scatter"
        self.register_buffer("ends", seeded.permutations(c.seed, _ENDS, 2, n) if scattered else None, persistent=False)
        self.scale = nn.Parameter(torch.ones(self.out_features)) if scattered else None

    @property
    def is_linear(self) -> bool:
        return not (self.config.relu and self.config.depth > 1)

    @property
    def seeds(self) -> int:
        return int(self.permutation is not None or self.ends is not None)

    @property
    def order(self) -> int:
        """The degree of the map in its diagonals together."""
        return 2 * self.config.depth - (self.config.first == "fixed") + (self.scale is not None)

    def kind(self, name: str) -> ParameterKind:
        return "bias" if name == "beta" else "diagonal"

    def transform(self, x: Tensor) -> Tensor:
        c = self.config
        fixed: dict[str, Any] = self._buffers  # as `own`
        scattered = fixed["ends"] is not None
        h = dispatch.acdc(
            self._enter(x) if scattered else x, self.own("a"), self.own("d"), self.own("beta"), fixed["permutation"],
            self.size if scattered else self.out_features, relu=c.relu, separable=c.basis == "dct2d",
        )  # fmt: skip
        return self._leave(h) if scattered else h

    def _all_a(self) -> Tensor:
        """``(K, N)``: a of every member."""
        return self.a if self.config.first == "learned" else torch.cat((torch.ones_like(self.d[:1]), self.a))

    def _enter(self, x: Tensor) -> Tensor:
        """``(..., in) -> (..., N)``."""
        h = nn.functional.pad(x, (0, self.size - self.in_features))
        return h if self.ends is None else h.index_select(-1, self.ends[0].long())

    def _leave(self, h: Tensor) -> Tensor:
        """``(..., N) -> (..., out)``."""
        if self.ends is None or self.scale is None:
            return h[..., : self.out_features]
        return h.index_select(-1, self.ends[1, : self.out_features].long()) * self.scale

    def onnx_node(self, x: Tensor) -> Tensor:
        c = self.config
        scattered = self.ends is not None
        h = acdc_node(
            self._enter(x) if scattered else x, self._all_a(), self.d, self.beta, self.permutation,
            out_features=self.size if scattered else self.out_features, relu=c.relu, basis=c.basis,
        )  # fmt: skip
        return self._leave(h) if scattered else h

    def onnx_functions(self) -> list[onnx.FunctionProto]:
        scattered = self.ends is not None
        return acdc_functions(
            self.size if scattered else self.in_features,
            self.size if scattered else self.out_features,
            size=self.size,
            depth=self.config.depth,
            basis=self.config.basis,
            relu=self.config.relu,
            bias=self.beta is not None,
            permuted=self.permutation is not None,
        )

    def macs(self) -> int:
        n, k = self.size, self.config.depth
        rest = (0 if self.scale is None else self.out_features) - n * (self.config.first == "fixed")
        if self.config.basis == "dct2d":
            return k * (2 * n * sum(split(n)) + 2 * n) + rest
        return math.ceil(k * (4 * n + 5 * n * math.log2(n)) / 2) + rest

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [
            {},
            {"depth": 1},
            {"depth": 3, "basis": "dct2d", "seed": 7},
            {"permutation": "none", "sigma": 0.3},
            {"permutation": "block", "depth": 3},
            {"depth": 2, "relu": True},
            {"depth": 1, "size": 71},
            {"depth": 2, "first": "fixed", "ends": "scatter", "permutation": "random"},
        ]

    def fit_map(self, weight: Tensor, metric: Metric) -> None:
        fit_linear(self, weight, metric, order=self.order)

    def fit_samples(self, x: Tensor, y: Tensor) -> float:
        if self.is_linear:
            return super().fit_samples(x, y)
        self.set_offset(y.mean(0))
        return fit_to_samples(self, x, y)

    @torch.no_grad()
    def set_offset(self, offset: Tensor) -> None:
        """β of the last member is the transform of ``offset``."""
        if self.beta is None:
            return
        transform = dispatch.dct2d if self.config.basis == "dct2d" else dispatch.dct
        aim = offset.to(self.beta)
        if self.ends is None or self.scale is None:
            padded = nn.functional.pad(aim, (0, self.size - self.out_features))
        else:
            padded = torch.zeros_like(self.beta[0])
            self.scale[self.scale == 0] = 1  # the zero map: all diagonals are 0, and only the offset is left
            padded[self.ends[1, : self.out_features].long()] = aim / self.scale
        self.beta.zero_()[-1] = transform(padded)

    @classmethod
    def config_for_params(cls, in_features: int, out_features: int, bias: bool, params: int, base: Any) -> Any:
        def with_depth(depth: int) -> Any:
            return base.model_copy(update={"depth": depth})

        return largest(
            cls,
            (in_features, out_features),
            bias,
            params,
            with_depth,
            params // base.size_for(in_features, out_features),
        )
