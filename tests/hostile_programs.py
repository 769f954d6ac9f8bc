"""What the tests of hostile models share: a network, its exported program, and ways to spoil it."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from compressor.errors import CompressorError
from compressor_converters.load import load_model

NETS = """
from torch import nn

def mlp():
    return nn.Sequential(nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 3))
"""


class Touch:
    """Makes the file ``path`` when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (f"touch {self.path}",))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 3)).eval()


Change = Callable[[dict[str, bytes]], None]


def rewrite(program: bytes, path: Path, change: Change, *, compress: bool = False) -> Path:
    """The entries of ``program`` (names without the folder) after ``change``, as a new archive."""
    with zipfile.ZipFile(io.BytesIO(program)) as file:
        entries = {name.split("/", 1)[1]: file.read(name) for name in file.namelist()}
    change(entries)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED) as file:
        for name, content in entries.items():
            file.writestr(name[1:] if name.startswith("!") else f"m/{name}", content)
    return path


def edit(name: str, change: Callable[[Any], None]) -> Change:
    """Change the JSON entry ``name``."""

    def run(entries: dict[str, bytes]) -> None:
        value = json.loads(entries[name])
        change(value)
        entries[name] = json.dumps(value).encode()

    return run


MODEL = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"


def graph(model: Any) -> Any:
    return model["graph_module"]["graph"]


def torch_bytes(value: object) -> bytes:
    out = io.BytesIO()
    torch.save(value, out)
    return out.getvalue()


def refused(path: Path, *words: str, **options: Any) -> None:
    """The file is refused in one line that says which file and why."""
    with pytest.raises(CompressorError) as caught:
        load_model(str(path), **options)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    message = str(caught.value).replace(str(path), "")  # the folder is named after the test
    for word in words:
        assert word in message, f"{word!r} not in {message!r}"


def exported() -> bytes:
    """An exported program as torch writes it."""
    dynamic = ({0: torch.export.Dim("batch", min=1)},)
    out = io.BytesIO()
    torch.export.save(torch.export.export(network(), (torch.randn(4, 7),), dynamic_shapes=dynamic, strict=False), out)
    return out.getvalue()
