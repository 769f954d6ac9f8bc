"""Data as the pipeline sees it: batches in an order that a seed decides, and parts that never overlap."""

from __future__ import annotations

import copy
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from compressor.data.arrays import Arrays, Preparation, check_finite
from compressor.errors import CompressorError

_TOGETHER = 256  # examples read at once


@dataclass(frozen=True)
class Batch:
    """Inputs in the model's order, each ``(rows, ...)``, and labels ``(rows, ...)`` where there are any."""

    inputs: tuple[Tensor, ...]
    labels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.inputs[0])


class Dataset(ABC):
    """Examples that can be gone through any number of times."""

    has_labels: bool

    @abstractmethod
    def batches(self, batch_size: int, *, seed: int | None = None) -> Iterator[Batch]:
        """All examples in the order of the file, or shuffled by ``seed``; the last batch may be smaller."""

    @abstractmethod
    def split(self, fraction: float, seed: int) -> tuple[Dataset, Dataset]:
        """The rest, and about ``fraction`` of the examples held back: the same ones for the same seed, none in both."""

    @abstractmethod
    def __len__(self) -> int:
        """How many examples there are."""

    def __bool__(self) -> bool:
        return True  # counting the examples may cost a pass over them

    def head(self, rows: int) -> Batch:
        """The first ``rows`` examples, or as many as there are."""
        return next(iter(self.batches(rows)))

    def labels(self) -> Iterator[Tensor]:
        """The labels of all examples, where they have any, part by part; one pass."""
        return (batch.labels for batch in self.batches(_TOGETHER) if batch.labels is not None)

    def without_labels(self) -> Self:
        """The same examples, as if they had no labels."""
        other = copy.copy(self)
        other.has_labels = False
        return other

    def fingerprint(self) -> str:
        """16 digits that stand for all values as the model gets them, in their order; one pass."""
        columns: list[Any] = []
        for batch in self.batches(_TOGETHER):
            tensors = batch.inputs if batch.labels is None else (*batch.inputs, batch.labels)
            columns = columns or [hashlib.sha256(f"{x.dtype}{tuple(x.shape[1:])}".encode()) for x in tensors]
            for column, x in zip(columns, tensors, strict=True):
                column.update(x.contiguous().numpy().tobytes())
        return hashlib.sha256(b"".join(column.digest() for column in columns)).hexdigest()[:16]


class RowDataset(Dataset):
    """Examples with numbers, so that any of them can be asked for."""

    def __init__(self, rows: NDArray[np.int64]) -> None:
        self._rows = rows

    @abstractmethod
    def _gather(self, rows: NDArray[np.int64]) -> Batch:
        """The examples with these numbers, in this order, ready for the model; labels even if they are not wanted."""

    def __len__(self) -> int:
        return len(self._rows)

    def batches(self, batch_size: int, *, seed: int | None = None) -> Iterator[Batch]:
        for rows in self._order(batch_size, seed):
            yield self._wanted(self._gather(rows))

    def _order(self, batch_size: int, seed: int | None) -> Iterator[NDArray[np.int64]]:
        rows = self._rows
        if seed is not None:
            rows = np.random.Generator(np.random.PCG64(seed)).permutation(rows)
        for start in range(0, len(rows), batch_size):
            yield rows[start : start + batch_size]

    def _wanted(self, batch: Batch) -> Batch:
        return batch if self.has_labels else Batch(batch.inputs)

    def split(self, fraction: float, seed: int) -> tuple[Self, Self]:
        count = len(self._rows)
        if count < 2:
            raise CompressorError(f"the data holds {count} example: too few to hold a part back; give more")
        back = min(max(1, round(fraction * count)), count - 1)
        order = np.random.Generator(np.random.PCG64(seed)).permutation(count)
        return self._part(np.sort(order[back:])), self._part(np.sort(order[:back]))

    def _stored(self, labels: Tensor | None) -> Iterator[Tensor]:
        """`labels` of a dataset that has all of them at hand: ``labels``, by the numbers of the examples."""
        if labels is not None and self.has_labels:
            yield labels[torch.from_numpy(self._rows)]

    def _part(self, places: NDArray[np.int64]) -> Self:
        part = copy.copy(self)
        part._rows = self._rows[places]
        return part


class TensorDataset(RowDataset):
    """Arrays in memory, or mapped from a file; converted batch by batch (`Preparation`)."""

    def __init__(self, names: Sequence[str], arrays: Arrays, preparation: Preparation | None = None) -> None:
        super().__init__(np.arange(len(arrays[0][0])))
        self._inputs, self._labels = arrays
        self._preparation = preparation or Preparation()
        self.has_labels = self._labels is not None
        check_finite(names, arrays)
        self._preparation.check(names, self._inputs)

    def _gather(self, rows: NDArray[np.int64]) -> Batch:
        index = torch.from_numpy(rows)
        inputs = self._preparation.inputs(tuple(x[index] for x in self._inputs))
        return Batch(inputs, None if self._labels is None else self._labels[index])

    def labels(self) -> Iterator[Tensor]:
        return self._stored(self._labels)


class MapDataset(RowDataset):
    """A torch dataset with numbered items, put into batches as the user's own loader does.

    Random transforms draw from torch's generator, which is seeded for each pass and set back after it.
    """

    def __init__(
        self,
        items: Any,
        unpack: Callable[[object], Batch],
        *,
        rows: Sequence[int] | None = None,
        collate: Callable[[list[Any]], Any] | None = None,
        workers: int = 0,
    ) -> None:
        super().__init__(np.arange(len(items)) if rows is None else np.asarray(rows, np.int64))
        if not len(self._rows):
            raise ValueError("holds no examples")
        self._items, self._unpack, self._collate, self._workers = items, unpack, collate, workers
        self.has_labels = self._gather(self._rows[:1]).labels is not None

    def _gather(self, rows: NDArray[np.int64]) -> Batch:
        return next(self._load([rows], 0))

    def batches(self, batch_size: int, *, seed: int | None = None) -> Iterator[Batch]:
        yield from map(self._wanted, self._load(list(self._order(batch_size, seed)), seed or 0))

    def _load(self, order: list[NDArray[np.int64]], seed: int) -> Iterator[Batch]:
        loader: Any = torch.utils.data.DataLoader(
            self._items,
            batch_sampler=[rows.tolist() for rows in order],
            collate_fn=self._collate,
            num_workers=self._workers if len(order) > 1 else 0,
        )
        return map(self._unpack, apart(lambda: loader, seed))


def apart(source: Callable[[], Iterable[Any]], seed: int) -> Iterator[Any]:
    """The items of ``source()``, drawn with a state of torch's generator of its own that starts from ``seed``."""
    own: Tensor | None = None
    items: Iterator[Any] | None = None
    while True:
        outer = torch.get_rng_state()
        try:
            if own is None:
                torch.default_generator.manual_seed(seed)
            else:
                torch.set_rng_state(own)
            items = iter(source()) if items is None else items
            item = next(items)
        except StopIteration:
            return
        finally:
            own = torch.get_rng_state()
            torch.set_rng_state(outer)
        yield item
