"""Data given from Python: tensors, arrays, loaders, iterables of batches, functions."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import TensorDataset as TorchTensorDataset

from compressor.data.arrays import from_arrays, match, to_tensor
from compressor.data.dataset import Batch, Dataset
from compressor.data.loader import LoaderDataset, rows_of
from compressor.data.preparation import Preparation
from compressor.data.stream import StreamDataset
from compressor.errors import CompressorError

_FORMS = (
    "a DataLoader, a tensor, a tuple (inputs, labels), a dict of arrays, a list of batches, a function that"
    " returns batches, or the name of a file"
)


def as_dataset(
    value: object,
    inputs: Sequence[str],
    *,
    label_key: str | None = None,
    prepare: Preparation | None = None,
    what: str = "the data",
) -> Dataset:
    """``value`` as a data set for a model with these ``inputs``.

    A tuple is whole arrays, ``(x, labels)`` or ``(x1, x2, labels)`` or ``((x1, x2), labels)``; a list is
    batches, each of them a tensor, a tuple or a dict like the whole. A function is called for each pass.
    """
    if isinstance(value, Dataset):
        return value
    if isinstance(value, str | os.PathLike):
        from compressor.data.files import load_data

        return load_data(os.fspath(value), inputs, label_key=label_key)
    batches = _Batches(inputs, label_key, prepare or Preparation(), what)
    if isinstance(value, DataLoader | TorchDataset):
        return _from_torch(value, batches)
    if isinstance(value, Tensor | np.ndarray | tuple | Mapping):
        return batches.whole(value)
    if isinstance(value, list) and value and isinstance(value[0], Tensor | np.ndarray | tuple | list | Mapping | Batch):
        return batches.joined(value)
    if isinstance(value, Iterator):
        raise CompressorError(f"{what}: a {type(value).__name__} gives its batches only once; give {_FORMS}")
    if callable(value):
        return _stream(lambda: value(), batches)
    if isinstance(value, Iterable) and not isinstance(value, bytes | list):
        return _stream(lambda: value, batches)
    said = "an empty list" if isinstance(value, list) and not value else type(value).__name__
    raise CompressorError(f"{what}: cannot be {said}; give {_FORMS}")


class _Batches:
    """How the batches of one source are read."""

    def __init__(self, inputs: Sequence[str], label_key: str | None, prepare: Preparation, what: str) -> None:
        self.inputs, self.label_key, self.prepare, self.what = inputs, label_key, prepare, what

    def raw(self, value: object) -> Batch:
        """``value`` as tensors in the order of the model's inputs, not yet prepared."""
        if isinstance(value, Batch):
            return value
        arrays = self._named(value)
        names, labels = match(arrays, self.inputs, label_key=self.label_key, what=self.what)
        tensors = tuple(to_tensor(arrays[name], f"{self.what}: '{name}'") for name in names)
        found = None if labels is None else to_tensor(arrays[labels], f"{self.what}: labels")
        sizes = {len(x) if x.ndim else 0 for x in (*tensors, *([] if found is None else [found]))}
        if len(sizes) > 1 or not all(x.ndim for x in tensors):
            shapes = ", ".join(str(tuple(x.shape)) for x in (*tensors, *([] if found is None else [found])))
            raise CompressorError(f"{self.what}: the arrays of a batch differ in their numbers of examples ({shapes})")
        return Batch(tensors, found)

    def whole(self, value: object) -> Dataset:
        """A data set of arrays that are all in memory."""
        return from_arrays(
            self._named(value), self.inputs, label_key=self.label_key, prepare=self.prepare, what=self.what
        )

    def joined(self, values: Sequence[object]) -> Dataset:
        """A data set of a list of batches; put together where their shapes agree."""
        batches = [self.raw(value) for value in values]
        if len({(len(b.inputs), b.labels is None, *(x.shape[1:] for x in b.inputs)) for b in batches}) > 1:
            return StreamDataset(lambda: iter(batches), prepare=self.prepare, what=self.what)
        columns = [torch.cat(column) for column in zip(*(batch.inputs for batch in batches), strict=True)]
        labels = [batch.labels for batch in batches if batch.labels is not None]
        named: dict[str, Any] = dict(zip(self._names(len(columns)), columns, strict=True))
        if labels:
            named[self.label_key or "labels"] = torch.cat(labels)
        return from_arrays(named, list(named)[: len(columns)], label_key=self.label_key, prepare=self.prepare,
                           what=self.what)  # fmt: skip

    def _names(self, count: int) -> list[str]:
        return list(self.inputs) if len(self.inputs) == count else [f"input {i}" for i in range(count)]

    def _named(self, value: object) -> dict[str, Any]:
        """The arrays of ``value`` by name: those of a tuple are the inputs in their order, then the labels."""
        if isinstance(value, Mapping):
            return dict(value)
        if isinstance(value, Tensor | np.ndarray):
            value = (value,)
        if not isinstance(value, tuple | list) or not value:
            raise CompressorError(
                f"{self.what}: a batch cannot be {type(value).__name__}; give a tensor, tuple or dict"
            )
        labels = self.label_key or "labels"
        first = value[0]
        if isinstance(first, Mapping) and len(value) == 2:
            return {**first, labels: value[1]}
        if isinstance(first, tuple | list) and len(value) == 2:
            return {**dict(zip(self._names(len(first)), first, strict=True)), labels: value[1]}
        needed = len(self.inputs) or max(1, len(value) - 1)
        if len(value) not in (needed, needed + 1):
            raise CompressorError(
                f"{self.what}: has {len(value)} arrays; the model's inputs are {', '.join(self.inputs)}"
                " (and the labels come last)"
            )
        named = dict(zip(self._names(needed), value, strict=False))
        return {**named, labels: value[needed]} if len(value) > needed else named


def _stream(source: Callable[[], Any], batches: _Batches) -> Dataset:
    """A data set that calls ``source`` for each pass, unless it gives something with places."""

    def read() -> Iterator[Batch]:
        return (batches.raw(value) for value in source())

    first = source()
    if not isinstance(first, DataLoader) and isinstance(
        first, Dataset | TorchDataset | Tensor | np.ndarray | tuple | list | Mapping | str | os.PathLike
    ):
        return as_dataset(
            first, batches.inputs, label_key=batches.label_key, prepare=batches.prepare, what=batches.what
        )
    if not isinstance(first, Iterable):
        raise CompressorError(f"{batches.what}: the function returned {type(first).__name__}; it must give {_FORMS}")
    return StreamDataset(read, prepare=batches.prepare, what=batches.what)


def _from_torch(value: DataLoader[Any] | TorchDataset[Any], batches: _Batches) -> Dataset:
    """Of a loader with places: its data set in our own order, so that what is held back is never trained on."""
    source = value.dataset if isinstance(value, DataLoader) else value
    if isinstance(source, IterableDataset) or not hasattr(source, "__getitem__") or not hasattr(source, "__len__"):
        if not isinstance(value, DataLoader):
            value = DataLoader(source, batch_size=64)
        return _stream(lambda: value, batches)
    rows = rows_of(value) if isinstance(value, DataLoader) else None
    plain = not isinstance(value, DataLoader) or value.collate_fn is torch.utils.data.default_collate
    if isinstance(source, TorchTensorDataset) and plain and rows is None:
        return batches.whole(tuple(source.tensors))
    return LoaderDataset(value, batches.raw, rows, prepare=batches.prepare, what=batches.what)
