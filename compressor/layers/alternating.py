"""Exact least squares on one factor at a time, for layers whose map is linear in each of their factors.

All is float64 and in the whole of Σ. No step raises the loss, so that a fit ends at least as near as the best of
its starts. Bounded by work, never by the clock.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from compressor.layers import solve
from compressor.layers.base import Metric

Factors = tuple[Tensor, ...]

_WORK = 3e10  # multiply-adds of one fit, nearly all in matmuls: some seconds on one core
_MOST_WORK = 2e11  # of one sweep: where it is more, there is none
_GAIN = 1e-4  # of the loss: a sweep that brings less is the last
_DAMPING = 1e-10  # of the mean of a Gram matrix's diagonal
_ROOT_DAMPING = 1e-6  # of Σ's mean eigenvalue, where its root is divided by
_WHOLE = 512  # rows of a matrix that is decomposed whole
_MORE, _ROUNDS = 32, 4  # columns beyond the rank, and rounds, of a subspace iteration
_LEAST_EVALUATIONS = 20


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
    joint = min(solve._ITERATIONS // 2, int(_WORK / cost) // 2)
    joint = joint if joint >= _LEAST_EVALUATIONS else 0
    sweep_cost = cost if sweep_cost is None else sweep_cost
    sweeps = math.ceil(_WORK / sweep_cost) if sweep_cost <= _MOST_WORK else 0
    sweeps = min(sweeps, max(2, solve._ITERATIONS // 16)) if joint else sweeps
    if not joint and not sweeps:
        return starts[-1]
    ranked = sorted(((float(loss(start)), start) for start in starts), key=lambda pair: pair[0])
    ends = [_swept(*pair, sweep, sweeps) for pair in ranked[: None if joint else 1]]
    best, factors = min(ends, key=lambda pair: pair[0])
    if not joint or best <= 0:
        return factors
    together = [torch.nn.Parameter(factor.clone(memory_format=torch.contiguous_format)) for factor in factors]
    solve._lbfgs(together, lambda: loss(tuple(together)) / best, joint)
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
    step: Tensor = torch.cholesky_solve(downhill, torch.linalg.cholesky(damped(gram)))
    return step


def damped(gram: Tensor) -> Tensor:
    """``gram (..., n, n)`` with a little on its diagonal, so that it is positive definite."""
    by = _DAMPING * gram.diagonal(dim1=-2, dim2=-1).mean(-1) + math.sqrt(torch.finfo(gram.dtype).tiny)
    return gram + by[..., None, None] * torch.eye(gram.shape[-1], dtype=gram.dtype)


def padded_metric(metric: Metric, width: int) -> Tensor:
    """Σ ``(width, width)`` float64 of inputs that are filled up with zeros."""
    more = width - len(metric.covariance)
    return torch.nn.functional.pad(metric.covariance.double(), (0, more, 0, more))


def leading_vectors(gram: Tensor, count: int) -> Tensor:
    """Eigenvectors ``(n, count)`` of the largest eigenvalues of ``gram (n, n)``; zeros where there are fewer.

    By subspace iteration, nearly exact, where the whole decomposition would take long.
    """
    if len(gram) > max(_WHOLE, 2 * count):
        return solve.leading(gram, count)[1]
    vectors = torch.linalg.eigh(gram)[1].flip(1)[:, :count]
    return torch.nn.functional.pad(vectors, (0, count - vectors.shape[1]))


def truncated(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """``left (m, rank)``, orthonormal, and ``right (rank, n)``, whose product is ``matrix`` at its best at that rank.

    By subspace iteration, nearly exact, where the whole decomposition would take long; zeros above the full rank.
    """
    m, n = matrix.shape
    if m > n:
        right, left = truncated(matrix.T, rank)
        return left.T, right.T
    if m <= max(_WHOLE, 2 * rank):
        left = leading_vectors(matrix @ matrix.T, rank)
    else:
        basis = torch.randn(n, rank + _MORE, generator=torch.Generator().manual_seed(0), dtype=matrix.dtype)
        for _ in range(_ROUNDS):
            basis = matrix.T @ torch.linalg.qr(matrix @ basis).Q
        left = torch.linalg.qr(matrix @ basis).Q
        inner = left.T @ matrix
        left = left @ leading_vectors(inner @ inner.T, rank)
    return left, left.T @ matrix


def roots(sigma: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric square root of ``sigma (n, n)``, with enough on its diagonal, and the inverse of that root."""
    values, vectors = torch.linalg.eigh(sigma)
    values = values.clamp_min(0) + _ROOT_DAMPING * values.mean().clamp_min(0) + math.sqrt(torch.finfo(sigma.dtype).tiny)
    return (vectors * values.sqrt()) @ vectors.mT, (vectors * values.rsqrt()) @ vectors.mT


def left_vectors(blocks: Tensor, sigma: Tensor, rank: int) -> Tensor:
    """The leading ``rank`` left singular vectors ``(..., q, rank)`` of ``blocks (..., q, p)`` times Σ^½.

    ``sigma (..., p, p)`` is Σ. Zeros where there are fewer vectors.
    """
    q, p = blocks.shape[-2:]
    if q <= p:
        vectors = torch.linalg.eigh(blocks @ sigma @ blocks.mT)[1].flip(-1)
    else:
        values, basis = torch.linalg.eigh(sigma)
        vectors = torch.linalg.svd(blocks @ (basis * values.clamp_min(0).sqrt()[..., None, :]), full_matrices=False)[0]
    vectors = vectors[..., :rank]
    return torch.nn.functional.pad(vectors, (0, rank - vectors.shape[-1]))


def balanced(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """``left (..., q, s)`` and ``right (..., s, p)`` with the same product and equally large columns and rows."""
    a, b = left.norm(dim=-2), right.norm(dim=-1)
    ratio = torch.where((a > 0) & (b > 0), (b / a.clamp_min(1e-300)).sqrt(), 1.0)
    return left * ratio[..., None, :], right / ratio[..., :, None]
