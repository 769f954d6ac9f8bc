"""Minimise ``½ xᵀHx − bᵀx`` for layers whose map is linear in what they train: direct, or by products with H alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_NULL_SPACE = 1e-10  # of the mean of the diagonal: what is never seen is fitted by the weights alone
_JITTER = 1e-12  # of the mean of the diagonal
_REFINEMENTS = 2
_WORK = 6e11  # multiply-adds of matmuls for one layer: some 20 s on one core
_ITERATIONS = 300
_TOLERANCE = 1e-6  # of the norm of b, for the residual


def never_singular(sigma: Tensor) -> Tensor:
    """``sigma (n, n)`` in float64 plus a little of I, all of I where it is zero: W decides where the data do not."""
    sigma = sigma.to(torch.float64, copy=True)
    level = float(sigma.diagonal().mean())
    sigma.diagonal().add_(_NULL_SPACE * level if level > 0 else 1.0)
    return sigma


def solve_normal(h: Tensor, b: Tensor) -> Tensor:
    """``x (..., n, m)`` with ``H x = b``, for positive semidefinite ``h (..., n, n)`` in float64, perhaps singular.

    By Cholesky with a jitter on the diagonal, which refinement takes out again.
    """
    level = h.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    level = torch.where(level > 0, level, 1.0)
    factor = torch.linalg.cholesky(h + _JITTER * level * torch.eye(h.shape[-1], dtype=h.dtype))
    x = torch.cholesky_solve(b, factor)
    for _ in range(_REFINEMENTS):
        x = x + torch.cholesky_solve(b - h @ x, factor)
    return x


def conjugate_gradient(
    product: Callable[[Tensor], Tensor], b: Tensor, precondition: Callable[[Tensor], Tensor], *, macs: int
) -> Tensor:
    """``x`` with ``product(x) = b``, from 0, for a symmetric product that costs ``macs``; bounded by work."""
    x, residual = torch.zeros_like(b), b
    smallest = _TOLERANCE * float(b.norm())
    towards = ahead = precondition(residual)
    energy = float((residual * towards).sum())
    for _ in range(max(1, min(_ITERATIONS, int(_WORK / macs)))):
        if float(residual.norm()) <= smallest:
            break
        seen = product(ahead)
        step = energy / float((ahead * seen).sum())
        x = x + step * ahead
        residual = residual - step * seen
        towards = precondition(residual)
        before, energy = energy, float((residual * towards).sum())
        ahead = towards + (energy / before) * ahead
    return x
