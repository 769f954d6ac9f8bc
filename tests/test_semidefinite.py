"""The solvers of semidefinite systems: right where they are nearly singular, and bounded by work."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from compressor.layers import semidefinite


def data(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def test_conjugate_gradients_need_as_many_products_as_there_are_unknowns() -> None:
    root, calls = data(12, 12), []
    h = root @ root.T + torch.eye(12, dtype=torch.float64)

    def product(x: Tensor) -> Tensor:
        calls.append(x)
        return h @ x

    x = semidefinite.conjugate_gradients(product, h @ data(12), lambda r: r / h.diagonal(), steps=300)
    assert float((x - data(12)).norm()) < 1e-4
    assert len(calls) <= 13
    calls.clear()
    steps = semidefinite.steps_for(int(semidefinite._WORK / 3))
    semidefinite.conjugate_gradients(product, h @ data(12), lambda r: r, steps=steps)
    assert len(calls) == 3


def test_the_jitter_leaves_no_trace_and_a_singular_matrix_is_taken() -> None:
    h = torch.diag(torch.tensor([1.0, 1e-10], dtype=torch.float64)).repeat(2, 1, 1)
    h[1, 1, 1] = 0
    x = semidefinite.solve(h, h @ torch.ones(2, 1, dtype=torch.float64), refined=True)
    torch.testing.assert_close(x[0, :, 0], torch.ones(2, dtype=torch.float64), rtol=1e-6, atol=0)
    torch.testing.assert_close(x[1, :, 0], torch.tensor([1.0, 0.0], dtype=torch.float64))
    assert not semidefinite.solve(torch.zeros(2, 2).double(), torch.zeros(2, 1).double()).any()


def test_problems_that_stand_apart_take_no_more_steps_than_each_alone() -> None:
    roots, wanted = data(3, 12, 12), data(3, 12)
    h = roots @ roots.mT + torch.eye(12, dtype=torch.float64)
    wanted[1] = 0

    def product(rows: Tensor) -> Tensor:
        return (h @ rows[..., None])[..., 0]

    scale = 1 / h.diagonal(dim1=1, dim2=2)
    x = semidefinite.conjugate_gradients(
        product, product(wanted), lambda rows: rows * scale, steps=14, apart=True, tolerance=1e-13
    )
    torch.testing.assert_close(x, wanted)


def test_a_zero_matrix_is_damped_to_the_identity_and_no_other_in_its_batch_is() -> None:
    both = torch.stack((torch.zeros(3, 3), 2 * torch.eye(3))).double()
    found = semidefinite.damped(both, 0.5)
    torch.testing.assert_close(found, torch.stack((torch.eye(3), 3 * torch.eye(3))).double())


def test_a_matrix_that_is_not_semidefinite_is_refused() -> None:
    with pytest.raises(ValueError, match="not positive semidefinite"):
        semidefinite.solve(torch.diag(torch.tensor([3.0, -2.0])), torch.ones(2, 1))
