"""Safetensors files read and written tensor by tensor, so that a model need never be in memory as a whole."""

from __future__ import annotations

import contextlib
import json
import shutil
import struct
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from compressor.errors import CompressorError

_NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.uint16: "U16",
    torch.bool: "BOOL",
}  # fmt: skip
_CHUNK = 1 << 22


class Source:
    """The tensors of one model in several files; each read when it is asked for, and kept nowhere."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.file_of: dict[str, Path] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.nbytes: dict[str, int] = {}
        for path in files:
            with _opened(path) as file:
                for name in file.keys():  # noqa: SIM118 (not a mapping)
                    found = file.get_slice(name)
                    self.file_of[name] = path
                    self.shapes[name] = tuple(found.get_shape())
                    numbers = 1
                    for size in self.shapes[name]:
                        numbers *= size
                    self.nbytes[name] = numbers * _bytes_of(path, name, found.get_dtype())

    def tensor(self, name: str) -> Tensor:
        """The tensor ``name``, in memory of its own: the file is not held open."""
        with _opened(self.file_of[name]) as file:
            found: Tensor = file.get_tensor(name)
            return found.clone()


def _bytes_of(path: Path, name: str, dtype: str) -> int:
    for known, text in _NAMES.items():
        if text == dtype:
            return known.itemsize
    raise CompressorError(f"{path}: '{name}' is of type {dtype}, which is not streamed")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError, ValueError) as error:
        said = " ".join(str(error).split())[:160]
        raise CompressorError(f"{path}: is not a whole safetensors file: {said}") from None


class Writer:
    """Writes a safetensors file tensor by tensor; `close` puts the header, which is known only then, in front."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # One body for each size of number, the largest first: so each tensor lies at a multiple of its own.
        self._bodies: dict[int, IO[bytes]] = {
            size: tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115 (closed with the writer)
            for size in (8, 4, 2, 1)
        }
        self._entries: dict[int, dict[str, dict[str, Any]]] = {size: {} for size in self._bodies}

    def add(self, name: str, tensor: Tensor) -> None:
        """Write ``tensor``; nothing of it is kept."""
        tensor = tensor.detach().cpu().contiguous()
        size = tensor.dtype.itemsize
        body = self._bodies[size]
        start = body.tell()
        if tensor.numel():
            raw: Any = tensor.reshape(-1).view(torch.uint8).numpy()
            body.write(raw)
        self._entries[size][name] = {
            "dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, body.tell()],
        }  # fmt: skip

    def close(self, metadata: dict[str, str]) -> None:
        """Put the file together."""
        header: dict[str, Any] = {"__metadata__": metadata}
        start = 0
        for size, body in self._bodies.items():
            for name, entry in self._entries[size].items():
                begin, end = entry["data_offsets"]
                header[name] = {**entry, "data_offsets": [start + begin, start + end]}
            start += body.tell()
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        with self.path.open("wb") as out:
            out.write(struct.pack("<Q", len(text)) + text)
            for body in self._bodies.values():
                body.seek(0)
                shutil.copyfileobj(body, out, _CHUNK)
                body.close()
