"""Least squares through normal equations that may be singular, and truncated factors of a matrix."""

from __future__ import annotations

import torch
from torch import Tensor

_DAMPING = 1e-14  # of the mean of the diagonal: the first try
_SKETCH = 16  # columns more than the rank, of the subspace that is iterated


def solve(gram: Tensor, right: Tensor) -> Tensor:
    """``x`` with ``gram x = right`` for symmetric positive semidefinite ``gram (..., n, n)``, ``right (..., n, m)``.

    In float64, damped by as little as lets it be factored; a system of zeros gives zeros.
    """
    a, b = gram.double(), right.double()
    scale = a.diagonal(dim1=-2, dim2=-1).mean(-1, keepdim=True)[..., None]
    scale = torch.where(scale > 0, scale, 1.0)
    eye = torch.eye(a.shape[-1], dtype=a.dtype)
    damping = _DAMPING
    while True:
        factor, failed = torch.linalg.cholesky_ex(a + damping * scale * eye)
        if not bool(failed.any()):
            return torch.cholesky_solve(b, factor)
        damping *= 100
        if damping > 1:
            raise ValueError("the matrix of a least-squares problem is not positive semidefinite")


def factors(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """``left (rows, rank)`` and ``right (columns, rank)``, equally large, with ``left rightᵀ`` near ``matrix``.

    The truncated singular value decomposition, through an iterated subspace where the whole would take long.
    """
    m = matrix.double()
    held = min(rank, *m.shape)
    if min(m.shape) <= 4 * (held + _SKETCH):
        u, s, vt = torch.linalg.svd(m, full_matrices=False)
    else:
        generator = torch.Generator().manual_seed(0)
        basis = torch.randn(m.shape[1], held + _SKETCH, generator=generator, dtype=m.dtype)
        for _ in range(4):
            basis = torch.linalg.qr(m.T @ (m @ basis)).Q
        u, s, vt = torch.linalg.svd(m @ basis, full_matrices=False)
        vt = vt @ basis.T
    left, right = m.new_zeros(len(m), rank), m.new_zeros(m.shape[1], rank)
    left[:, :held] = u[:, :held] * s[:held].sqrt()
    right[:, :held] = vt[:held].T * s[:held].sqrt()
    return left, right
