"""A torch data set with places, or the loader over one, gone through in our own order."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler, Subset
from torch.utils.data import Dataset as TorchDataset

from compressor.data.dataset import Batch, Dataset, divide, generator
from compressor.data.preparation import Preparation, labels_of, refuse_non_finite
from compressor.errors import CompressorError


def rows_of(loader: DataLoader[Any]) -> Tensor | None:
    """The places that ``loader`` draws from, ascending; None for all of its data set."""
    if isinstance(loader.sampler, SequentialSampler | RandomSampler) and type(loader.batch_sampler) in (
        torch.utils.data.BatchSampler,
        type(None),
    ):
        return None
    drawn: Any = loader.sampler if loader.batch_sampler is None else loader.batch_sampler
    places = {int(place) for entry in drawn for place in (entry if isinstance(entry, list | tuple) else [entry])}
    return torch.tensor(sorted(places))


class LoaderDataset(Dataset):
    """Places ``rows`` of a torch data set, put together with the loader's own ``collate_fn`` and workers.

    The loader's order and batch size are not taken over: shuffling and what is held back follow our seed.
    """

    def __init__(
        self,
        source: DataLoader[Any] | TorchDataset[Any],
        read: Callable[[object], Batch],
        rows: Tensor | None = None,
        *,
        prepare: Preparation | None = None,
        what: str = "the data",
        labelled: bool = True,
    ) -> None:
        self.source, self.read, self.what = source, read, what
        data: Any = source.dataset if isinstance(source, DataLoader) else source
        self.data = data
        self.rows = torch.arange(len(data)) if rows is None else rows
        self.prepare = prepare or Preparation()
        if not len(self.rows):
            raise CompressorError(f"{what}: is empty: 0 examples")
        first = next(self._read(self.rows[:1], 1))
        self.has_labels = labelled and first.labels is not None
        self.prepare.check({f"input {i}": x for i, x in enumerate(first.inputs)})

    def _read(self, rows: Tensor, batch_size: int) -> Iterator[Batch]:
        loader = self.source if isinstance(self.source, DataLoader) else None
        kept: Subset[Any] = Subset(self.data, rows.tolist())
        reader = DataLoader(
            kept,
            batch_size=batch_size,
            collate_fn=None if loader is None else loader.collate_fn,
            num_workers=loader.num_workers if loader is not None and len(rows) > batch_size else 0,
            worker_init_fn=None if loader is None else loader.worker_init_fn,
        )
        return (self.read(value) for value in reader)

    def batches(self, batch_size: int, *, seed: int | None = None) -> Iterator[Batch]:
        rows = self.rows if seed is None else self.rows[torch.from_numpy(generator(seed).permutation(len(self)))]
        for batch in self._read(rows, batch_size):
            for i, x in enumerate(batch.inputs):
                refuse_non_finite(x, f"input {i}")
            labels = labels_of(batch.labels) if self.has_labels and batch.labels is not None else None
            yield Batch(self.prepare(batch.inputs), labels)

    def head(self, rows: int) -> Batch:
        return next(self._part(self.rows[:rows]).batches(rows))

    def __len__(self) -> int:
        return len(self.rows)

    def split(self, fraction: float, seed: int) -> tuple[Dataset, Dataset]:
        rest, held = divide(len(self), fraction, seed)
        return self._part(self.rows[rest]), self._part(self.rows[held])

    def _part(self, rows: Tensor, labelled: bool | None = None) -> LoaderDataset:
        wanted = self.has_labels if labelled is None else labelled
        return LoaderDataset(self.source, self.read, rows, prepare=self.prepare, what=self.what, labelled=wanted)

    def without_labels(self) -> Dataset:
        return self._part(self.rows, labelled=False)

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for batch in self._read(self.rows, 256):
            for x in (*batch.inputs, *([batch.labels] if self.has_labels and batch.labels is not None else [])):
                digest.update(f"{x.dtype} {tuple(x.shape)};".encode())
                digest.update(x.contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]
