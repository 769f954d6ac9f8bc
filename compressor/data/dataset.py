"""Examples in memory: batches, shuffling by seed, a part set aside."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from compressor.data.preparation import Preparation, labels_of, refuse_non_finite
from compressor.errors import CompressorError

_HASHED_BYTES = 1 << 24  # at a time
_SHORT = 16  # hexadecimal digits of a fingerprint


@dataclass(frozen=True)
class Batch:
    """Some examples: the model's inputs in their order, ``(rows, ...)`` each, and the labels, ``(rows, ...)``."""

    inputs: tuple[Tensor, ...]
    labels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.inputs[0])


class Dataset(ABC):
    """Examples that can be gone through again and again, in the same order for the same seed."""

    has_labels: bool

    @abstractmethod
    def batches(self, batch_size: int, *, seed: int | None = None) -> Iterator[Batch]:
        """One pass over all examples: in the order of the source, or shuffled by ``seed``; the last may be short."""

    @abstractmethod
    def split(self, fraction: float, seed: int) -> tuple[Dataset, Dataset]:
        """The rest, and a part of about ``fraction`` held back: disjoint, the same for the same seed."""

    @abstractmethod
    def without_labels(self) -> Dataset:
        """The same examples, without their labels."""

    @abstractmethod
    def fingerprint(self) -> str:
        """The start of a sha256 of the content, in hexadecimal."""

    @abstractmethod
    def __len__(self) -> int:
        """How many examples."""

    def head(self, rows: int) -> Batch:
        """The first ``rows`` examples, or all when there are fewer."""
        return next(self.batches(rows))


def generator(seed: int) -> np.random.Generator:
    """The source of all shuffling: PCG64, the same numbers on every machine."""
    return np.random.Generator(np.random.PCG64(seed))


def divide(count: int, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Of ``count`` places, those that stay and those held back (one at least of each), both ascending."""
    if not 0 < fraction < 1:
        raise ValueError(f"the fraction held back must lie between 0 and 1, not {fraction}")
    if count < 2:
        raise CompressorError(f"the data has {count} example; some must be held back, so give two or more")
    held = min(count - 1, max(1, round(count * fraction)))
    order = generator(seed).permutation(count)
    return torch.from_numpy(np.sort(order[held:])), torch.from_numpy(np.sort(order[:held]))


class TensorDataset(Dataset):
    """Arrays in memory, or mapped from a file: kept in their own type, prepared batch by batch.

    ``rows`` are the places that belong to this data set, all of them when None.
    """

    def __init__(
        self,
        inputs: Sequence[Tensor],
        labels: Tensor | None = None,
        *,
        prepare: Preparation | None = None,
        rows: Tensor | None = None,
        names: Sequence[str] = (),
    ) -> None:
        self.inputs = tuple(inputs)
        self.labels = labels
        self.prepare = prepare or Preparation()
        self.rows = rows
        self.has_labels = labels is not None
        if rows is None:  # a part was checked with its whole
            self._check(names or [f"input {i}" for i in range(len(self.inputs))])

    def _check(self, names: Sequence[str]) -> None:
        if not self.inputs:
            raise CompressorError("the data has no input arrays")
        arrays = dict(zip(names, self.inputs, strict=True))
        if self.labels is not None:
            arrays["labels"] = self.labels
        for name, array in arrays.items():
            if array.ndim == 0:
                raise CompressorError(f"the data: '{name}' is a single number; its first axis must be the examples")
        counts = {name: len(array) for name, array in arrays.items()}
        if len(set(counts.values())) > 1:
            said = ", ".join(f"{name} {count:,}" for name, count in counts.items())
            raise CompressorError(f"the data: arrays with different numbers of examples ({said})")
        if not len(self.inputs[0]):
            raise CompressorError("the data is empty: 0 examples")
        for name, array in arrays.items():
            refuse_non_finite(array, name)
        self.prepare.check(dict(zip(names, (x[:1] for x in self.inputs), strict=True)))

    def __len__(self) -> int:
        return len(self.inputs[0]) if self.rows is None else len(self.rows)

    def batches(self, batch_size: int, *, seed: int | None = None) -> Iterator[Batch]:
        count = len(self)
        order = None if seed is None else torch.from_numpy(generator(seed).permutation(count))
        for start in range(0, count, batch_size):
            end = min(count, start + batch_size)
            places: Tensor | slice = slice(start, end)
            if order is not None:
                places = order[start:end]
            if self.rows is not None:
                places = self.rows[places]
            raw = [x[places] for x in self.inputs]
            if isinstance(places, slice):
                raw = [x.clone() for x in raw]  # a model may write to its input, never to the data
            inputs = self.prepare(raw)
            yield Batch(inputs, None if self.labels is None else labels_of(self.labels[places]))

    def split(self, fraction: float, seed: int) -> tuple[Dataset, Dataset]:
        rest, held = divide(len(self), fraction, seed)
        return self._part(rest), self._part(held)

    def _part(self, places: Tensor) -> Self:
        rows = places if self.rows is None else self.rows[places]
        return type(self)(self.inputs, self.labels, prepare=self.prepare, rows=rows)

    def without_labels(self) -> Dataset:
        rows = torch.arange(len(self)) if self.rows is None else self.rows
        return type(self)(self.inputs, None, prepare=self.prepare, rows=rows)

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for array in (*self.inputs, *([] if self.labels is None else [self.labels])):
            digest.update(f"{array.dtype} {len(self)} {tuple(array.shape[1:])};".encode())
            row_bytes = max(1, math.prod(array.shape[1:]) * array.element_size())
            step = max(1, _HASHED_BYTES // row_bytes)
            for start in range(0, len(self), step):
                places = slice(start, start + step)
                rows = array[places] if self.rows is None else array[self.rows[places]]
                digest.update(rows.contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:_SHORT]
