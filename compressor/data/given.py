"""What a user gives as data, on the command line or from Python, made a `Dataset`."""

from __future__ import annotations

import contextlib
import pickle
import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import data as torch_data

from compressor.data.arrays import LABEL_KEYS, Preparation, check_finite, parse_normalize, unpack
from compressor.data.dataset import Batch, Dataset, MapDataset, TensorDataset
from compressor.data.images import ImageFolder
from compressor.data.stream import StreamDataset
from compressor.errors import CompressorError
from compressor_converters.state_dict import check_zip

ENDINGS = (".npz", ".npy", ".safetensors", ".pt", ".pth")
_UNFOLDED, _RATIO = 1 << 28, 100  # of compressed archives: bytes that are fine anyway, and bytes for one on disk
_BROKEN = (
    OSError, EOFError, MemoryError, OverflowError, RuntimeError, KeyError, zipfile.BadZipFile, zlib.error,
    pickle.UnpicklingError, SyntaxError, tokenize.TokenError,
)  # fmt: skip


def load_data(
    spec: str,
    inputs: Sequence[str],
    *,
    label_key: str | None = None,
    normalize: str | None = None,
    image_shape: Sequence[int] | None = None,
) -> Dataset:
    """The data that ``spec`` names: a file of arrays, a folder of images, or code (``module:callable``, ``file.py:f``).

    ``inputs`` are the model's; arrays are matched to them by name, a single one whatever its name. ``label_key`` names
    the labels. For ``normalize`` and ``image_shape`` see `Preparation`. Whatever does not fit is a CompressorError.
    """
    with _named(f"data {spec}"):
        preparation = _preparation(normalize, image_shape)
        path = Path(spec)
        if path.is_dir():
            return _image_folder(path, inputs, label_key, preparation)
        if path.is_file():
            return _file(path, inputs, label_key, preparation)
        if ":" in spec:
            return _from_code(spec, inputs, label_key, preparation)
    raise CompressorError(f"data {spec}: no such file or folder; code is named as module:callable or file.py:callable")


def as_dataset(
    value: object,
    inputs: Sequence[str],
    *,
    label_key: str | None = None,
    normalize: str | None = None,
    image_shape: Sequence[int] | None = None,
) -> Dataset:
    """Data from Python: a `Dataset`, a loader or dataset of torch, arrays, an iterable of batches, or a path.

    A tuple is one set of arrays (``(x, y)``), a mapping arrays by name, a list a sequence of batches. What can be
    read only once (a generator) is refused: give the function that makes it. The options are those of `load_data`.
    """
    if isinstance(value, str | Path):
        return load_data(str(value), inputs, label_key=label_key, normalize=normalize, image_shape=image_shape)
    with _named("data"):
        if isinstance(value, Dataset) and (label_key, normalize) != (None, None):
            raise ValueError("is a Dataset, ready for the model: give label_key and normalize where it is made")
        return _as_dataset(value, inputs, label_key, _preparation(normalize, image_shape))


def array_names(value: object, label_key: str | None = None) -> tuple[str, ...]:
    """The names of the arrays in ``value`` but for labels, where it has names; what cannot be read has none yet."""
    if isinstance(value, tuple | list) and value:
        value = value[0]
    names: Iterable[Any] = value if isinstance(value, Mapping) else ()
    if isinstance(value, str | Path) and Path(value).suffix == ".npz" and Path(value).is_file():
        with contextlib.suppress(*_BROKEN, ValueError), _read(Path(value)) as arrays:
            names = list(arrays) if isinstance(arrays, Mapping) else ()
    return tuple(str(name) for name in names if name != label_key and (label_key or name not in LABEL_KEYS))


def _preparation(normalize: str | None, image_shape: Sequence[int] | None) -> Preparation:
    return Preparation(
        None if normalize is None else parse_normalize(normalize), None if image_shape is None else tuple(image_shape)
    )


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """A ValueError inside is what is wrong with the data called ``name``."""
    try:
        yield
    except ValueError as error:
        raise CompressorError(f"{name}: {error}") from None


def _image_folder(path: Path, inputs: Sequence[str], label_key: str | None, preparation: Preparation) -> Dataset:
    if len(inputs) != 1:
        raise ValueError(f"is a folder of images, the model takes {len(inputs)} inputs ({', '.join(inputs)})")
    if label_key is not None:
        raise ValueError(f"label key '{label_key}' was given, but the labels of images are their folders")
    return ImageFolder(path, preparation)


def _file(path: Path, inputs: Sequence[str], label_key: str | None, preparation: Preparation) -> Dataset:
    if path.suffix not in ENDINGS:
        raise ValueError(f"files ending in '{path.suffix}' are not read; give {', '.join(ENDINGS)}")
    try:
        with _read(path) as item:
            return TensorDataset(inputs, unpack(item, inputs, label_key), preparation)
    except _BROKEN as error:
        raise ValueError(f"cannot be read: {_one_line(error)}") from None
    except ValueError as error:
        if "allow_pickle" in str(error) or "Python objects" in str(error):
            said = "is no NumPy file, or holds Python objects, which could run code; save plain numbers"
            raise ValueError(said) from None
        raise


