"""Data from files: arrays by name, folders of images, and code that gives batches."""

from __future__ import annotations

import gzip
import pickle
import struct
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compressor.data.arrays import from_arrays
from compressor.data.dataset import Dataset
from compressor.data.live import as_dataset
from compressor.data.preparation import Preparation
from compressor.errors import CompressorError

_IDX_TYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}


def load_data(
    spec: str | Path,
    inputs: Sequence[str],
    *,
    label_key: str | None = None,
    normalize: str | None = None,
    image_shape: Sequence[int] | None = None,
) -> Dataset:
    """The data that ``spec`` names, for a model with these ``inputs``.

    A file (.npz, .npy, .safetensors, .pt, MNIST's idx-ubyte, also .gz), a folder of images, or
    ``module:callable`` giving what `as_dataset` takes. ``image_shape`` is the shape of one example of the
    first input. ``normalize``: see `Preparation`. Nothing that runs code from the file is ever unpickled.
    """
    prepare = Preparation.parse(normalize, image_shape)
    path = Path(spec)
    if path.is_dir():
        from compressor.data.images import load_images

        return load_images(path, prepare)
    if not path.exists():
        from compressor_converters.arch import call, is_callable_spec

        if is_callable_spec(str(spec)):
            given = call(str(spec))
            # a generator gives its batches once, so the function is called again for each pass
            source: Any = (lambda: call(str(spec))) if hasattr(given, "__next__") else given
            return as_dataset(source, inputs, label_key=label_key, prepare=prepare, what=str(spec))
        raise CompressorError(f"{spec}: there is no such data file or folder (code is named module:callable)")
    reader = _reader(path)
    try:
        given = reader(path)
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, struct.error) as error:
        raise CompressorError(f"{path}: cannot be read: {_one_line(error)}") from None
    if isinstance(given, tuple | list | torch.Tensor):
        return as_dataset(tuple(given) if isinstance(given, list) else given, inputs, label_key=label_key,
                          prepare=prepare, what=str(path))  # fmt: skip
    return from_arrays(given, inputs, label_key=label_key, prepare=prepare, what=str(path))


def _one_line(error: Exception) -> str:
    said = " ".join(str(error).split())[:200] or type(error).__name__
    return "it holds Python objects, which would be unpickled" if "allow_pickle" in said else said


def _reader(path: Path) -> Callable[[Path], Any]:
    name = path.name.removesuffix(".gz")
    if name.endswith("-ubyte"):
        return _read_idx_pair
    ending = path.suffix.lower()
    if ending not in _READERS:
        raise CompressorError(
            f"{path}: data cannot be read from '{ending or path.name}' files; give {', '.join(sorted(_READERS))},"
            " an idx-ubyte file, a folder of images or module:callable"
        )
    return _READERS[ending]


def _read_npz(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as archive:
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("it is no .npz archive")
        return {name: archive[name] for name in archive.files}


def _read_npy(path: Path) -> dict[str, Any]:
    return {path.stem: np.load(path, mmap_mode="r", allow_pickle=False)}


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except SafetensorError as error:
        raise ValueError(str(error)) from None


def _read_pt(path: Path) -> Any:
    try:
        given = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError) as error:
        raise ValueError(f"it must hold tensors only ({_one_line(error)[:120]})") from None
    if not isinstance(given, torch.Tensor | tuple | list | dict):
        raise ValueError(f"it holds {type(given).__name__}, not a tensor, a tuple (x, labels) or a dict of tensors")
    if isinstance(given, dict):
        return {str(name): value for name, value in given.items() if isinstance(value, torch.Tensor)}
    return given


def _read_idx_pair(path: Path) -> dict[str, Any]:
    """An idx file of images with the labels beside it, as MNIST names them."""
    images = _read_idx(path)
    if images.ndim == 3:
        images = images[:, None]  # (rows, 1, height, width)
    found: dict[str, Any] = {"images": images}
    beside = path.with_name(path.name.replace("images", "labels").replace("idx3", "idx1"))
    if beside != path and beside.is_file():
        found["labels"] = _read_idx(beside)
    return found


def _read_idx(path: Path) -> np.ndarray[Any, Any]:
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    zero, kind, axes = struct.unpack_from(">HBB", content)
    if zero != 0 or kind not in _IDX_TYPES:
        raise ValueError("it is no idx file")
    shape = struct.unpack_from(f">{axes}I", content, 4)
    return np.frombuffer(content, _IDX_TYPES[kind], offset=4 + 4 * axes).reshape(shape)


_READERS: dict[str, Callable[[Path], Any]] = {
    ".npz": _read_npz,
    ".npy": _read_npy,
    ".safetensors": _read_safetensors,
    ".pt": _read_pt,
    ".pth": _read_pt,
}
