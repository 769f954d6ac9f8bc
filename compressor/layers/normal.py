"""Normal equations by conjugate gradients, and their use for values that several weights share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from compressor.layers.base import Metric

_WORK = 6e10  # floating-point operations: some 5 s on one core
_LEAST_STEPS = 8
_CONVERGED = 1e-26  # of the first residual, squared
_DOUBLE = 1024  # sides up to which float64 is used
_DAMPING = 1e-8  # of the mean of Σ's diagonal


@torch.no_grad()
def conjugate_gradients(
    product: Callable[[Tensor], Tensor], residual: Tensor, start: Tensor, scale: Tensor, steps: int
) -> Tensor:
    """At most ``steps`` from ``start`` to the z with ``product(z) = right``; ``residual`` is what is missing at first.

    Every vector of the last axis is a problem of its own, and its error falls with every step; ``scale`` is the
    preconditioner, the inverse of the diagonal (0 where nothing may change).
    """
    near, z = start, residual * scale
    direction, power = z, (residual * z).sum(-1, keepdim=True)
    enough = power * _CONVERGED
    for _ in range(steps):
        if bool((power <= enough).all()):
            break
        seen = product(direction)
        step = power / (direction * seen).sum(-1, keepdim=True).clamp_min(1e-30)
        near = near + step * direction
        residual = residual - step * seen
        z = residual * scale
        before, power = power, (residual * z).sum(-1, keepdim=True)
        direction = z + power / before.clamp_min(1e-30) * direction
    return near


def damped(metric: Metric) -> Tensor:
    """Σ in float64, scaled to a mean of 1 on its diagonal and made positive definite."""
    sigma = metric.covariance.double()
    scale = float(sigma.diagonal().mean())
    sigma = sigma / scale if scale > 0 else torch.zeros_like(sigma)
    return sigma + _DAMPING * torch.eye(len(sigma), dtype=sigma.dtype, device=sigma.device)


@torch.no_grad()
def shared_values(
    weight: Tensor, metric: Metric, expand: Callable[[Tensor], Tensor], collect: Callable[[Tensor], Tensor], count: int
) -> Tensor:
    """The v ``(count,)``, float64, with the smallest ``‖(W − expand(v)) Σ^½‖``.

    ``expand`` is linear, ``(count,) -> (out, in)``, and puts each value in places of its own with a factor of 1 or −1;
    ``collect`` is its transpose. From the means of the places (the answer for Σ = I), by conjugate gradients.
    """
    dtype = torch.float64 if max(weight.shape) <= _DOUBLE else torch.float32
    w, sigma = weight.detach().to(dtype), damped(metric).to(dtype)
    places = collect(expand(w.new_ones(count)))  # how many each value has
    inverse = torch.where(places > 0, 1 / places, 0.0)
    start = collect(w) * inverse
    sizes = collect(expand(w.new_ones(count)) * sigma.diagonal())
    steps = min(4 * count, max(_LEAST_STEPS, int(_WORK / (2 * w.numel() * len(sigma)))))
    residual = collect((w - expand(start)) @ sigma)
    scale = torch.where(sizes > 0, 1 / sizes, 0.0)
    return conjugate_gradients(lambda v: collect(expand(v) @ sigma), residual, start, scale, steps).double()
