"""Batches from code: a source that can only be read from its beginning to its end, as often as it is asked."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch

from compressor.data.dataset import Batch, Dataset, apart
from compressor.errors import CompressorError

_WINDOW = 16  # batches that are shuffled together


@dataclass(frozen=True)
class _Part:
    """Every ``every``-th example from ``first`` on, where ``held``; else all the others."""

    every: int
    first: int
    held: bool


class StreamDataset(Dataset):
    """Batches that ``source()`` gives anew each time, cut to the size that is asked for.

    The source always runs from the same state of torch's generator (not of Python's or numpy's), so that its
    order, and with it what is held back, is the same in every pass; a seed shuffles within a window of 16 batches.
    Held back is every k-th example. Examples of different shapes (padded sequences) share no batch.
    """

    def __init__(self, source: Callable[[], Iterable[Any]], unpack: Callable[[object], Batch]) -> None:
        self._source, self._unpack = source, unpack
        self._parts: tuple[_Part, ...] = ()
        self._count: int | None = None
        first = next(apart(source, 0), None)
        if first is None:
            raise ValueError("gives no batches")
        self.has_labels = unpack(first).labels is not None

    def __len__(self) -> int:
        if self._count is None:
            self._count = sum(len(piece) for piece in self._pieces())
        return self._count

    def batches(self, batch_size: int, *, seed: int | None = None) -> Iterator[Batch]:
        random = None if seed is None else np.random.Generator(np.random.PCG64(seed))
        window = batch_size * (1 if random is None else _WINDOW)
        held: list[Batch] = []
        for piece in self._pieces():
            if held and _shapes(held[0]) != _shapes(piece):
                yield from _cut(_shuffled(held, random), batch_size)
                held = []
            held.append(piece)
            if sum(map(len, held)) >= window:
                whole = _shuffled(held, random)
                full = len(whole) - len(whole) % batch_size
                yield from _cut(_rows(whole, slice(0, full)), batch_size)
                held = [_rows(whole, slice(full, None))] if full < len(whole) else []
        if held:
            yield from _cut(_shuffled(held, random), batch_size)

    def split(self, fraction: float, seed: int) -> tuple[Self, Self]:
        every = max(2, round(1 / max(fraction, 1e-9)))
        part = _Part(min(every, max(2, len(self))), 0, held=False)
        first = seed % part.every
        if len(self) < 2:
            raise CompressorError(f"the data holds {len(self)} example: too few to hold a part back; give more")
        return self._part(_Part(part.every, first, False)), self._part(_Part(part.every, first, True))

    def _part(self, part: _Part) -> Self:
        other = copy.copy(self)
        other._parts, other._count = (*self._parts, part), None
        return other

    def _pieces(self) -> Iterator[Batch]:
        """The source's batches, less the examples that belong to another part."""
        counts = [0] * len(self._parts)
        empty = True
        for item in apart(self._source, 0):
            piece = self._unpack(item)
            empty = False
            keep = torch.arange(len(piece))
            for place, part in enumerate(self._parts):
                number = counts[place] + torch.arange(len(keep))
                counts[place] += len(keep)
                keep = keep[(number % part.every == part.first) == part.held]
            if len(keep):
                piece = piece if len(keep) == len(piece) else _rows(piece, keep)
                yield piece if self.has_labels else Batch(piece.inputs)
        if empty:
            raise CompressorError("the data gave batches once only; give code that gives them anew each time")


def _rows(batch: Batch, rows: Any) -> Batch:
    return Batch(tuple(x[rows] for x in batch.inputs), None if batch.labels is None else batch.labels[rows])


def _shapes(batch: Batch) -> list[Any]:
    labels: Sequence[Any] = () if batch.labels is None else (batch.labels,)
    return [(x.shape[1:], x.dtype) for x in (*batch.inputs, *labels)]


def _shuffled(held: list[Batch], random: np.random.Generator | None) -> Batch:
    """All of ``held`` as one batch, in a random order where there is a generator."""
    inputs = tuple(torch.cat(parts) for parts in zip(*(batch.inputs for batch in held), strict=True))
    labels = [batch.labels for batch in held if batch.labels is not None]
    whole = Batch(inputs, torch.cat(labels) if labels else None)
    return whole if random is None else _rows(whole, torch.from_numpy(random.permutation(len(whole))))


def _cut(whole: Batch, batch_size: int) -> Iterator[Batch]:
    for start in range(0, len(whole), batch_size):
        yield _rows(whole, slice(start, start + batch_size))
