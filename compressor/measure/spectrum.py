"""The spectrum of a dense map under its inputs: how well any map of low rank could stand for it."""

from __future__ import annotations

from torch import Tensor

from compressor.layers import Metric
from compressor.layers.truncation import leading

_POINTS = 40
_MOST = 512  # ranks that are looked at where a side is wider than twice as many


def low_rank_errors(weight: Tensor, metric: Metric) -> list[tuple[int, float]]:
    """``(rank, ‖(W − W_r) Σ^½‖ / ‖W Σ^½‖)`` of the best W_r of each rank, at some 40 ranks spaced by their ratio.

    ``weight (out, in)``. From the singular values of W Σ^½; of wide maps only the largest 512.
    """
    w = weight.detach().cpu().double()
    sigma = metric.covariance.double()
    if len(w) <= len(sigma):
        gram = w @ sigma @ w.T
    else:
        root = metric.root()
        gram = root @ (w.T @ w) @ root
    total = float(gram.trace())
    if total <= 0:
        return []
    held = leading(gram, _MOST)[0].cumsum(0) / total
    most = len(held)
    ranks = sorted({max(1, round(most ** (n / (_POINTS - 1)))) for n in range(_POINTS)})
    return [(rank, max(0.0, 1 - float(held[rank - 1])) ** 0.5) for rank in ranks]
