"""The weights of a TorchScript archive (`torch.jit.save`), read without running what is in it.

Such an archive holds a program of its own language, and torch runs parts of it as it reads: ``__setstate__`` is one
of its functions, and its operators write files. Nothing of that is needed for the weights. They are the attributes in
``data.pkl``, which is read here by an unpickler that knows plain containers, tensors and nothing else.
"""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from compressor.errors import CompressorError
from compressor_converters.pt2_check import RefusedError, entries

_STORAGES = {
    "FloatStorage": torch.float32, "DoubleStorage": torch.float64, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
}  # fmt: skip
_PICKLE_LIMIT = 1 << 26  # bytes: attributes, not tensors
_DEPTH = 100  # of modules in modules


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """Every tensor of the archive by the name that the module had for it."""
    try:
        with zipfile.ZipFile(path) as file:
            found = entries(file, path.stat().st_size, unread="code")
            (name,) = (name for name in found if name.split("/", 1)[-1] == "data.pkl")
            if found[name].file_size > _PICKLE_LIMIT:
                raise RefusedError(f"'{name}' has {found[name].file_size:,} bytes")
            root = _Reader(file, found, name.removesuffix("data.pkl")).load()
            return dict(_tensors(root, "", 0))
    except RefusedError as error:
        raise CompressorError(f"{path}: not read as a TorchScript archive, {error}") from None
    except (ValueError, zipfile.BadZipFile, pickle.UnpicklingError, struct.error, OSError, EOFError) as error:
        raise CompressorError(f"{path}: is cut off or damaged: {str(error)[:100]}") from None
    except (TypeError, KeyError, IndexError, AttributeError, RecursionError, RuntimeError, OverflowError) as error:
        raise CompressorError(f"{path}: not read as a TorchScript archive, it is malformed ({error!s:.80})") from None


class _Object:
    """What stands for an instance of a TorchScript class: its attributes, and no behaviour."""

    def __new__(cls, *_arguments: object) -> _Object:
        return object.__new__(cls)

    def __setstate__(self, state: object) -> None:
        self.attributes = state if isinstance(state, dict) else {}


class _Storage:
    """Stands for the type of a storage."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype


class _Reader(pickle._Unpickler):  # the one in Python: it makes no memory that the file only claims
    """Reads one ``data.pkl``; every name in it that is not listed here is refused."""

    dispatch: ClassVar[dict[int, Any]] = {
        code: handler
        for code, handler in pickle._Unpickler.dispatch.items()
        if code
        not in {opcode[0] for opcode in (
            pickle.INST, pickle.OBJ, pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.BYTEARRAY8, pickle.NEXT_BUFFER,
            pickle.PERSID, pickle.NEWOBJ_EX, pickle.LONG4,
        )}
    }  # fmt: skip

    def __init__(self, file: zipfile.ZipFile, found: dict[str, zipfile.ZipInfo], root: str) -> None:
        super().__init__(io.BytesIO(file.read(found[root + "data.pkl"])))
        self.archive, self.found, self.root = file, found, root

    def find_class(self, module: str, name: str) -> Any:
        """What stands for ``module.name``."""
        if module.startswith("__torch__"):
            return _Object
        if module == "torch" and name in _STORAGES:
            return _Storage(_STORAGES[name])
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild
        if (module, name) in (("collections", "OrderedDict"), ("__builtin__", "dict"), ("builtins", "dict")):
            return dict
        if module == "torch.jit._pickle":  # lists with the type of their items
            return lambda value, *_: value
        raise RefusedError(f"it needs {module[:60]}.{name[:60]}, which is not known to be harmless")

    def persistent_load(self, pid: Any) -> Tensor:
        """The numbers of one entry, ``(elements,)``."""
        kind, storage, key, _, count = pid
        name = f"{self.root}data/{key}"
        if kind != "storage" or not isinstance(storage, _Storage) or name not in self.found:
            raise RefusedError(f"a tensor is stored as {str(key)[:40]!r}, which is not there")
        have = self.found[name].file_size
        if not isinstance(count, int) or count < 0 or count * storage.dtype.itemsize > have:
            raise RefusedError(f"a tensor claims {count} numbers, its entry has {have:,} bytes")
        raw = bytearray(self.archive.read(self.found[name]))
        return torch.frombuffer(raw, dtype=storage.dtype, count=count) if count else torch.empty(0, dtype=storage.dtype)


def _rebuild(storage: Any, offset: Any, size: Any, stride: Any, *_rest: object) -> Tensor:
    sizes, strides = list(size), list(stride)
    if not isinstance(storage, Tensor) or len(sizes) != len(strides):
        raise RefusedError("a tensor is not as torch writes it")
    if not all(type(number) is int and number >= 0 for number in (*sizes, *strides, offset)):
        raise RefusedError("the shape of a tensor is not one")
    empty = 0 in sizes
    reach = 0 if empty else offset + 1 + sum((n - 1) * step for n, step in zip(sizes, strides, strict=True))
    values = 1
    for number in sizes:
        values *= number
    if reach > storage.numel() or values > storage.numel():
        raise RefusedError(f"a tensor claims {max(reach, values):,} numbers of {storage.numel():,}")
    return storage.as_strided(sizes, strides, 0 if empty else offset).clone()


def _tensors(value: object, name: str, depth: int) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, _Object):
        if depth > _DEPTH:
            raise RefusedError(f"its modules are nested more than {_DEPTH} deep")
        for key, inner in getattr(value, "attributes", {}).items():
            yield from _tensors(inner, f"{name}.{key}" if name else str(key), depth + 1)
