"""Layers that are moved to a dense map in place: what a fit to one, and to samples, is for all of them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import Any, Self

import torch
from torch import Tensor, nn

from compressor.layers.base import Metric, StructuredLayer
from compressor.layers.solve import fit_to_samples, linear_aim, wanted_offset


class FittedLayer(StructuredLayer):
    """A layer whose sizes do not depend on the weights it is fitted to, with an offset that is set after its map."""

    bias: nn.Parameter | None  # a method with its offset elsewhere says how in `set_offset`

    @abstractmethod
    def fit_map(self, weight: Tensor, metric: Metric) -> None:
        """Of a linear layer: move its linear part to the map nearest to ``weight (out, in)`` in ``metric``, in place.

        ``weight`` has no gradient.
        """

    @torch.no_grad()
    def set_offset(self, offset: Tensor) -> None:
        """Give ``offset (out,)`` for a zero input, where there is a bias."""
        if self.bias is not None:
            self.bias.copy_(offset)

    @classmethod
    def from_dense(cls, weight: Tensor, bias: Tensor | None, config: Any, metric: Metric) -> Self:
        out_features, in_features = weight.shape
        layer = cls(in_features, out_features, bias=bias is not None, config=config).to(weight.dtype)
        layer.fit_map(weight.detach(), metric)
        layer.set_offset(wanted_offset(layer, weight, bias, metric))
        return layer

    def fit_samples(self, x: Tensor, y: Tensor) -> float:
        return fit_from_dense(self, x, y)


def fit_from_dense(layer: StructuredLayer, x: Tensor, y: Tensor, *, near: Any = None) -> float:
    """`fit_to_samples`, from where `from_dense` puts the affine map nearest to ``x (rows, in) -> y (rows, out)``.

    ``near`` is the configuration of a layer that stores its map as ``layer`` does, the layer's own where it is None;
    what only one of the two stores is left as it is.
    """
    weight, bias, metric = linear_aim(x, y, has_bias=layer.has_bias)
    found = layer.from_dense(weight, bias, layer.config if near is None else near, metric)
    layer.load_state_dict(found.state_dict(), strict=near is None)
    return fit_to_samples(layer, x, y)


@torch.no_grad()
def take(parameters: Iterable[nn.Parameter], values: Iterable[Tensor]) -> None:
    """Copy ``values`` into as many ``parameters``."""
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)
