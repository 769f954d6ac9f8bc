"""Examples that come in batches from a source which can be gone through again, but not indexed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from compressor.data.dataset import Batch, Dataset, TensorDataset, generator
from compressor.data.preparation import Preparation, labels_of, refuse_non_finite
from compressor.errors import CompressorError

_MIXED_BATCHES = 16  # kept in memory to shuffle among


class StreamDataset(Dataset):
    """Batches from ``read``, which gives a fresh pass at each call; memory stays bounded.

    Held back is every k-th batch of the source: its order and its batches must be the same in each pass.
    Shuffling mixes examples within a window of some batches.
    """

    def __init__(
        self,
        read: Callable[[], Iterator[Batch]],
        *,
        prepare: Preparation | None = None,
        what: str = "the data",
        labelled: bool = True,
    ) -> None:
        self.read = read
        self.prepare = prepare or Preparation()
        self.what = what
        self._counts: tuple[int, int] | None = None
        first = next(iter(read()), None)
        if first is None or not len(first):
            raise CompressorError(f"{what}: is empty: it gave no batch")
        self.has_labels = labelled and first.labels is not None
        self.prepare.check({f"input {i}": x[:1] for i, x in enumerate(first.inputs)})

    def _source(self) -> Iterator[Batch]:
        """The batches of the source, prepared and checked."""
        for batch in self.read():
            for i, x in enumerate(batch.inputs):
                refuse_non_finite(x, f"input {i}")
            if self.has_labels and batch.labels is None:
                raise CompressorError(f"{self.what}: some batches have labels and some have none")
            labels = labels_of(batch.labels) if self.has_labels and batch.labels is not None else None
            yield Batch(self.prepare(batch.inputs), labels)

    def batches(self, batch_size: int, *, seed: int | None = None) -> Iterator[Batch]:
        mix = None if seed is None else generator(seed)
        enough = batch_size if mix is None else batch_size * _MIXED_BATCHES
        pool: list[Batch] = []
        for batch in self._source():
            if pool and _kind(batch) != _kind(pool[0]):  # padded to another length: cannot be put together
                yield from _pieces(_join(pool, mix), batch_size)
                pool = []
            pool.append(batch)
            if sum(map(len, pool)) >= enough:
                joined = _join(pool, mix)
                whole = len(joined) - len(joined) % batch_size
                yield from _pieces(_rows(joined, slice(0, whole)), batch_size)
                pool = [_rows(joined, slice(whole, None))] if whole < len(joined) else []
        if pool:
            yield from _pieces(_join(pool, mix), batch_size)

    def _count(self) -> tuple[int, int]:
        """Examples and batches of the source; one pass, once."""
        if self._counts is None:
            sizes = [len(batch) for batch in self.read()]
            self._counts = sum(sizes), len(sizes)
        return self._counts

    def __len__(self) -> int:
        return self._count()[0]

    def split(self, fraction: float, seed: int) -> tuple[Dataset, Dataset]:
        if not 0 < fraction < 1:
            raise ValueError(f"the fraction held back must lie between 0 and 1, not {fraction}")
        count = self._count()[1]
        if count == 1:
            (batch,) = self.read()
            labels = batch.labels if self.has_labels else None
            return TensorDataset(batch.inputs, labels, prepare=self.prepare).split(fraction, seed)
        every = min(count, max(2, round(1 / fraction)))
        return self._part(every, seed % every, False), self._part(every, seed % every, True)

    def _part(self, every: int, place: int, held: bool) -> StreamDataset:
        def read() -> Iterator[Batch]:
            return (batch for i, batch in enumerate(self.read()) if (i % every == place) == held)

        return StreamDataset(read, prepare=self.prepare, what=self.what, labelled=self.has_labels)

    def without_labels(self) -> Dataset:
        return StreamDataset(self.read, prepare=self.prepare, what=self.what, labelled=False)

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for batch in self.read():
            for x in (*batch.inputs, *([batch.labels] if self.has_labels and batch.labels is not None else [])):
                digest.update(f"{x.dtype} {tuple(x.shape)};".encode())
                digest.update(x.contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]


def _kind(batch: Batch) -> tuple[object, ...]:
    labels = None if batch.labels is None else tuple(batch.labels.shape[1:])
    return (labels, *(tuple(x.shape[1:]) for x in batch.inputs))


def _join(pool: list[Batch], mix: np.random.Generator | None) -> Batch:
    inputs = tuple(torch.cat(column) for column in zip(*(batch.inputs for batch in pool), strict=True))
    labels = [batch.labels for batch in pool if batch.labels is not None]
    joined = Batch(inputs, torch.cat(labels) if labels else None)
    return joined if mix is None else _rows(joined, torch.from_numpy(mix.permutation(len(joined))))


def _rows(batch: Batch, places: Tensor | slice) -> Batch:
    return Batch(tuple(x[places] for x in batch.inputs), None if batch.labels is None else batch.labels[places])


def _pieces(batch: Batch, size: int) -> Iterator[Batch]:
    return (_rows(batch, slice(start, start + size)) for start in range(0, len(batch), size))
