"""Exact least squares on one factor at a time, for layers whose map is linear in each of their factors.

All is float64 and in the whole of Σ. No step raises the loss, so that a fit ends at least as near as the best of
its starts. Bounded by work, never by the clock.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from compressor.layers import lbfgs
from compressor.layers.base import Metric
from compressor.layers.semidefinite import NULL_SPACE, solve

Factors = tuple[Tensor, ...]

_WORK = 3e10  # multiply-adds of one fit, nearly all in matmuls: some seconds on one core
_MOST_WORK = 2e11  # of one sweep: where it is more, there is none
_GAIN = 1e-4  # of the loss: a sweep that brings less is the last
_ROOT_DAMPING = 1e-6  # of Σ's mean eigenvalue, where its root is divided by


def descend(
    starts: Sequence[Factors],
    loss: Callable[[Factors], Tensor],
    sweep: Callable[[Factors], tuple[Factors, Tensor]],
    cost: float,
    sweep_cost: float | None = None,
) -> Factors:
    """``sweep`` from each of ``starts`` again and again, then all factors together by L-BFGS; the best factors.

    ``sweep`` gives new factors and their ``loss``, which autograd can differentiate; ``cost`` is the multiply-adds
    of the loss and its gradient, and of a sweep where ``sweep_cost`` does not say otherwise. Few sweeps bring most of
    the way, and crawl then; L-BFGS from there is as good as from the best of several random starts, in a fraction of
    the work. Only the best start is taken where work is dear. One sweep is made even where it takes all the work and
    more, but not where it is far too much; where nothing at all is done, the last start is taken as it is.
    """
    joint = min(lbfgs.MOST_EVALUATIONS // 2, int(_WORK / cost) // 2)
    joint = joint if joint >= lbfgs.LEAST_EVALUATIONS else 0
    sweep_cost = cost if sweep_cost is None else sweep_cost
    sweeps = math.ceil(_WORK / sweep_cost) if sweep_cost <= _MOST_WORK else 0
    sweeps = min(sweeps, max(2, lbfgs.MOST_EVALUATIONS // 16)) if joint else sweeps
    if not joint and not sweeps:
        return starts[-1]
    ranked = sorted(((float(loss(start)), start) for start in starts), key=lambda pair: pair[0])
    ends = [_swept(*pair, sweep, sweeps) for pair in ranked[: None if joint else 1]]
    best, factors = min(ends, key=lambda pair: pair[0])
    if not joint or best <= 0:
        return factors
    together = [torch.nn.Parameter(factor.clone(memory_format=torch.contiguous_format)) for factor in factors]
    lbfgs.minimise(together, lambda: loss(tuple(together)) / best, joint)
    return tuple(factor.detach() for factor in together)


def _swept(
    best: float, factors: Factors, sweep: Callable[[Factors], tuple[Factors, Tensor]], sweeps: int
) -> tuple[float, Factors]:
    for _ in range(sweeps):
        moved, reached = sweep(factors)
        if not float(reached) < best:
            break
        gained, factors, best = best - float(reached), moved, float(reached)
        if gained < _GAIN * best:
            break
    return best, factors


def least_squares_step(gram: Tensor, downhill: Tensor) -> Tensor:
    """``D (..., n, m)`` that solves ``gram D = downhill``: the step to the optimum of a quadratic, slightly damped.

    ``gram (..., n, n)`` may be singular: nothing moves along directions that do not count.
    """
    return solve(gram, downhill, damping=NULL_SPACE)


def padded_metric(metric: Metric, width: int) -> Tensor:
    """Σ ``(width, width)`` float64 of inputs that are filled up with zeros."""
    more = width - len(metric.covariance)
    return torch.nn.functional.pad(metric.covariance.double(), (0, more, 0, more))


def roots(sigma: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric square root of ``sigma (n, n)``, with enough on its diagonal, and the inverse of that root."""
    values, vectors = torch.linalg.eigh(sigma)
    values = values.clamp_min(0) + _ROOT_DAMPING * values.mean().clamp_min(0) + math.sqrt(torch.finfo(sigma.dtype).tiny)
    return (vectors * values.sqrt()) @ vectors.mT, (vectors * values.rsqrt()) @ vectors.mT
