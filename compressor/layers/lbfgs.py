"""L-BFGS within a number of evaluations, never worse than its start."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

MOST_EVALUATIONS = 400  # that a fit takes
LEAST_EVALUATIONS = 20  # fewer are not worth a start


def minimise(parameters: Sequence[nn.Parameter], loss: Callable[[], Tensor], evaluations: int) -> None:
    """Minimise in place, within so many evaluations of ``loss``; the best point seen is kept."""
    optimizer = torch.optim.LBFGS(
        parameters,
        max_iter=evaluations,
        max_eval=evaluations,
        history_size=20,
        tolerance_grad=1e-12,
        tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )
    best, best_state = math.inf, [parameter.detach().clone() for parameter in parameters]

    def closure() -> Tensor:
        nonlocal best, best_state
        optimizer.zero_grad()
        value = loss()
        value.backward()  # type: ignore[no-untyped-call]
        if float(value.detach()) < best:
            best, best_state = float(value.detach()), [parameter.detach().clone() for parameter in parameters]
        return value

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        for parameter, kept in zip(parameters, best_state, strict=True):
            parameter.copy_(kept)
            parameter.grad = None
