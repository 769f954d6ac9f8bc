"""PHD: sparse rows of a Walsh–Hadamard transform under random signs (Ailon and Chazelle 2009; Moczulski 2019, eq. 3.15,
3.21).

``y = P H D x``: D = ±1, H Walsh–Hadamard in natural order on d = 2^p ≥ in, P sparse with as many entries in every
row, at positions from the seed, one in each of that many equal stretches. Everything is times ``1/(σ√count)``, so
that with P ~ N(0, 1), as at the start, each row is like one of a Gaussian matrix with standard deviation 1/σ.

- ``linear``: stands for one dense map, P is learned. Each row is a least squares problem of its own, solved exactly.
- ``relu`` and ``rbf``: n features and a dense read-out of them. Not ``adaptive``: P is drawn once and kept, as in the
  source (fast random projections).

Stored: ``P (n, count)``, the read-out, a seed.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from compressor.layers import seeded
from compressor.layers.base import LayerConfig, Metric, register
from compressor.layers.features import FeatureConfig, FeatureLayer
from compressor.layers.onnx_phd import phd_functions, phd_node
from compressor.layers.semidefinite import conjugate_gradients, damped, solve, steps_for
from compressor.layers.sizes import power_of_two
from compressor_kernels import dispatch

if TYPE_CHECKING:
    import onnx

_SIGNS, _POSITIONS, _P = 106, 107, 108  # streams of the seed (normals take two each: 216, 217)
_DIRECT_MACS = 2e11  # above, all rows are solved at once by conjugate gradients
_SOLVED_AT_ONCE = 2**24  # numbers in the normal matrices of some rows


class PHDConfig(FeatureConfig):
    """What the features are, how sparse, how many, and how they are read out."""

    grows_by: ClassVar[str] = "nonzeros"

    nonzeros: int = Field(16, ge=1, description="entries in each row of P, at most d = the power of two from in up")

    def most_for(self, in_features: int) -> int | None:
        return power_of_two(in_features)


@register(
    "phd",
    source="Ailon and Chazelle 2009; Moczulski 2019, eq. 3.15 and 3.21",
    presets={"phd-random": {"adaptive": False, "features": "relu"}},
)
class PHD(FeatureLayer):
    """PHD: sparse rows over a Walsh–Hadamard transform under random signs, linear or as features."""

    Config: ClassVar[type[LayerConfig]] = PHDConfig
    config: PHDConfig

    d: int
    signs: Tensor
    positions: Tensor
    P: Tensor

    def make_parameters(self) -> None:
        c = self.config
        self.make_readout()
        self.d = d = power_of_two(self.in_features)
        shape = (self.width, min(c.nonzeros, d))
        self.register_buffer("signs", seeded.signs(c.seed, _SIGNS, (d,)).to(torch.int8), persistent=False)
        self.register_buffer("positions", seeded.positions(c.seed, _POSITIONS, *shape, d), persistent=False)
        self.register_drawn("P", seeded.normals(c.seed, _P, shape).to(torch.get_default_dtype()))

    @property
    def is_exact(self) -> bool:
        return self.is_linear

    @property
    def scale(self) -> float:
        """``1/(σ√count)``: P itself is near 1."""
        return 1 / (self.config.sigma * math.sqrt(self.P.shape[1]))

    def products(self, x: Tensor) -> Tensor:
        h = self._mixed(x)  # (..., d)
        if h.numel() == 0:  # no rows, which an embedding is not for
            return h.new_zeros(*h.shape[:-1], self.width)
        columns = h.reshape(-1, self.d).T.contiguous()  # (d, rows): the entries of P take whole rows of it
        y = nn.functional.embedding_bag(
            self.positions.long(), columns, per_sample_weights=self.P * self.scale, mode="sum"
        )  # (n, rows)
        return y.T.reshape(*x.shape[:-1], self.width)

    def _mixed(self, x: Tensor) -> Tensor:
        """``H D x``, ``(..., in) -> (..., d)``."""
        return dispatch.fwht(nn.functional.pad(x, (0, self.d - self.in_features)) * self.signs)

    def onnx_node(self, x: Tensor) -> Tensor:
        return self.read(self.bend(phd_node(x, self.signs, self.positions, self.P * self.scale, d=self.d)))

    def onnx_functions(self) -> list[onnx.FunctionProto]:
        return phd_functions(self.in_features, self.width, d=self.d, count=self.P.shape[1])

    def macs(self) -> int:
        """Additions of the transform count half; signs, the entries of P, the read-out."""
        bits = self.d.bit_length() - 1
        return math.ceil(self.d * bits / 2) + self.in_features + self.P.numel() + self.readout_macs()

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [
            {"nonzeros": 4, "seed": 5},
            {"features": "relu", "width": 37, "nonzeros": 3, "sigma": 2.0, "adaptive": False},
            {"features": "rbf", "width": 20, "readout_rank": 2},
        ]

    @torch.no_grad()
    def fit_map(self, weight: Tensor, metric: Metric) -> None:
        """The optimum: row i of P minimises ``‖(w_i − p_i H D) Σ^½‖`` over its own positions."""
        sigma = damped(metric.covariance.double())
        seen = self._mixed(sigma)  # Σ (H D)ᵀ, (in, d)
        aim = weight.double() @ seen  # (out, d)
        gram = self._mixed(seen.T)  # H D Σ (H D)ᵀ, (d, d)
        self.P.copy_(_nearest_rows(gram, aim, self.positions.long()) / self.scale)


def _nearest_rows(gram: Tensor, aim: Tensor, positions: Tensor) -> Tensor:
    """``v (rows, count)`` with ``gram[p, p] v_i = aim[i, p]`` for the positions p of each row i.

    By conjugate gradients on products of single precision where the direct way takes long.
    """
    rows, count = positions.shape
    wanted = aim.gather(1, positions)
    if rows * count**3 / 6 <= _DIRECT_MACS:
        chunks = torch.split(torch.arange(rows), max(1, _SOLVED_AT_ONCE // count**2))
        found = [
            solve(gram[positions[i][:, :, None], positions[i][:, None, :]], wanted[i][..., None], refined=True)
            for i in chunks
        ]
        return torch.cat(found)[..., 0]
    gram = gram.float()
    diagonal = gram.diagonal()[positions]

    def product(v: Tensor) -> Tensor:
        whole = torch.zeros(rows, len(gram), dtype=v.dtype).scatter_(1, positions, v)
        return (whole @ gram).gather(1, positions)

    steps = steps_for(rows * gram.numel())
    return conjugate_gradients(product, wanted.float(), lambda v: v / diagonal, steps=steps).double()
