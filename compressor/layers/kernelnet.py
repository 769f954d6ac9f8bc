"""KernelNet: ``W_ji = λ_i K(u_i, v_j)``, a kernel between a place of each input and one of each output.

Müller, Martel, Indiveri 2018, 2.1 to 2.3 and 3.2. With D = ‖u − v‖²: dot ``u·v`` (low rank d), polynomial
``(1 + u·v)²``, gaussian ``exp(−D)``, finite ``max(0, 1 − a D)``, tanh ``tanh(u·v)``.

Free places: d dimensions, drawn and then trained. On a grid (gaussian and finite): the first two coordinates are
those of pixels, or of hidden units laid out as pictures of the same area; they start there and are trained, or stay
there (``learn=false``), when they are not stored. Several grids side by side are several maps; each map of outputs
has a λ of its own. Stored: ``u`` ``(in, d)``, ``v`` ``(out, d)``, ``λ`` ``(maps, in)``. Between two grids that stay,
the gaussian is one of rows times one of columns: the maps of inputs are added up by λ and the two applied, without W.

The fit: dot is the activation-aware truncation; with all places fixed λ is linear in W, and solved for. Else the
places start from factors of the kernel's own argument (outputs over pixels: at the centre of mass of their weights),
are moved by L-BFGS with λ, and λ is solved for at the end.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from compressor.layers import grid as grids
from compressor.layers import seeded
from compressor.layers.base import LayerConfig, Metric, ParameterKind, largest, register
from compressor.layers.fitted import FittedLayer
from compressor.layers.nearness import nearness
from compressor.layers.semidefinite import solve
from compressor.layers.solve import fit_linear
from compressor.layers.svd import SVD
from compressor.layers.truncation import factors

_U, _V, _SCALES = 100, 101, 102  # streams of the seed (normals take two each: 200 to 205)
_RADIAL = ("gaussian", "finite")
_FLOOR = math.exp(-4)  # of a gaussian or finite kernel's values: farther apart no place need start
_BEND = 4.0  # λ over the largest weight: how far from saturation tanh starts
_FAR = 8.0  # places so far apart have no weight between them, in float32 too
_EXACT_SIDE = 2048  # up to it λ is solved for in float64, and two starts are compared


class KernelNetConfig(LayerConfig):
    """The kernel, and where its places are."""

    kernel: Literal["dot", "polynomial", "gaussian", "finite", "tanh"] = Field(
        "tanh", description="K(u, v); dot is low rank, gaussian and finite (finite support) fall with the distance"
    )
    d: int = Field(8, ge=1, description="coordinates of a place")
    scales: bool = Field(True, description="λ, a factor for each input; false: the kernel alone")
    a: float = Field(1.0, gt=0, description="finite: the kernel is 0 from a squared distance of 1/a on")
    grid: str | None = Field(
        None, pattern=grids.GRID, description="places of the inputs: HEIGHTxWIDTH of a map, or auto, nearly square"
    )
    out_grid: str | None = Field(None, pattern=grids.GRID, description="the same for the outputs")
    spacing: float = Field(0.5, gt=0, description="distance between neighbours on the grid of the inputs")
    learn: bool = Field(True, description="train what starts on a grid; false: the pixels stay where they are")
    noise: float = Field(0.0, ge=0, description="standard deviation of noise on the inputs' places while training")
    seed: int = Field(0, ge=0, description="of the start")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        gridded = self.grid is not None or self.out_grid is not None
        if gridded and self.kernel not in _RADIAL:
            raise ValueError("a grid needs a kernel of the distance: set kernel=gaussian or kernel=finite")
        if gridded and self.d < 2:
            raise ValueError(f"a grid takes two coordinates; d={self.d} is too few")
        if not self.learn and not gridded:
            raise ValueError("learn=false keeps places on their grid; give grid or out_grid")
        if not self.learn and not self.scales and self.d == 2 and self.grid and self.out_grid:
            raise ValueError("with all places fixed and scales=false there is nothing to learn")
        return self


@register("kernelnet", source="Müller, Martel, Indiveri 2018, 2.1 to 2.3, 3.2")
class KernelNet(FittedLayer):
    """KernelNet: weights are a kernel between places of inputs and outputs."""

    Config: ClassVar[type[LayerConfig]] = KernelNetConfig
    config: KernelNetConfig

    maps: int
    u: nn.Parameter | None
    v: nn.Parameter | None
    scales: nn.Parameter | None
    in_places: Tensor | None
    out_places: Tensor | None

    def make_parameters(self) -> None:
        c = self.config
        ends = ((c.grid, self.in_features), (c.out_grid, self.out_features))
        self.maps = grids.maps(*ends[1]) if c.out_grid is not None else 1  # type: ignore[arg-type]
        area = next((grids.sides(grid, units) for grid, units in ends if grid is not None), (1, 1))
        for name, purpose, (grid, units) in zip("uv", (_U, _V), ends, strict=True):
            on_grid = None if grid is None else grids.places(grid, units, area=area) * c.spacing
            drawn = (self._spread() * seeded.normals(c.seed, purpose, (units, c.d))).to(torch.get_default_dtype())
            fixed = on_grid is not None and not c.learn
            if on_grid is not None:
                drawn = drawn[:, 2:] if fixed else torch.cat((on_grid.to(drawn), drawn[:, 2:]), 1)
            self.register_parameter(name, nn.Parameter(drawn) if drawn.shape[1] else None)
            places = "in_places" if name == "u" else "out_places"
            self.register_buffer(places, on_grid.to(drawn) if fixed and on_grid is not None else None, persistent=False)
        self.scales = None
        if c.scales:
            with torch.no_grad():  # the weights start with variance 1 / 3in, as dense ones do
                size = (3 * self.in_features * self.kernel(*self.places()).square().mean()).rsqrt()
            scales = seeded.normals(c.seed, _SCALES, (self.maps, self.in_features)).to(size)
            self.scales = nn.Parameter(scales * torch.where(size.isfinite(), size, 1.0))
        self.bias = nn.Parameter(torch.zeros(self.out_features)) if self.has_bias else None

    def _spread(self) -> float:
        """Standard deviation of a drawn coordinate: places within reach of each other, products of about 1."""
        d = self.config.d
        if self.config.kernel in _RADIAL:
            return float(1 / math.sqrt(2 * d * max(1.0, self.config.a)))
        size = 1.0 if self.config.scales else 1 / math.sqrt(3 * self.in_features)
        return float((size**2 / d) ** 0.25)

    @property
    def _is_separable(self) -> bool:
        """Whether K is that of rows times that of columns, and λ is all that is trained."""
        c = self.config
        if c.kernel != "gaussian" or c.d != 2 or self.scales is None or self._is_free:
            return False
        ends = zip(self._grids, (self.in_features, self.out_features), strict=True)
        return all(units % math.prod(sides) == 0 for sides, units in ends)

    @property
    def _grids(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Height and width of a map of inputs, and of outputs; where both are on grids."""
        assert self.config.grid is not None
        assert self.config.out_grid is not None
        return grids.sides(self.config.grid, self.in_features), grids.sides(self.config.out_grid, self.out_features)

    def _axes(self) -> tuple[Tensor, Tensor]:
        """K of rows and K of columns, each ``(of outputs, of inputs)``; the product of both is K."""
        (height, width), (out_height, out_width) = self._grids
        u, v = self.places()
        u, v = u[: height * width], v[: out_height * out_width]
        return self.kernel(u[::width, :1], v[::out_width, :1]), self.kernel(u[:width, 1:], v[:out_width, 1:])

    @property
    def is_exact(self) -> bool:
        return self.config.kernel == "dot" or not self._is_free

    @property
    def _is_free(self) -> bool:
        """Whether any coordinate is trained."""
        return self.u is not None or self.v is not None

    def kind(self, name: str) -> ParameterKind:
        return "diagonal" if name == "scales" else super().kind(name)

    def places(self) -> tuple[Tensor, Tensor]:
        """``u (in, d)`` and ``v (out, d)``: what is fixed and what is trained."""
        ends = ((self.in_places, self.u), (self.out_places, self.v))
        u, v = (torch.cat([part for part in end if part is not None], 1) for end in ends)
        return u, v

    def kernel(self, u: Tensor, v: Tensor) -> Tensor:
        """``K(u_i, v_j)``, ``(out, in)``."""
        kind = self.config.kernel
        if kind == "gaussian":
            return nearness(u, v).exp()
        if kind == "finite":
            reach = math.sqrt(self.config.a)
            return nearness(reach * u, reach * v, 1.0).relu()
        product = v @ u.T
        if kind == "dot":
            return product
        return product.tanh() if kind == "tanh" else (1 + product).square()

    def weight(self, u: Tensor, v: Tensor) -> Tensor:
        """W ``(out, in)`` for places ``u`` and ``v``."""
        if self.scales is None:
            return self.kernel(u, v)
        alike = self.maps if self.v is None else 1  # maps on one fixed grid have the same kernel
        k = self.kernel(u, v[: self.out_features // alike]).reshape(self.maps // alike, -1, self.in_features)
        return (k * self.scales[:, None]).flatten(0, 1)

    def _map(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        if self.config.kernel != "dot":
            return nn.functional.linear(x, self.weight(u, v), self.bias)
        h = (x if self.scales is None else x * self.scales[0]) @ u  # (..., d)
        return nn.functional.linear(h, v, self.bias)

    def transform(self, x: Tensor) -> Tensor:
        return self._map_by_axes(x) if self._is_separable else self._map(x, *self.places())

    def _map_by_axes(self, x: Tensor) -> Tensor:
        """``x`` by λ, summed over the maps of inputs, then K of columns and of rows: ``(..., in) -> (..., out)``.

        Positions come first and samples with maps last, so that all four are products of whole matrices.
        """
        assert self.scales is not None
        (height, width), _ = self._grids
        area, samples = height * width, math.prod(x.shape[:-1])
        down, across = self._axes()
        h = x.reshape(samples, self.in_features // area, area).permute(2, 0, 1).contiguous()
        h = h @ self.scales.view(self.maps, -1, area).permute(2, 1, 0).contiguous()  # (area, samples, maps)
        h = across @ h.view(height, width, samples * self.maps)
        y = (down @ h.flatten(1)).view(len(down) * len(across), samples, self.maps)
        y = y.permute(1, 2, 0).reshape(*x.shape[:-1], self.out_features)
        return y if self.bias is None else y + self.bias

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and self.config.noise):
            return super().forward(x)
        u, v = self.places()
        return self._map(x, u + self.config.noise * torch.randn_like(u), v)

    def macs(self) -> int:
        """Those of the dense map: W is expanded once, for any number of rows; what needs no W has less."""
        if self._is_separable:
            (height, width), (out_height, out_width) = self._grids
            return self.maps * (self.in_features + out_width * height * (width + out_height))
        if self.config.kernel == "dot":
            return self.config.d * (self.in_features + self.out_features) + self.config.scales * self.in_features
        return self.in_features * self.out_features

    @property
    def input_sides(self) -> tuple[int, int] | None:
        grid = self.config.grid
        return None if grid is None else grids.sides(grid, self.in_features)

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [
            {},
            {"kernel": "dot", "d": 2},
            {"kernel": "polynomial", "d": 3, "scales": False},
            {"kernel": "finite", "d": 3, "a": 0.5, "grid": "auto"},
            {"kernel": "gaussian", "d": 3, "grid": "auto", "out_grid": "auto", "learn": False},
            {"kernel": "gaussian", "d": 2, "grid": "auto", "out_grid": "1x1", "learn": False},
        ]

    def fit_samples(self, x: Tensor, y: Tensor) -> float:
        training = self.training
        self.eval()  # without noise
        error = super().fit_samples(x, y)
        self.train(training)
        return error

    def fit_map(self, weight: Tensor, metric: Metric) -> None:
        if self.config.kernel == "dot":
            self._take_low_rank(weight, metric)
        else:
            self._start(weight, metric)
            if self._is_free:
                fit_linear(self, weight, metric, order=None)
                self._solve_scales(weight, metric)
            if self.scales is None and _missed(self, weight, metric) >= _missed(None, weight, metric):
                self._vanish()

    @torch.no_grad()
    def _take_low_rank(self, weight: Tensor, metric: Metric) -> None:
        """The optimum of the dot product: the best map of rank d."""
        assert self.u is not None
        assert self.v is not None
        v, u = _low_rank(weight, metric, self.config.d)
        self.u.copy_(u)
        self.v.copy_(v)
        if self.scales is not None:
            self.scales.fill_(1)

    @torch.no_grad()
    def _start(self, weight: Tensor, metric: Metric) -> None:
        """The better of the places as drawn and those that the weights suggest, λ solved for in each.

        The latter untried where that would take long.
        """
        suggested = self._suggested(weight.double(), metric)
        both = suggested is not None and max(weight.shape) <= _EXACT_SIDE
        if both or suggested is None:
            self._solve_scales(weight, metric)
        if suggested is None:
            return
        drawn = [parameter.detach().clone() for parameter in self.parameters()]
        before = _missed(self, weight, metric) if both else math.inf
        for parameter, values in zip((self.v, self.u), suggested, strict=True):
            if parameter is not None and values is not None:
                parameter.copy_(values)
        self._solve_scales(weight, metric)
        if both and not _missed(self, weight, metric) < before:
            for parameter, values in zip(self.parameters(), drawn, strict=True):
                parameter.copy_(values)

    def _suggested(self, w: Tensor, metric: Metric) -> tuple[Tensor, Tensor | None] | None:
        """``v`` and, where it is free too, ``u``, as W would have them; None where the outputs are on a grid.

        With pixels on a grid, v at the centre of mass of what the output looks at (eq. 10).
        """
        if self.config.out_grid is not None or self.v is None:
            return None
        if self.config.grid is None:
            return self._unfolded(w, metric)
        mass = w.abs() * metric.covariance.diagonal().double().clamp_min(0).sqrt()
        v = self.v.detach().double().clone()
        v[:, :2] = mass @ self.places()[0][:, :2].double() / _nonzero(mass.sum(1))[:, None]
        return v, None

    def _unfolded(self, w: Tensor, metric: Metric) -> tuple[Tensor, Tensor]:
        """``v``, ``u`` from factors of what the kernel would have to be given, for λ as large as the weights."""
        kind, d = self.config.kernel, self.config.d
        if kind == "tanh":
            v, u = _low_rank(w, metric, d)
            if self.scales is not None:
                u /= _nonzero(_BEND * (v @ u.T).abs().amax(0))[:, None]
            return v, u
        positive, negative = w.clamp_min(0).square().sum(0), w.clamp_max(0).square().sum(0)
        values = w * torch.where(positive >= negative, 1.0, -1.0) if self.scales is not None else w
        if self.scales is not None:
            values = values / _nonzero(values.amax(0).clamp_min(0))
        if kind == "polynomial":
            return factors(values.clamp_min(0).sqrt() - 1, d)
        values = values.clamp(_FLOOR, 1)
        distance = -values.log() if kind == "gaussian" else (1 - values) / self.config.a
        centred = distance - distance.mean(0) - distance.mean(1, keepdim=True) + distance.mean()
        return factors(-centred / 2, d)  # ‖u − v‖² without its row and column means

    @torch.no_grad()
    def _solve_scales(self, weight: Tensor, metric: Metric) -> None:
        """The λ that is best for the places as they are: ``(KᵀK ∘ Σ) λ = diag(Kᵀ W Σ)``, map by map."""
        if self.scales is None:
            return
        dtype = torch.float64 if max(weight.shape) <= _EXACT_SIDE else torch.float32
        u, v = self.places()
        shape = (self.maps, -1, self.in_features)  # (maps, out / maps, in)
        kernels = self.kernel(u.to(dtype), v.to(dtype)).reshape(shape)
        seen = (weight.to(dtype) @ metric.covariance.to(dtype)).reshape(shape)
        for k, part, scales in zip(kernels, seen, self.scales, strict=True):
            gram = (k.T @ k).double() * metric.covariance.double()
            scales.copy_(solve(gram, (k * part).sum(0)[:, None])[:, 0])

    @torch.no_grad()
    def _vanish(self) -> None:
        """The zero map, by the places alone."""
        product = self.config.kernel not in _RADIAL
        unit = 1.0 if product else _FAR / min(1.0, math.sqrt(self.config.a))
        for places, other, value in ((self.u, self.v, unit), (self.v, self.u, -unit)):
            if places is not None:
                if product:
                    places.zero_()
                reach = 0.0 if other is not None else float(torch.cat(self.places()).abs().max())
                places[:, -1] = value - reach
        if self.config.kernel == "tanh" and self.v is not None:
            self.v.zero_()

    @classmethod
    def config_for_params(cls, in_features: int, out_features: int, bias: bool, params: int, base: Any) -> Any:
        least = 2 if base.grid or base.out_grid else 1

        def with_size(value: int) -> Any:
            return base.model_copy(update={"d": least - 1 + value})

        return largest(cls, (in_features, out_features), bias, params, with_size, params)


def _low_rank(weight: Tensor, metric: Metric, rank: int) -> tuple[Tensor, Tensor]:
    """``v (out, rank)``, ``u (in, rank)`` with ``v uᵀ`` the best map of that rank in ``metric``."""
    best = SVD.from_dense(weight.detach(), None, SVD.Config.from_settings("svd", {"rank": rank}), metric)
    return best.up.detach(), best.down.detach().T.clone()


def _nonzero(values: Tensor) -> Tensor:
    return torch.where(values > 0, values, 1.0)


@torch.no_grad()
def _missed(layer: KernelNet | None, weight: Tensor, metric: Metric) -> float:
    """``‖(W − Ŵ) Σ^½‖²``, Ŵ = 0 without a layer."""
    missed = weight if layer is None else weight - layer.weight(*layer.places()).to(weight)
    return float(((missed @ metric.covariance.to(missed)) * missed).sum(dtype=torch.float64))
