"""What the tests of the native kernels share: data of any stride and alignment, and the error budget."""

from __future__ import annotations

import torch
from torch import Tensor


def data(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rows_in(rows: int, columns: int, gap: int, offset: int, seed: int) -> Tensor:
    """``(rows, columns)`` inside a larger block: rows ``columns + gap`` apart, the first ``offset`` floats in."""
    block = data(offset + rows * (columns + gap), seed=seed)
    return block[offset:].reshape(rows, columns + gap)[:, :columns]


def assert_in_budget(found: Tensor, plain: Tensor, truth: Tensor, *, terms: Tensor | float | None = None) -> None:
    """``found`` errs at most twice as much as ``plain`` torch in the same dtype, plus a rounding of the result.

    ``terms``: the norm of what was added up, where a result of few numbers may be small by chance.
    """
    assert found.shape == truth.shape
    budget = 2 * (plain.double() - truth).norm() + 2e-7 * (truth.norm() if terms is None else terms)
    assert (found.double() - truth).norm() <= budget
