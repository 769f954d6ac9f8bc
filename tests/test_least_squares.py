"""The solvers of normal equations: right where they are nearly singular, and bounded by work."""

from __future__ import annotations

import torch
from torch import Tensor

from compressor.layers import least_squares


def data(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def test_conjugate_gradients_need_as_many_products_as_there_are_unknowns() -> None:
    root, calls = data(12, 12), []
    h = root @ root.T + torch.eye(12, dtype=torch.float64)

    def product(x: Tensor) -> Tensor:
        calls.append(x)
        return h @ x

    x = least_squares.conjugate_gradient(product, h @ data(12), lambda r: r / h.diagonal(), macs=144)
    assert float((x - data(12)).norm()) < 1e-4
    assert len(calls) <= 13
    calls.clear()
    least_squares.conjugate_gradient(product, h @ data(12), lambda r: r, macs=int(least_squares._WORK / 3))
    assert len(calls) == 3


def test_the_jitter_leaves_no_trace_and_a_singular_matrix_is_taken() -> None:
    h = torch.diag(torch.tensor([1.0, 1e-10], dtype=torch.float64)).repeat(2, 1, 1)
    h[1, 1, 1] = 0
    x = least_squares.solve_normal(h, h @ torch.ones(2, 1, dtype=torch.float64))
    torch.testing.assert_close(x[0, :, 0], torch.ones(2, dtype=torch.float64), rtol=1e-6, atol=0)
    torch.testing.assert_close(x[1, :, 0], torch.tensor([1.0, 0.0], dtype=torch.float64))
    assert not least_squares.solve_normal(torch.zeros(2, 2).double(), torch.zeros(2, 1).double()).any()
