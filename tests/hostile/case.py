"""What a hostile file is here: a program that writes it, the command that is given it, and the answer it must get."""

from __future__ import annotations

import io
import json
import os
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

NETS = """
from torch import nn

def mlp():
    return nn.Sequential(nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 3))
"""
MARKER = "marker"  # a file that only executed code makes
JOB = (
    "--arch",
    "nets.py:mlp",
    "--method",
    "svd",
    "--set",
    "rank=2",
    "--input-shape",
    "1,7",
    "--target",
    "*",
    "-o",
    "out",
)
COMMAND = f"touch {MARKER}"


Program = Callable[[Path], list[str]]


@dataclass(frozen=True)
class Case:
    """``write`` makes the file in the working directory and gives the arguments of the command."""

    write: Program
    says: tuple[str, ...] = ()  # words of the answer
    grows: int = 600 << 20  # bytes at most that the process may grow by

    @property
    def module(self) -> str:
        return self.write.__module__


CASES: dict[str, Case] = {}


def case(
    name: str, *says: str, grows: int = Case.grows
) -> Callable[[Callable[[Path], list[str]]], Callable[[Path], list[str]]]:
    """Enter a program as the hostile file ``name``; the command must answer with status 2 and the words ``says``."""

    def enter(write: Callable[[Path], list[str]]) -> Callable[[Path], list[str]]:
        assert name not in CASES, name
        CASES[name] = Case(write, says, grows)
        return write

    return enter


class Touch:
    """Makes the marker when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (COMMAND,))


def network() -> nn.Module:
    """The network of ``nets.py``."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 3)).eval()


def job(path: Path | str, *more: str) -> list[str]:
    """The main job on ``path``."""
    return [str(path), *JOB, *more]


def torch_bytes(value: object, **options: Any) -> bytes:
    """What `torch.save` writes."""
    out = io.BytesIO()
    torch.save(value, out, **options)
    return out.getvalue()


def safetensors_bytes(header: object, data: bytes = b"", *, length: int | None = None) -> bytes:
    """A safetensors file with any header: a value, or the bytes themselves."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def archive(path: Path, entries: dict[str, bytes], *, packed: bool = False) -> Path:
    """A zip file with ``entries``."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as file:
        for name, content in entries.items():
            file.writestr(name, content)
    return path


def unpacked(content: bytes) -> dict[str, bytes]:
    """The entries of a zip file."""
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        return {name: file.read(name) for name in file.namelist()}
