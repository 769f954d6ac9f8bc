"""Deep compression: prune, share the values that are left, entropy-code (Han et al. 2015a).

``ŷ = x Ŵᵀ + b``; ``count`` entries of Ŵ are not zero, and each of them is one of the 2^bits numbers of a codebook.
`from_dense`: places and values as for pruning (see `subset`), k-means on the values (weighted by ``Σ_jj``, what a
change of each costs), then the best codebook for these codes in the metric. Training moves the codebook: its gradient
is the sum over the weights that share a number (Han, eq. 3).

Stored, persistent: a column and a code (one byte) for each entry, the length of each row, the codebook, the bias:
``2 count + out + 2^bits (+ out)`` numbers. MACs: the entries. `DeepCompression.packed` is the paper's form for the
disk: Huffman codes of the codes and of the gaps between entries, gaps over 254 with fillers between.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from compressor.layers import huffman
from compressor.layers.base import LayerConfig, Metric, register
from compressor.layers.fitted import FittedLayer
from compressor.layers.onnx_sparse import sparse_functions, sparse_node
from compressor.layers.positions import Positions, count_of
from compressor.layers.shared import shared_values
from compressor.layers.subset import best_subset

if TYPE_CHECKING:
    import onnx

_ROUNDS = 100  # of k-means
_FILLER = 255  # among the gaps: so many places more, and no entry


class DeepCompressionConfig(LayerConfig):
    """How much is kept, and in how many different values."""

    density: float = Field(0.1, gt=0, le=1, description="share of the weights that is kept")
    count: int | None = Field(None, ge=1, description="weights kept; in place of density")
    bits: int = Field(5, ge=1, le=8, description="of a code: 2^bits values are shared; the paper takes 5, 8 in places")
    criterion: Literal["metric", "magnitude"] = Field(
        "metric", description="metric: what the outputs need; magnitude: the paper's, for the weights alone"
    )

    @property
    def uses_metric(self) -> bool:
        return self.criterion == "metric"


@register("deep_compression", source="Han et al. 2015a")
class DeepCompression(FittedLayer):
    """Deep compression: pruned, with few different values, which training moves; Huffman codes for the disk."""

    Config: ClassVar[type[LayerConfig]] = DeepCompressionConfig
    config: DeepCompressionConfig

    codes: Tensor

    def make_parameters(self) -> None:
        count = count_of(
            "deep_compression", self.in_features, self.out_features, self.config.density, self.config.count
        )
        shared = 2**self.config.bits
        self.positions = Positions(self.in_features, self.out_features, count)
        bound = math.sqrt(3 / max(1.0, count / self.out_features))  # outputs as large as inputs
        self.codebook = nn.Parameter(torch.linspace(-bound, bound, shared))
        self.bias = nn.Parameter(torch.zeros(self.out_features)) if self.has_bias else None
        self.register_buffer("codes", torch.randint(0, shared, (count,), dtype=torch.uint8))

    def values(self) -> Tensor:
        """The entries, ``(count,)``."""
        return self.codebook.index_select(0, self.codes.long())

    def transform(self, x: Tensor) -> Tensor:
        return self.positions.product(x, self.values(), self.bias)

    def onnx_node(self, x: Tensor) -> Tensor:
        y = sparse_node(x, self.positions, self.codebook, self.codes)
        return y if self.bias is None else y + self.bias

    def onnx_functions(self) -> list[onnx.FunctionProto]:
        return sparse_functions(self.positions, shared=True)

    def macs(self) -> int:
        """Those of a sparse product: one for each entry."""
        return len(self.codes)

    @torch.no_grad()
    def fit_map(self, weight: Tensor, metric: Metric) -> None:
        seen = metric if self.config.uses_metric else Metric.identity(self.in_features)
        mask, found = best_subset(weight, seen, len(self.codes))
        self.positions.set(mask)
        costs = seen.covariance.diagonal().double().clamp_min(0)[self.positions.columns.long()]
        self.codes.copy_(_clustered(self.positions.gather(found), costs, len(self.codebook)))
        self.codebook.copy_(self._best_codebook(weight, seen))

    def _best_codebook(self, weight: Tensor, metric: Metric) -> Tensor:
        """The codebook with the smallest error for the places and codes as they are, ``(2^bits,)`` float64."""
        codes, count = self.codes.long(), len(self.codebook)
        return shared_values(
            weight,
            metric,
            lambda book: self.positions.scatter(book[codes]),
            lambda matrix: matrix.new_zeros(count).index_add(0, codes, self.positions.gather(matrix)),
            count,
        )

    @classmethod
    def config_for_params(cls, in_features: int, out_features: int, bias: bool, params: int, base: Any) -> Any:
        count = (params - out_features * (2 if bias else 1) - 2**base.bits) // 2
        return base.model_copy(update={"count": max(1, min(count, in_features * out_features))})

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{"density": 0.5, "bits": 3}, {"density": 0.4, "bits": 2, "criterion": "magnitude"}]

    # --- on disk --------------------------------------------------------------------------------

    def packed(self) -> bytes:
        """The numbers of the layer, entropy-coded: codes, gaps, then codebook and bias in float32."""
        codes = huffman.encode(self.codes.cpu().numpy().astype(np.int64), len(self.codebook))
        gaps = huffman.encode(_gaps(self.positions.flat().cpu().numpy()), _FILLER + 1)
        floats = [self.codebook] if self.bias is None else [self.codebook, self.bias]
        return codes + gaps + b"".join(f.detach().cpu().numpy().astype("<f4").tobytes() for f in floats)

    def packed_bytes(self) -> int | None:
        return len(self.packed())

    @classmethod
    def unpack(cls, data: bytes, in_features: int, out_features: int, *, bias: bool, config: Any) -> Self:
        """The layer that `packed` wrote; ValueError where ``data`` is damaged or of another size."""
        layer = cls(in_features, out_features, bias=bias, config=config)
        codes, used = huffman.decode(data)
        gaps, more = huffman.decode(data[used:])
        floats = np.frombuffer(data[used + more :], dtype="<f4")
        places, size = _places(gaps), in_features * out_features
        wanted = (len(layer.codes), len(layer.codes), len(layer.codebook) + (out_features if bias else 0))
        if (len(codes), len(places), len(floats)) != wanted or places[-1] >= size or codes.max() >= len(layer.codebook):
            raise ValueError(f"{len(data)} bytes hold no layer of {wanted[0]} weights out of {size}")
        mask = torch.zeros(size, dtype=torch.bool)
        mask[torch.from_numpy(places)] = True
        layer.positions.set(mask.reshape(out_features, in_features))
        with torch.no_grad():
            layer.codes.copy_(torch.from_numpy(codes))
            layer.codebook.copy_(torch.from_numpy(floats[: len(layer.codebook)].copy()))
            if layer.bias is not None:
                layer.bias.copy_(torch.from_numpy(floats[len(layer.codebook) :].copy()))
        return layer


def _clustered(values: Tensor, costs: Tensor, count: int) -> Tensor:
    """The cluster of each of ``values``, by k-means with ``costs``, whichever is better of two starts.

    They are ``count`` centres at equal distances (the paper's best), and one for equal shares of the values.
    """
    if not len(values):
        return torch.zeros(0, dtype=torch.long)
    even = torch.linspace(float(values.min()), float(values.max()), count, dtype=values.dtype)
    ranks = torch.linspace(0, len(values) - 1, count).round().long()
    ends = [_lloyd(values, costs, centres) for centres in (even, values.sort().values[ranks])]
    return min(ends, key=lambda end: end[0])[1]


def _lloyd(values: Tensor, costs: Tensor, centres: Tensor) -> tuple[float, Tensor]:
    """Lloyd's algorithm from ``centres``, which rise: the cost in the end, and the cluster of each value."""
    clusters = torch.full_like(values, -1, dtype=torch.long)
    for _ in range(_ROUNDS):
        nearest = torch.bucketize(values, (centres[1:] + centres[:-1]) / 2)
        if torch.equal(nearest, clusters):
            break
        clusters = nearest
        sizes = torch.zeros_like(centres).index_add(0, clusters, costs)
        sums = torch.zeros_like(centres).index_add(0, clusters, costs * values)
        centres = torch.where(sizes > 0, sums / sizes, centres)
    return float((costs * (values - centres[clusters]).square()).sum()), clusters


def _gaps(places: np.ndarray) -> np.ndarray:
    """What lies between rising ``places``, as numbers up to 255: 255 of them and no entry, or the rest and an entry."""
    between = np.diff(places, prepend=-1) - 1
    gaps = np.full(int((between // _FILLER + 1).sum()), _FILLER, dtype=np.int64)
    gaps[np.cumsum(between // _FILLER + 1) - 1] = between % _FILLER
    return gaps


def _places(gaps: np.ndarray) -> np.ndarray:
    """The places that `_gaps` coded."""
    found: np.ndarray = np.cumsum(gaps)[gaps != _FILLER]
    return found + np.arange(len(found))
