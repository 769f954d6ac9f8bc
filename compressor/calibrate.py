"""What a site sees: streamed second moments and samples of its inputs, in the original and the compressed network.

Nothing here keeps more than two ``(in, in)`` matrices and a bounded number of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from compressor.layers import Metric
from compressor.layers.semidefinite import damped
from compressor.prefix import Prefix

_WIDE = 1024
_DAMPING = 1e-2  # of the mean diagonal, where the moments of the compressed prefix are inverted


@dataclass
class Moments:
    """Running moments of a site's inputs ``y`` (original network) and ``y'`` (compressed prefix)."""

    features: int
    count: int = 0
    mean: Tensor = field(init=False)
    mean_compressed: Tensor = field(init=False)
    second: Tensor = field(init=False)  # E[y' y'ᵀ]
    cross: Tensor = field(init=False)  # E[y y'ᵀ]

    def __post_init__(self) -> None:
        self.mean = torch.zeros(self.features, dtype=torch.float64)
        self.mean_compressed = torch.zeros(self.features, dtype=torch.float64)
        self.second = torch.zeros(self.features, self.features, dtype=torch.float64)
        self.cross = torch.zeros(self.features, self.features, dtype=torch.float64)

    def update(self, y: Tensor, y_compressed: Tensor) -> None:
        """Take in rows ``(rows, features)`` of the same examples from both networks.

        Sums are kept in float64; the products of one wide batch are taken in float32, which is twice as quick.
        """
        total = self.count + len(y)
        old, same = self.count / total, y is y_compressed
        dtype = torch.float64 if self.features <= _WIDE else torch.float32
        y, y_compressed = y.to("cpu", dtype), y_compressed.to("cpu", dtype)
        self.mean.mul_(old).add_(y.double().sum(0) / total)
        self.mean_compressed.mul_(old).add_(y_compressed.double().sum(0) / total)
        second = (y_compressed.T @ y_compressed).double() / total
        self.second.mul_(old).add_(second)
        self.cross.mul_(old).add_(second if same else (y.T @ y_compressed).double() / total)
        self.count = total

    def target(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None, Metric]:
        """The map to imitate and the metric to do it in, so that errors made before are compensated.

        ``W* = W E[y y'ᵀ] E[y' y'ᵀ]⁻¹``: then ``E‖W y − Ŵ y'‖² = ‖(W* − Ŵ) Σ'^½‖² + const`` for every
        Ŵ (AA-SVD, 2026). Centred moments where there is a bias, and ``b* = b + W μ − W* μ'``. Where both
        networks give the same inputs, ``W* = W`` exactly.
        """
        dtype = weight.dtype
        original = weight = weight.double()
        zero = torch.zeros_like(self.mean)
        mu, mu_compressed = (zero, zero) if bias is None else (self.mean, self.mean_compressed)
        second = self.second - torch.outer(mu_compressed, mu_compressed)
        shift = self.cross - torch.outer(mu, mu_compressed) - second
        if bool(shift.abs().max() > 1e-9 * second.abs().max()):
            weight = weight + torch.linalg.solve(damped(second, _DAMPING), (weight @ shift).T).T
        target_bias = None if bias is None else (bias.double() + original @ mu - weight @ mu_compressed).to(dtype)
        return weight.to(dtype), target_bias, Metric(second, mu_compressed)


def moments(
    site: str,
    teacher: Prefix,
    student: Prefix,
    batches: Iterable[tuple[Tensor, ...]],
    *,
    same_prefix: bool,
    every: bool = False,
    advance: Callable[[int], object] = lambda rows: None,
) -> Moments:
    """Stream ``batches`` of model inputs through both networks up to ``site``.

    ``same_prefix`` says that nothing before the site was changed, so that one network need not run. With ``every``
    all calls of the site count: a recurrent map sees, in the compressed network, the states that it makes itself
    while it is still dense.
    """
    collected: Moments | None = None
    for number, inputs in enumerate(batches):
        y = teacher.rows_at(site, inputs, number, every=every)
        y_compressed = y if same_prefix else student.rows_at(site, inputs, number, every=every)
        collected = collected or Moments(y.shape[-1])
        collected.update(y, y_compressed)
        advance(len(inputs[0]))
    if collected is None:
        raise ValueError("no batches to take moments of")
    return collected