@contextlib.contextmanager
def _read(path: Path) -> Iterator[object]:
    """What the file holds; never anything that could run code."""
    if path.suffix == ".npz":
        _check_unfolded(path)
        with np.load(path, allow_pickle=False) as arrays:
            if not isinstance(arrays, np.lib.npyio.NpzFile):
                raise ValueError("is not a .npz file but a single array; name it .npy")
            yield arrays
    elif path.suffix == ".npy":
        yield np.load(path, mmap_mode="c", allow_pickle=False)
    elif path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            yield load_file(path)
        except SafetensorError as error:
            raise ValueError(f"is not a safetensors file: {_one_line(error)}") from None
    else:
        yield _torch_file(path)


def _check_unfolded(path: Path) -> None:
    """Refuse an archive that is small on disk and huge in memory."""
    with zipfile.ZipFile(path) as file:
        size = sum(entry.file_size for entry in file.infolist())
    have = path.stat().st_size
    if size > max(_UNFOLDED, _RATIO * have):
        raise ValueError(f"unfolds from {have:,} to {size:,} bytes, which no data does; save it with np.savez")


def _torch_file(path: Path) -> object:
    check_zip(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ValueError("holds more than tensors, which could run code; save a dict of tensors") from None
    except Exception as error:  # torch raises many kinds for damaged files
        raise ValueError(f"could not be read, is it cut off or damaged? {_one_line(error)}") from None


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _from_code(spec: str, inputs: Sequence[str], label_key: str | None, preparation: Preparation) -> Dataset:
    """Call what ``spec`` names: it returns anything that `as_dataset` takes, or is a generator of batches."""
    from compressor_converters.arch import call, import_callable

    value = call(spec)
    if isinstance(value, Iterator):
        return StreamDataset(import_callable(spec), _Unpack(inputs, label_key, preparation))
    return _as_dataset(value, inputs, label_key, preparation)


def _as_dataset(value: object, inputs: Sequence[str], label_key: str | None, preparation: Preparation) -> Dataset:
    if isinstance(value, Dataset):
        return value
    read = _Unpack(inputs, label_key, preparation)
    if isinstance(value, torch_data.DataLoader):
        return _from_loader(value, inputs, read)
    if isinstance(value, Tensor | np.ndarray | Mapping | tuple):
        return TensorDataset(inputs, unpack(value, inputs, label_key), preparation)
    if isinstance(value, torch_data.IterableDataset):
        return StreamDataset(lambda: torch_data.DataLoader(value, batch_size=64), read)
    if isinstance(value, torch_data.Dataset):
        return MapDataset(value, read)
    if isinstance(value, Iterator):
        raise ValueError("an iterator can be read only once; give the function that makes it, or a list of batches")
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        return StreamDataset(lambda: value, read)
    if callable(value):
        made: Any = value()
        return (
            StreamDataset(value, read)
            if isinstance(made, Iterator)
            else _as_dataset(made, inputs, label_key, preparation)
        )
    raise ValueError(f"a {type(value).__name__} is not data; give tensors, a DataLoader, batches or a path")


def _from_loader(loader: torch_data.DataLoader[Any], inputs: Sequence[str], read: _Unpack) -> Dataset:
    """The loader's dataset with its own way of making batches, so that any example can be held back.

    The order is the pipeline's, not the loader's. A loader whose examples cannot be numbered, or whose sampler
    picks them in a way of its own, is read as a stream.
    """
    sampler, items = loader.sampler, loader.dataset
    plain = isinstance(sampler, torch_data.SequentialSampler | torch_data.SubsetRandomSampler) or (
        isinstance(sampler, torch_data.RandomSampler) and not sampler.replacement and sampler.num_samples == len(items)  # type: ignore[arg-type]
    )
    own_batches = loader.batch_size is None or type(loader.batch_sampler) is not torch_data.BatchSampler
    if isinstance(items, torch_data.IterableDataset) or own_batches or not plain:
        return StreamDataset(lambda: loader, read)
    rows = list(sampler.indices) if isinstance(sampler, torch_data.SubsetRandomSampler) else None
    if rows is None and type(items) is torch_data.TensorDataset and loader.collate_fn is torch_data.default_collate:
        return TensorDataset(inputs, unpack(items.tensors, inputs, read.label_key), read.preparation)
    return MapDataset(items, read, rows=rows, collate=loader.collate_fn, workers=loader.num_workers)


class _Unpack:
    """From one item of a source to a checked batch that is ready for the model."""

    def __init__(self, inputs: Sequence[str], label_key: str | None, preparation: Preparation) -> None:
        self.inputs, self.label_key, self.preparation = inputs, label_key, preparation

    def __call__(self, item: object) -> Batch:
        with _named("a batch of the data"):
            if isinstance(item, Batch):
                item = (*item.inputs, *(() if item.labels is None else (item.labels,)))
            arrays = unpack(item, self.inputs, self.label_key)
            check_finite(self.inputs, arrays)
            return Batch(self.preparation.inputs(arrays[0]), arrays[1])
