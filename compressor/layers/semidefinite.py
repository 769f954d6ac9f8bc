"""Linear systems with a positive semidefinite matrix, perhaps singular: made definite, solved directly or by products.

The normal equations of least squares are such systems, and Σ is such a matrix.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from compressor.layers.base import Metric

NULL_SPACE = 1e-10  # of the mean of the diagonal
_UNSEEN = 1e-8  # the same, where the products are of single precision
_DAMPING = 1e-14  # the same, of a matrix that is to be factored: the first try
_REFINEMENTS = 2
_WORK = 6e11  # multiply-adds of matmuls for one system: some 20 s on one core
_ITERATIONS = 300
_TOLERANCE = 1e-6  # of the norm of the right-hand side, for the residual


def damped(matrix: Tensor, share: float = NULL_SPACE) -> Tensor:
    """``matrix (..., n, n)`` plus ``share`` of the mean of its diagonal on the diagonal; plus I where it is zero.

    Of Σ: what the data never show is decided by W alone.
    """
    level = matrix.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    by = torch.where(level > 0, share * level, 1.0)
    return matrix + by * torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)


def unit_covariance(metric: Metric) -> Tensor:
    """Σ in float64, scaled to a mean of 1 on its diagonal and made positive definite."""
    sigma = metric.covariance.double()
    scale = float(sigma.diagonal().mean())
    return damped(sigma / scale if scale > 0 else torch.zeros_like(sigma), _UNSEEN)


def solve(gram: Tensor, right: Tensor, *, damping: float = _DAMPING, refined: bool = False) -> Tensor:
    """``x (..., n, m)`` with ``gram x = right``, for ``gram (..., n, n)``, in float64; zeros where ``right`` is zero.

    By Cholesky's factors of the matrix damped by ``damping``, by more where that is too little to be factored. With
    ``refined`` the damping is taken out again along directions that count.
    """
    a, b = gram.double(), right.double()
    share = damping
    while True:
        factor, failed = torch.linalg.cholesky_ex(damped(a, share))
        if not bool(failed.any()):
            break
        share *= 100
        if share > 1:
            raise ValueError("the matrix of a least-squares problem is not positive semidefinite")
    x = torch.cholesky_solve(b, factor)
    for _ in range(_REFINEMENTS if refined else 0):
        x = x + torch.cholesky_solve(b - a @ x, factor)
    return x


@torch.no_grad()
def conjugate_gradients(
    product: Callable[[Tensor], Tensor],
    residual: Tensor,
    precondition: Callable[[Tensor], Tensor],
    *,
    steps: int,
    start: Tensor | None = None,
    apart: bool = False,
    tolerance: float = _TOLERANCE,
) -> Tensor:
    """At most ``steps`` from ``start`` (zero) to the x with ``product(x) = right``; the error falls with every step.

    ``residual`` is what is missing at first; the end is where its norm has fallen to ``tolerance`` of that.
    ``precondition`` is near the inverse of ``product``. With ``apart`` every vector of the last axis is a problem of
    its own.
    """

    def dot(one: Tensor, other: Tensor) -> Tensor:
        products = one * other
        return products.sum(-1, keepdim=True) if apart else products.sum()

    x = torch.zeros_like(residual) if start is None else start
    ahead = towards = precondition(residual)
    energy, enough = dot(residual, towards), tolerance**2 * dot(residual, residual)
    for _ in range(steps):
        if bool((dot(residual, residual) <= enough).all()):
            break
        seen = product(ahead)
        step = energy / dot(ahead, seen).clamp_min(1e-30)
        x = x + step * ahead
        residual = residual - step * seen
        towards = precondition(residual)
        before, energy = energy, dot(residual, towards)
        ahead = towards + energy / before.clamp_min(1e-30) * ahead
    return x


def steps_for(macs: int) -> int:
    """How many steps of conjugate gradients are afforded whose product costs ``macs``."""
    return max(1, min(_ITERATIONS, int(_WORK / macs)))
