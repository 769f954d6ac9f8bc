"""Values that several weights share: the best of them in the metric."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from compressor.layers.base import Metric
from compressor.layers.semidefinite import conjugate_gradients, unit_covariance

_WORK = 2.4e11  # floating-point operations: some 10 s on one core
_LEAST_STEPS = 8
_CONVERGED = 1e-13  # of the norm of the first residual
_DOUBLE = 1024  # sides up to which float64 is used


@torch.no_grad()
def shared_values(
    weight: Tensor, metric: Metric, expand: Callable[[Tensor], Tensor], collect: Callable[[Tensor], Tensor], count: int
) -> Tensor:
    """The v ``(count,)``, float64, with the smallest ``‖(W − expand(v)) Σ^½‖``.

    ``expand`` is linear, ``(count,) -> (out, in)``, and puts each value in places of its own with a factor of 1 or −1;
    ``collect`` is its transpose. From the means of the places (the answer for Σ = I), by conjugate gradients.
    """
    dtype = torch.float64 if max(weight.shape) <= _DOUBLE else torch.float32
    w, sigma = weight.detach().to(dtype), unit_covariance(metric).to(dtype)
    places = collect(expand(w.new_ones(count)))  # how many each value has
    inverse = torch.where(places > 0, 1 / places, 0.0)
    start = collect(w) * inverse
    sizes = collect(expand(w.new_ones(count)) * sigma.diagonal())
    scale = torch.where(sizes > 0, 1 / sizes, 0.0)
    return conjugate_gradients(
        lambda v: collect(expand(v) @ sigma),
        collect((w - expand(start)) @ sigma),
        lambda residual: residual * scale,
        start=start,
        steps=min(4 * count, max(_LEAST_STEPS, int(_WORK / (2 * w.numel() * len(sigma))))),
        tolerance=_CONVERGED,
    ).double()
