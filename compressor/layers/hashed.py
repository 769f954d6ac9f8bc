"""Hashed weights: ``Ŵ_ij = ξ(i, j) v_h(i, j)`` (Chen et al. 2015, eq. 3 and 7).

``v (buckets,)`` is all that is stored, with the bias and a seed: h, which bucket, and ξ = ±1, are computed. With
p = 2³¹ − 1 and a, b, c drawn from the seed, ``u = (a i + b j + c) mod p`` and ``u⁵ mod p`` (a permutation of 0..p − 1
that leaves nothing of the order) modulo twice the buckets says both. That is whole-number arithmetic in 64 bits, the
same in torch and in the body of the ONNX function, which makes Ŵ when a runtime loads the file.

MACs: those of the dense layer; sharing saves storage, not products.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from compressor.layers import seeded
from compressor.layers.base import LayerConfig, Metric, register
from compressor.layers.fitted import FittedLayer, take
from compressor.layers.onnx_body import Body, call
from compressor.layers.shared import shared_values

if TYPE_CHECKING:
    import onnx

_PRIME = 2**31 - 1  # 5 divides not p − 1; products of two numbers below it stay within 64 bits
_KEY = 400  # stream of the seed


class HashedConfig(LayerConfig):
    """How many values there are to share."""

    share: float = Field(0.1, gt=0, le=1, description="values, as a share of the weights")
    buckets: int | None = Field(None, ge=1, description="values; in place of share")
    signed: bool = Field(True, description="half of the weights are minus their value, which takes away the mean error")
    seed: int = Field(0, ge=0, description="of the hash")

    def buckets_for(self, in_features: int, out_features: int) -> int:
        """How many values the layer has."""
        return max(1, round(self.share * in_features * out_features)) if self.buckets is None else self.buckets


@register("hashed", source="Chen et al. 2015")
class Hashed(FittedLayer):
    """Hashing trick: weights share values by a hash of their place."""

    Config: ClassVar[type[LayerConfig]] = HashedConfig
    config: HashedConfig

    key: Tensor

    def make_parameters(self) -> None:
        self.values = nn.Parameter(torch.empty(self.config.buckets_for(self.in_features, self.out_features)))
        self.bias = nn.Parameter(torch.zeros(self.out_features)) if self.has_bias else None
        self.register_buffer("key", seeded.whole_numbers(self.config.seed, _KEY, 3, _PRIME), persistent=False)
        self._places: Tensor | None = None
        nn.init.uniform_(self.values, -1 / math.sqrt(self.in_features), 1 / math.sqrt(self.in_features))

    @property
    def is_exact(self) -> bool:
        return True

    @property
    def seeds(self) -> int:
        return 1

    def hashed(self) -> Tensor:
        """``(out · in,)`` int64, row by row: the bucket, plus their number where the sign is minus."""
        i = torch.arange(self.out_features, device=self.key.device)[:, None]
        j = torch.arange(self.in_features, device=self.key.device)
        u = (self.key[0] * i + self.key[1] * j + self.key[2]) % _PRIME
        fourth = (u * u % _PRIME) ** 2 % _PRIME
        return (fourth * u % _PRIME % len(self._choices(self.values))).flatten()

    def _choices(self, values: Tensor) -> Tensor:
        return torch.cat((values, -values)) if self.config.signed else values

    def expand(self, values: Tensor, places: Tensor) -> Tensor:
        """Ŵ ``(out, in)`` for ``values (buckets,)``, where ``places`` is what `hashed` says."""
        return self._choices(values).index_select(0, places).reshape(self.out_features, self.in_features)

    def transform(self, x: Tensor) -> Tensor:
        places = self.hashed() if torch.compiler.is_compiling() else self._remembered()
        return nn.functional.linear(x, self.expand(self.values, places), self.bias)

    def _remembered(self) -> Tensor:
        """`hashed`, worked out once: of 4 bytes a weight, never stored in a file."""
        if self._places is None or self._places.device != self.key.device:
            with torch.inference_mode(False):
                self._places = self.hashed().int()
        return self._places

    def onnx_node(self, x: Tensor) -> Tensor:
        y = call(self._function(), [x, self.values, self.key], self.out_features)
        return y if self.bias is None else y + self.bias

    def _function(self) -> str:
        return f"Hashed_{self.in_features}to{self.out_features}{'' if self.config.signed else '_unsigned'}"

    def onnx_functions(self) -> list[onnx.FunctionProto]:
        body = Body(self._function(), ["x", "values", "key"])
        op, prime = body.op, body.whole(_PRIME)
        a, b, c = (body.row("key", part) for part in range(3))
        i, j = body.column(body.indices(self.out_features)), body.indices(self.in_features)
        u = op("Mod", op("Add", op("Add", op("Mul", a, i), op("Mul", b, j)), c), prime)
        square = op("Mod", op("Mul", u, u), prime)
        fourth = op("Mod", op("Mul", square, square), prime)
        fifth = op("Mod", op("Mul", fourth, u), prime)
        choices = op("Concat", "values", op("Neg", "values"), axis=0) if self.config.signed else "values"
        matrix = op("Gather", choices, op("Mod", fifth, op("Shape", choices)), axis=0)
        return [body.function(op("MatMul", "x", op("Transpose", matrix)))]

    def macs(self) -> int:
        """As the dense layer."""
        return self.in_features * self.out_features

    def fit_map(self, weight: Tensor, metric: Metric) -> None:
        places, count, signed = self.hashed(), len(self.values), self.config.signed

        def collect(matrix: Tensor) -> Tensor:
            sums = matrix.new_zeros(2 * count if signed else count).index_add(0, places, matrix.flatten())
            return sums[:count] - sums[count:] if signed else sums

        take((self.values,), (shared_values(weight, metric, lambda v: self.expand(v, places), collect, count),))

    @classmethod
    def config_for_params(cls, in_features: int, out_features: int, bias: bool, params: int, base: Any) -> Any:
        buckets = params - 1 - (out_features if bias else 0)
        return base.model_copy(update={"buckets": max(1, min(buckets, in_features * out_features))})

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{"share": 0.5}, {"share": 0.4, "signed": False, "seed": 5}]
