"""What the tests of the native kernels share: data of any stride and alignment, random cases, and the error budget."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from hypothesis import HealthCheck, settings
from torch import Tensor, nn

from compressor.layers import build

# Random cases, the same ones in every run: a red test is red for everybody.
random_cases = settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
NUMBERS = 128  # an error of fewer is good or bad luck


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
    rounding = torch.finfo(torch.float32).eps * (truth.norm() if terms is None else terms)
    budget = 2 * (plain.double() - truth).norm() + rounding
    assert (found.double() - truth).norm() <= budget


def together(tables: Iterable[Tensor]) -> Tensor:
    """The gradients of all tables as one: a sum over rows can be lucky, in one precision or the other."""
    return torch.cat([table.flatten() for table in tables])


def assert_same_bytes_for_same_threads(gradients: Callable[[], Sequence[Tensor]]) -> None:
    """On three threads ``gradients`` gives the same bytes twice, and what it gives on one, up to rounding."""
    was, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3, 3):
            torch.set_num_threads(threads)
            found.append(gradients())
    finally:
        torch.set_num_threads(was)
    for one, three, again in zip(*found, strict=True):
        assert torch.equal(three, again)
        assert (one - three).norm() <= 1e-6 * one.norm()


def layer(method: str, config: dict[str, Any], in_features: int, out_features: int, *, bias: bool = True) -> nn.Module:
    """A layer with a bias that is not zero."""
    torch.manual_seed(0)
    made = build(method, in_features, out_features, bias=bias, config=config)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "beta" in name or name.endswith("bias"):
                parameter.normal_()
    return made.eval()
