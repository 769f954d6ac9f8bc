"""Predicted parameters: ``Wᵀ = U V`` with U fixed and V trained (Denil et al. 2013).

``U = k_αᵀ (K_α + λI)⁻¹``, ``(in, n)``: kernel ridge regression from n positions α of the inputs; V ``(n, out)`` are the
weights there. Kernels: ``se``, squared exponential over places on a grid; ``covariance``, that of the inputs, and
``covariance2``, its entrywise square. Poor choices for comparison: ``gaussian`` and ``identity`` (columns of I).
Columns: outputs in J groups, each with positions of its own.

Stored: V; α for se and identity (where drawn, a seed); a seed for gaussian; U itself, ``J · in · n``, for the
covariances, which the data made. `finished` multiplies the inverse of se into V, so that no file need hold it.

The fit: V by least squares in the metric, exact given U; α one after the other, the one that lowers the error most.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from compressor.errors import CompressorError
from compressor.layers import grid as grids
from compressor.layers import seeded
from compressor.layers.base import LayerConfig, Metric, StructuredLayer, largest, register
from compressor.layers.dictionary import choose, hashed_normals, squared_exponential
from compressor.layers.fitted import FittedLayer
from compressor.layers.semidefinite import solve

_POSITIONS = 210  # stream of the seed
_DEFAULT_FRACTION = 0.25
_COVARIANCES = ("covariance", "covariance2")


class PredictedConfig(LayerConfig):
    """The dictionary, and how much of the weights is learned."""

    dictionary: Literal["covariance", "covariance2", "se", "gaussian", "identity"] = Field(
        "covariance",
        description="what predicts: of the data, a smooth kernel over pixels (se, needs a grid), or random",
    )
    atoms: int | None = Field(None, ge=1, description="n, learned weights of each output")
    fraction: float | None = Field(None, gt=0, le=1, description="n as a share of the inputs; a quarter if neither")
    columns: int = Field(1, ge=1, description="J, groups of outputs with positions of their own")
    grid: str | None = Field(
        None, pattern=grids.GRID, description="se: HEIGHTxWIDTH of a map, or auto, nearly square; none: all in a row"
    )
    width: float = Field(1.0, gt=0, description="se: reach of the kernel, in pixels")
    damping: float = Field(0.1, ge=1e-6, description="λ, over the mean of the kernel's diagonal")
    positions: Literal["fitted", "random"] = Field(
        "fitted", description="fitted: those that lower the error most; random: drawn from the seed"
    )
    folded: bool = Field(False, description="se: the inverse is multiplied into V, as in a finished layer")
    seed: int = Field(0, ge=0, description="of random positions and of gaussian")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.atoms is not None and self.fraction is not None:
            raise ValueError("give only one of atoms and fraction")
        if self.dictionary != "se" and (self.grid is not None or self.folded):
            raise ValueError(f"grid and folded are for dictionary=se, not for {self.dictionary}")
        return self

    def atoms_for(self, in_features: int) -> int:
        """n; CompressorError where there are not so many inputs to choose from."""
        if self.atoms is None:
            return max(1, int(in_features * (_DEFAULT_FRACTION if self.fraction is None else self.fraction)))
        if self.atoms > in_features and self.dictionary != "gaussian":
            raise CompressorError(
                f"method 'predicted': atoms={self.atoms} is more than the {in_features} inputs; "
                f"give at most {in_features}"
            )
        return self.atoms


@register("predicted", source="Denil et al. 2013")
class Predicted(FittedLayer):
    """Predicted parameters: a fixed dictionary predicts all weights from a few that are trained."""

    Config: ClassVar[type[LayerConfig]] = PredictedConfig
    config: PredictedConfig

    atoms: int
    positions: Tensor | None
    dictionary: Tensor | None
    inverse: Tensor | None

    def make_parameters(self) -> None:
        c = self.config
        self.atoms = n = c.atoms_for(self.in_features)
        kind, shape = c.dictionary, (c.columns, self.in_features, n)
        positions, dictionary, inverse = None, None, None
        if kind != "gaussian":
            positions = seeded.permutations(c.seed, _POSITIONS, c.columns, self.in_features)[:, :n].clone()
        if kind == "se":
            dictionary = torch.empty(shape)
            inverse = None if c.folded else torch.empty(c.columns, n, n)
        elif kind == "gaussian":
            dictionary = self._normals().to(torch.get_default_dtype())
        elif positions is not None and kind in _COVARIANCES:  # those of independent inputs, until there are data
            picked = nn.functional.one_hot(positions.long(), self.in_features).transpose(1, 2)
            dictionary = picked.to(torch.get_default_dtype()).contiguous() / (1 + c.damping)
            positions = None
        self.register_buffer("positions", positions, persistent=c.positions == "fitted")
        self.register_buffer("dictionary", dictionary, persistent=kind in _COVARIANCES)
        self.register_buffer("inverse", inverse, persistent=False)
        if kind == "se":
            self._predict()
            self.register_load_state_dict_post_hook(_predict_again)  # type: ignore[no-untyped-call]
        bound = 1 / math.sqrt(self.in_features if kind in ("se", "gaussian") else n)
        self.V = nn.Parameter(torch.empty(n, self.out_features).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(self.out_features)) if self.has_bias else None

    def _normals(self) -> Tensor:
        shape = (self.config.columns, self.in_features, self.atoms)
        return hashed_normals(self.config.seed, shape) / math.sqrt(self.atoms)

    def _kernel(self, positions: Tensor) -> Tensor:
        """``k_α`` of se, ``(J, in, n)`` for positions ``(J, n)``."""
        grid = self.config.grid or f"1x{self.in_features}"
        return squared_exponential(positions, self.in_features, grid, self.config.width)

    @torch.no_grad()
    def _predict(self) -> None:
        """Make what se makes of the positions, in float32 whatever the layer's type: the same however it was loaded."""
        assert self.positions is not None
        assert self.dictionary is not None
        kernel = self._kernel(self.positions)
        self.dictionary.copy_(kernel)
        if self.inverse is not None:
            index = self.positions.long().unsqueeze(2).expand(-1, -1, self.atoms)
            own = kernel.double().gather(1, index)  # K_α (J, n, n)
            eye = torch.eye(self.atoms, dtype=own.dtype, device=own.device)
            self.inverse.copy_(torch.linalg.inv(own + self.config.damping * eye).float())

    @property
    def is_exact(self) -> bool:
        return self.config.dictionary == "gaussian" or self.config.positions == "random"

    @property
    def seeds(self) -> int:
        kind = self.config.dictionary
        drawn = self.config.positions == "random" and kind not in _COVARIANCES
        return int(kind == "gaussian" or drawn)

    def coefficients(self) -> Tensor:
        """V by groups, with the inverse where it stands apart: ``(J, n, ⌈out / J⌉)``, zeros in what the last lacks."""
        groups = self.config.columns
        size = math.ceil(self.out_features / groups)
        padded = nn.functional.pad(self.V, (0, groups * size - self.out_features))
        v = padded.reshape(self.atoms, groups, size).transpose(0, 1)
        return v if self.inverse is None else self.inverse @ v

    @property
    def _is_pooled(self) -> bool:
        """Whether inputs are pooled by U first; else W is expanded first (the two perspectives of the source)."""
        return self.dictionary is None or self._pooled_macs() <= self.in_features * self.out_features

    def _pooled_macs(self) -> int:
        pooling = 0 if self.config.dictionary == "identity" else self.config.columns * self.in_features
        return self.atoms * (pooling + self.out_features)

    def _map(self, x: Tensor, dictionary: Tensor | None) -> Tensor:
        c = self.coefficients()
        if not self._is_pooled:
            assert dictionary is not None
            weight = (dictionary @ c).transpose(0, 1).flatten(1)  # (in, J ⌈out / J⌉)
            y = x @ weight[:, : self.out_features]
        else:
            if dictionary is None:
                assert self.positions is not None
                h = x.index_select(-1, self.positions.long().flatten())
            else:
                h = x @ dictionary.transpose(0, 1).flatten(1)  # (..., J n)
            h = h.reshape(*x.shape[:-1], self.config.columns, self.atoms)
            y = torch.einsum("...jn,jno->...jo", h, c).flatten(-2)[..., : self.out_features]
        return y if self.bias is None else y + self.bias

    def transform(self, x: Tensor) -> Tensor:
        return self._map(x, self.dictionary)

    def onnx_node(self, x: Tensor) -> Tensor:
        """With the dictionary computed from what is stored."""
        if self.config.dictionary == "se":
            assert self.positions is not None
            return self._map(x, self._kernel(self.positions).to(x))
        if self.config.dictionary == "gaussian":
            return self._map(x, self._normals().to(x))
        return self.transform(x)

    def macs(self) -> int:
        """The cheaper of pooling the inputs, group by group, and the dense map; identity pools for nothing."""
        return min(self._pooled_macs(), self.in_features * self.out_features)

    def finished(self) -> StructuredLayer:
        if self.inverse is None:
            return self
        config = self.config.model_copy(update={"folded": True})
        with torch.device(self.V.device):
            layer = type(self)(self.in_features, self.out_features, bias=self.has_bias, config=config).to(self.V.dtype)
        state = self.state_dict()
        state["V"] = self.coefficients().detach().transpose(0, 1).flatten(1)[:, : self.out_features]
        layer.load_state_dict(state)
        return layer.train(self.training)

    @property
    def input_sides(self) -> tuple[int, int] | None:
        grid = self.config.grid
        return None if grid is None else grids.sides(grid, self.in_features)

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [
            {"fraction": 0.5},
            {"dictionary": "covariance2", "columns": 2, "positions": "random", "fraction": 0.7},
            {"dictionary": "se", "grid": "auto", "columns": 2, "fraction": 0.6},
            {"dictionary": "se", "width": 2.0, "positions": "random", "folded": True, "fraction": 0.7},
            {"dictionary": "gaussian", "atoms": 3, "seed": 5},
            {"dictionary": "identity", "fraction": 0.4},
        ]

    @torch.no_grad()
    def fit_map(self, weight: Tensor, metric: Metric) -> None:
        w, sigma = weight.double(), metric.covariance.double()
        size = math.ceil(self.out_features / self.config.columns)
        groups = [w[first : first + size] for first in range(0, size * self.config.columns, size)]
        self._choose(groups, sigma)
        for j, part in enumerate(groups):
            if self.dictionary is None:
                assert self.positions is not None
                u = torch.eye(self.in_features, dtype=torch.float64)[:, self.positions[j].long()]
            else:
                u = self.dictionary[j].double()
            seen = sigma @ u
            v = solve(u.T @ seen, seen.T @ part.T)  # (n, ⌈out / J⌉)
            if self.inverse is not None:  # from what multiplies k_α to the weights at α
                v = torch.linalg.solve(self.inverse[j].double(), v)
            self.V[:, j * size : j * size + len(part)] = v

    def _choose(self, groups: list[Tensor], sigma: Tensor) -> None:
        """Positions for each group of outputs, and for the covariances the dictionary there."""
        c = self.config
        if c.dictionary == "gaussian":
            return
        if c.dictionary == "identity":
            kernel = torch.eye(len(sigma), dtype=sigma.dtype)
        elif c.dictionary == "se":
            kernel = self._kernel(torch.arange(self.in_features)[None])[0].double()
        else:
            kernel = sigma if c.dictionary == "covariance" else sigma.square()
        if c.positions == "random":
            drawn = seeded.permutations(c.seed, _POSITIONS, c.columns, self.in_features)[:, : self.atoms]
            chosen = [row.long() for row in drawn]
        else:
            seen = sigma if c.dictionary == "identity" else kernel @ sigma
            gram = sigma if c.dictionary == "identity" else seen @ kernel
            chosen = [choose(gram, seen @ part.T, self.atoms) for part in groups]
        for j, positions in enumerate(chosen):
            if c.dictionary in _COVARIANCES:
                assert self.dictionary is not None
                own = kernel[positions][:, positions]
                damped = own + c.damping * kernel.diagonal().mean() * torch.eye(len(own), dtype=own.dtype)
                self.dictionary[j] = solve(damped, kernel[positions]).T
            elif self.positions is not None:
                self.positions[j] = positions.to(self.positions.dtype)
        if c.dictionary == "se":
            self._predict()

    @classmethod
    def config_for_params(cls, in_features: int, out_features: int, bias: bool, params: int, base: Any) -> Any:
        def with_size(value: int) -> Any:
            return base.model_copy(update={"atoms": value, "fraction": None})

        most = params if base.dictionary == "gaussian" else min(params, in_features)
        return largest(cls, (in_features, out_features), bias, params, with_size, most)


def _predict_again(layer: nn.Module, _keys: object) -> None:
    assert isinstance(layer, Predicted)
    layer._predict()
