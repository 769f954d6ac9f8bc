"""Least squares on one factor at a time: steps that cannot go wrong, starts that are exact."""

from __future__ import annotations

import pytest
import torch

from compressor.layers import Metric
from compressor.layers.alternating import (
    _MOST_WORK,
    _WORK,
    descend,
    least_squares_step,
    roots,
)
from compressor.layers.truncation import balanced, left_vectors, truncated


def data(*shape: int, seed: int = 3) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(2, 4, 9), (2, 9, 4)])
def test_left_vectors_are_those_of_the_blocks_in_their_metric(shape: tuple[int, ...]) -> None:
    blocks, half = data(*shape), data(2, shape[2], shape[2], seed=5)
    sigma = half @ half.mT
    u = left_vectors(blocks, sigma, 3)
    torch.testing.assert_close(u.mT @ u, torch.eye(3, dtype=u.dtype).expand(2, 3, 3))
    for block, vectors, own in zip(blocks, u, sigma, strict=True):
        root = Metric(own, own[0]).root()
        kept = torch.linalg.svdvals(block @ root)[:3].square().sum()
        torch.testing.assert_close((vectors.T @ block @ root).square().sum(), kept)


def test_vectors_that_are_not_there_are_zero() -> None:
    u = left_vectors(data(1, 2, 5), torch.eye(5, dtype=torch.float64)[None], 4)
    assert u.shape == (1, 2, 4)
    assert not u[..., 2:].any()


def test_balanced_factors_have_the_same_product_and_one_size() -> None:
    left, right = data(5, 3) * torch.tensor([100.0, 1.0, 0.0]), data(3, 4)
    a, b = balanced(left, right)
    torch.testing.assert_close(a @ b, left @ right)
    torch.testing.assert_close(a.norm(dim=0)[:2], b.norm(dim=1)[:2])


def test_a_step_reaches_the_optimum_and_leaves_what_does_not_count_where_it_is() -> None:
    basis = data(6, 3)
    gram, start = basis @ basis.T, data(6, 2)  # of rank 3
    aim = gram @ data(6, 2, seed=9)
    step = least_squares_step(gram, aim - gram @ start)
    torch.testing.assert_close(gram @ (start + step), aim, rtol=1e-6, atol=1e-6)
    unseen = torch.linalg.qr(basis, mode="complete")[0][:, 3:]
    torch.testing.assert_close(unseen.T @ step, torch.zeros(3, 2).double(), rtol=0, atol=1e-5)
    assert not least_squares_step(torch.zeros(4, 4).double(), torch.zeros(4, 1).double()).any()


def test_the_descent_goes_on_from_the_best_start_and_never_keeps_a_worse_point() -> None:
    def loss(factors: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return factors[0].square().sum() + 1

    def away(factors: tuple[torch.Tensor, ...]) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
        return (3 * factors[0],), loss((3 * factors[0],))

    starts = [(torch.full((2,), 5.0).double(),), (torch.full((2,), 2.0).double(),)]
    assert torch.equal(descend(starts, loss, away, cost=_WORK / 10)[0], starts[1][0])  # too few for L-BFGS
    assert torch.equal(descend(starts[::-1], loss, away, cost=_MOST_WORK * 2)[0], starts[0][0])  # too few to look
    assert float(loss(descend(starts, loss, away, cost=1.0))) < 1 + 1e-9


def test_roots_are_of_the_matrix_and_of_its_inverse_and_bear_a_singular_one() -> None:
    half = data(5, 5)
    root, inverse = roots(half @ half.T)
    torch.testing.assert_close(root @ root, half @ half.T, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(root @ inverse, torch.eye(5, dtype=root.dtype))
    for flat in (torch.zeros(3, 3).double(), torch.ones(3, 3).double()):
        assert all(bool(matrix.isfinite().all()) for matrix in roots(flat))


@pytest.mark.parametrize("shape", [(9, 4), (4, 9), (600, 700), (700, 600)])
def test_truncated_factors_miss_hardly_more_than_the_tail(shape: tuple[int, int]) -> None:
    matrix = data(*shape) * torch.logspace(0, -3, shape[1])
    left, right = truncated(matrix, 3)
    assert (left.shape, right.shape) == ((shape[0], 3), (3, shape[1]))
    tail = torch.linalg.svdvals(matrix)[3:].norm()
    assert (matrix - left @ right).norm() < 1.0001 * tail
    left, right = truncated(matrix[:2], 3)
    torch.testing.assert_close(left @ right, matrix[:2])
