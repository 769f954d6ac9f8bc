"""Leading eigenvectors, and factors of low rank; by an iterated subspace where the whole decomposition would take long.

Deterministic: subspaces start from a seed.
"""

from __future__ import annotations

import torch
from torch import Tensor

_WHOLE = 512  # rows of a matrix that is decomposed whole
_MORE, _SKETCH = 32, 16  # columns of a subspace beyond those wanted; in `factors`
_ROUNDS, _EIGEN_ROUNDS = 4, 3  # of its iteration


def leading(sigma: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The largest ``count`` eigenvalues of ``sigma (n, n)`` and their vectors ``(n, count)``, largest first.

    By subspace iteration where the whole decomposition would take long.
    """
    n = len(sigma)
    if n <= 2 * count:
        values, vectors = torch.linalg.eigh(sigma)
    else:
        basis = torch.randn(n, count + _MORE, generator=torch.Generator().manual_seed(0), dtype=sigma.dtype)
        for _ in range(_EIGEN_ROUNDS):
            basis = torch.linalg.qr(sigma @ basis).Q
        values, inner = torch.linalg.eigh(basis.T @ sigma @ basis)
        vectors = basis @ inner
    return values.flip(0)[:count].clamp_min(0), vectors.flip(1)[:, :count]


def leading_vectors(gram: Tensor, count: int) -> Tensor:
    """Eigenvectors ``(n, count)`` of the largest eigenvalues of ``gram (n, n)``; zeros where there are fewer.

    By subspace iteration, nearly exact, where the whole decomposition would take long.
    """
    if len(gram) > max(_WHOLE, 2 * count):
        return leading(gram, count)[1]
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
        left = torch.linalg.qr(matrix @ _subspace(matrix, rank + _MORE)).Q
        inner = left.T @ matrix
        left = left @ leading_vectors(inner @ inner.T, rank)
    return left, left.T @ matrix


def factors(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """``left (rows, rank)`` and ``right (columns, rank)``, equally large, with ``left rightᵀ`` near ``matrix``.

    The truncated singular value decomposition, in float64; zeros above the full rank.
    """
    m = matrix.double()
    held = min(rank, *m.shape)
    if min(m.shape) <= 4 * (held + _SKETCH):
        u, s, vt = torch.linalg.svd(m, full_matrices=False)
    else:
        basis = _subspace(m, held + _SKETCH)
        u, s, vt = torch.linalg.svd(m @ basis, full_matrices=False)
        vt = vt @ basis.T
    left, right = m.new_zeros(len(m), rank), m.new_zeros(m.shape[1], rank)
    left[:, :held] = u[:, :held] * s[:held].sqrt()
    right[:, :held] = vt[:held].T * s[:held].sqrt()
    return left, right


def _subspace(matrix: Tensor, count: int) -> Tensor:
    """An orthonormal basis ``(columns, count)`` of nearly what ``matrix (rows, columns)`` stretches most."""
    generator = torch.Generator().manual_seed(0)
    basis = torch.randn(matrix.shape[1], count, generator=generator, dtype=matrix.dtype)
    for _ in range(_ROUNDS):
        basis = torch.linalg.qr(matrix.T @ (matrix @ basis)).Q
    return basis


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
