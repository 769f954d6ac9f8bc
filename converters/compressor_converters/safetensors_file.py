"""``model.safetensors``: the compact parameters, with the manifest in the file's metadata."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from compressor.errors import CompressorError
from compressor_converters.manifest import Manifest, apply, shared_tensors
from compressor_converters.storage import DTYPES

ModuleT = TypeVar("ModuleT", bound=nn.Module)

EXTRA_STATE = "_extra_state"  # what a module keeps beside tensors, under torch's name for it
METADATA_KEY = "compressor"  # the only key: the order of several is not kept by the format's writer


def save(model: nn.Module, manifest: Manifest, path: Path, *, dtype: str | None = None) -> None:
    """Write the parameters and persistent buffers of ``model``, each tensor once, with ``manifest``.

    ``dtype`` is what float32 numbers are stored as, where that is something else.
    """
    tensors = {
        name: tensor.detach().cpu() for name, tensor in model.state_dict().items() if name not in manifest.shared
    }
    save_file(_stored(tensors, dtype), path, metadata={METADATA_KEY: manifest.model_dump_json()})


def save_plain(model: nn.Module, path: Path, dtype: str | None = None) -> None:
    """Write the state dict of ``model`` as any program reads it: no manifest, shared tensors under their first name."""
    again = shared_tensors(model)
    tensors = {name: value.detach().cpu() for name, value in model.state_dict().items() if name not in again}
    save_file(_stored(tensors, dtype), path, metadata={"format": "pt"})


def load_plain(model: nn.Module, path: Path) -> nn.Module:
    """Put the tensors that `save_plain` wrote into ``model``, in place."""
    tensors = load_file(path)
    tensors |= {name: tensors[first] for name, first in shared_tensors(model).items() if first in tensors}
    model.load_state_dict(tensors)
    return model.eval()


def cast(source: Path, path: Path, dtype: str | None) -> None:
    """Write the compressed network in ``source`` to ``path`` with its float32 numbers stored as ``dtype``."""
    manifest, tensors = _read(source)
    save_file(_stored(tensors, dtype), path, metadata={METADATA_KEY: manifest.model_dump_json()})


def _stored(tensors: dict[str, Tensor], dtype: str | None) -> dict[str, Tensor]:
    def kept(value: Tensor) -> Tensor:
        wide = dtype is None or value.dtype != torch.float32
        return (value if wide else value.to(DTYPES[dtype or ""])).contiguous()

    return {name: kept(value) for name, value in tensors.items()}


def read_manifest(path: Path) -> Manifest:
    """The manifest of the file ``path``; a file without one was not written here."""
    return _read(path)[0]


def load_into(model: ModuleT, path: Path, *, put: Callable[[ModuleT, Manifest, int], None] = apply) -> ModuleT:
    """Turn the original network ``model`` into the compressed one of the file ``path``, in place.

    ``put(model, manifest, numbers)`` puts the layers where they belong; ``numbers`` is how many the file holds.
    """
    manifest, tensors = _read(path)
    put(model, manifest, sum(value.numel() for value in tensors.values()))
    tensors |= {name: tensors[first] for name, first in manifest.shared.items() if first in tensors}
    try:
        missing, unexpected = model.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        said = " ".join(str(error).split(":", 1)[-1].split())[:200]
        raise CompressorError(f"{path}: does not fit the network: {said}") from None
    unexpected = [name for name in unexpected if not name.endswith(EXTRA_STATE)]  # a traced program has it in its code
    if missing or unexpected:
        raise CompressorError(
            f"{path}: does not fit the network: {len(missing)} tensors missing {missing[:3]},"
            f" {len(unexpected)} unknown {unexpected[:3]}; give the network it was made from"
        )
    return model


def _read(path: Path) -> tuple[Manifest, dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if METADATA_KEY not in metadata:
                raise CompressorError(f"{path}: holds no compressed network (its metadata has no '{METADATA_KEY}')")
            manifest = Manifest.model_validate_json(metadata[METADATA_KEY])
            return manifest, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise CompressorError(f"{path}: there is no such file; give a folder that compress wrote") from None
    except (SafetensorError, OSError) as error:
        raise CompressorError(f"{path}: is no whole safetensors file: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise CompressorError(f"{path}: its manifest is not valid: {where}: {first['msg']}") from None
