"""What becomes of an array on its way into the model: its type, its shape, its scale."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from compressor.errors import CompressorError

_CHECKED_NUMBERS = 1 << 24  # at a time


@dataclass(frozen=True)
class Preparation:
    """How a batch of raw input becomes what the model takes.

    Floats become float32. Bytes and truth values become float32 too, with the same values: nothing is scaled
    unless ``mean`` and ``std`` are given; then bytes are divided by 255, and all inputs but integers become
    ``(x − mean) / std``, by channel (axis 1) where there are several. Other integers stay integers.

    ``shape`` is the shape of one example that the model takes: an axis of length 1 is added or dropped, a flat
    example is folded, ``(H, W, C)`` becomes ``(C, H, W)``.
    """

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    shape: tuple[int, ...] | None = None

    @classmethod
    def parse(cls, normalize: str | None, shape: Sequence[int] | None = None) -> Preparation:
        """``normalize`` is ``mean,std``, or all means and then all standard deviations by channel."""
        wanted = tuple(shape) if shape else None
        if normalize is None:
            return cls(shape=wanted)
        try:
            numbers = tuple(float(part) for part in normalize.split(","))
        except ValueError:
            numbers = ()
        half = len(numbers) // 2
        if not numbers or len(numbers) % 2 or not all(map(math.isfinite, numbers)) or min(numbers[half:]) <= 0:
            raise CompressorError(
                f"--normalize {normalize}: is not mean,std with std over 0 (or m1,m2,m3,s1,s2,s3 by channel)"
            )
        return cls(numbers[:half], numbers[half:], wanted)

    def check(self, first: Mapping[str, Tensor]) -> None:
        """Say in one line what does not fit, by the first row of each input."""
        if self.mean and all(_is_index(x) for x in first.values()):
            kinds = ", ".join(f"'{name}' is {str(x.dtype).removeprefix('torch.')}" for name, x in first.items())
            raise CompressorError(f"the data: {kinds}; --normalize needs bytes or floats")
        self(list(first.values()))

    def __call__(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The prepared inputs of a batch; ``shape`` speaks of the first."""
        first = inputs[0]
        if self.shape is not None and tuple(first.shape[1:]) != self.shape:
            first = _reshaped(first, self.shape)
        return tuple(self._scaled(x) for x in (first, *inputs[1:]))

    def _scaled(self, x: Tensor) -> Tensor:
        if _is_index(x):
            return x if x.dtype in (torch.int32, torch.int64) else x.long()
        if not self.mean:
            return x.float()
        scaled = x.float() / 255 if x.dtype == torch.uint8 else x.float()
        channels = len(self.mean)
        if channels > 1 and (x.ndim < 2 or x.shape[1] != channels):
            raise CompressorError(
                f"--normalize has {channels} channels; the data has examples of shape {tuple(x.shape[1:])}"
            )
        shape = (1, channels, *[1] * (x.ndim - 2)) if channels > 1 else (1,)
        return (scaled - torch.tensor(self.mean).view(shape)) / torch.tensor(self.std).view(shape)


def _is_index(x: Tensor) -> bool:
    return not x.is_floating_point() and x.dtype not in (torch.uint8, torch.bool)


def _reshaped(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    have = tuple(x.shape[1:])
    ones_apart = [n for n in have if n != 1] == [n for n in shape if n != 1]
    if ones_apart or (1 in (len(have), len(shape)) and math.prod(have) == math.prod(shape)):
        return x.reshape(len(x), *shape)
    if len(have) == len(shape) == 3 and (have[2], have[0], have[1]) == shape:
        return x.permute(0, 3, 1, 2).contiguous()
    raise CompressorError(f"the data has examples of shape {have}; --input-shape asks for {shape}")


def labels_of(labels: Tensor) -> Tensor:
    """Labels as torch's losses take them: float32, or int64 with ``(rows, 1)`` made ``(rows,)``."""
    if labels.is_floating_point():
        return labels.float()
    return labels.long().squeeze(1) if labels.ndim == 2 and labels.shape[1] == 1 else labels.long()


def refuse_non_finite(array: Tensor, name: str) -> None:
    """CompressorError when a float array holds NaN or infinity; it is read in pieces."""
    if not array.is_floating_point():
        return
    step = max(1, _CHECKED_NUMBERS // max(1, math.prod(array.shape[1:])))
    for start in range(0, len(array), step):
        fine = (
            torch.isfinite(array[start : start + step]).flatten(1).all(1)
            if array.ndim > 1
            else torch.isfinite(array[start : start + step])
        )
        if not bool(fine.all()):
            row = start + int((~fine).nonzero()[0])
            raise CompressorError(f"the data: '{name}' holds NaN or infinity, first in example {row:,}; remove them")
