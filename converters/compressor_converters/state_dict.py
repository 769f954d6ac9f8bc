"""Named tensors in a file, and putting them into the network that they belong to."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compressor.errors import CompressorError
from compressor_converters.arch import said, working_directory_first
from compressor_converters.pt2_check import RefusedError, entries
from compressor_converters.safetensors_file import METADATA_KEY

_NESTS = ("state_dict", "model_state_dict", "model", "net", "params", "module", "weights")
_PREFIXES = ("module.", "_orig_mod.")  # added by data-parallel training and by torch.compile
_SHOWN = 3
_REPEATED = 1 << 20  # bytes that a tensor may make of fewer stored ones


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file; CompressorError where it is damaged or holds a compressed model."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            if METADATA_KEY in (file.metadata() or {}):
                raise CompressorError(f"{path}: was compressed already; start from the original model")
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError, ValueError) as error:
        raise CompressorError(
            f"{path}: is not a whole safetensors file: {' '.join(str(error).split())[:160]}"
        ) from None


def read_pickle(path: Path, *, unsafe: bool) -> Any:
    """What `torch.save` wrote to ``path``: tensors in plain containers, or with ``unsafe`` anything."""
    if not unsafe:
        check_zip(path)
    try:
        if unsafe:
            with working_directory_first():
                return torch.load(path, map_location="cpu", weights_only=False)
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if unsafe:
            raise CompressorError(f"{path}: is cut off or damaged: {said(error)}") from None
        text = str(error)
        dotted = re.search(r"[A-Za-z_]\w*(\.\w+)+", text)
        named = text.partition("GLOBAL ")[2].split(" ", 1)[0] or (dotted[0] if dotted else "")
        raise CompressorError(
            f"{path}: holds more than tensors{f' ({named[:80]})' if named else ''}, so that reading it could run code;"
            " save model.state_dict() and name the code with --arch, or, if you trust the file: --unsafe-load"
        ) from None
    except Exception as error:  # torch raises many kinds for damaged files
        raise CompressorError(f"{path}: could not be read, is it cut off or damaged? {said(error)}") from error


def check_zip(path: Path) -> None:
    """CompressorError for a zip archive whose entries are not what torch writes: they could unfold to anything."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as file:
            entries(file, path.stat().st_size)
    except RefusedError as error:
        raise CompressorError(f"{path}: not read, {error} (if you trust the file: --unsafe-load)") from None
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise CompressorError(f"{path}: is cut off or damaged ({error}); copy or download it again") from None


def tensors_of(path: Path, value: Any) -> dict[str, Tensor]:
    """The state dict in ``value``, out of the wrappings that checkpoints have."""
    if isinstance(value, Tensor):
        raise CompressorError(f"{path}: holds one tensor {tuple(value.shape)}, not a model; is it meant for --data?")
    if not isinstance(value, Mapping):
        raise CompressorError(f"{path}: holds a {type(value).__name__}, not a state dict")
    nests = {str(name): inner for name, inner in value.items() if _has_tensors(inner)}
    known = [name for name in _NESTS if name in nests]
    if known:
        value = nests[known[0]]
    elif nests and not _has_tensors(value):
        if len(nests) > 1:
            raise CompressorError(
                f"{path}: holds {len(nests)} state dicts ({_some(list(nests))}); save the one to compress"
            )
        (value,) = nests.values()
    tensors = {str(name): item for name, item in value.items() if isinstance(item, Tensor)}
    for name, item in tensors.items():
        check_stored(path, name, item)
    if not tensors:
        raise CompressorError(f"{path}: holds no tensors, only {_some([str(key) for key in value]) or 'nothing'}")
    for prefix in _PREFIXES * 2:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): item for name, item in tensors.items()}
    return tensors


def _has_tensors(value: Any) -> bool:
    return isinstance(value, Mapping) and any(isinstance(item, Tensor) for item in value.values())


def check_stored(path: Path, name: str, tensor: Tensor) -> None:
    """CompressorError for a tensor that says to be much more than the numbers that are stored for it."""
    if tensor.layout != torch.strided or tensor.is_quantized:
        raise CompressorError(f"{path}: '{name[:80]}' is sparse or quantised; save plain tensors")
    claimed = tensor.numel() * tensor.element_size()
    if claimed > max(_REPEATED, tensor.untyped_storage().nbytes()):
        have = tensor.untyped_storage().nbytes()
        raise CompressorError(f"{path}: '{name[:80]}' claims {claimed:,} bytes, {have:,} are stored for it")


def describe_keys(tensors: Mapping[str, Tensor]) -> str:
    """How many tensors there are and how many of them look like dense maps."""
    dense = sum(item.ndim == 2 and name.endswith("weight") for name, item in tensors.items())
    return f"{len(tensors)} tensors, {dense} of them matrices"


def fill(model: nn.Module, tensors: Mapping[str, Tensor], path: Path, arch: str) -> None:
    """Copy ``tensors`` into ``model``; CompressorError unless names and shapes are those of the network."""
    own = model.state_dict(keep_vars=True)
    shapes = [
        f"{name}: {tuple(tensors[name].shape)} in the file, {tuple(value.shape)} in the network"
        for name, value in own.items()
        if isinstance(value, Tensor) and name in tensors and tensors[name].shape != value.shape
    ]
    if shapes:
        raise CompressorError(
            f"{path}: {len(shapes)} tensors have other shapes than the network of '{arch}': {_some(shapes, '; ')}"
        )
    given = {id(value) for name, value in own.items() if name in tensors}
    missing = [name for name, value in own.items() if name not in tensors and id(value) not in given]
    # Counters of batch normalisation are not in older files; they play no part in eval mode.
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    unexpected = [name for name in tensors if name not in own]
    if missing or unexpected:
        parts = [
            f"{len(names)} {word} ({_some(names)})"
            for word, names in (("missing", missing), ("unexpected", unexpected))
            if names
        ]
        raise CompressorError(f"{path}: is not of the network of '{arch}': {' and '.join(parts)}")
    try:
        model.load_state_dict(dict(tensors), strict=False)
    except (RuntimeError, TypeError) as error:
        raise CompressorError(f"{path}: does not go into the network of '{arch}': {said(error)}") from error


def _some(names: Sequence[str], separator: str = ", ") -> str:
    more = [f"and {len(names) - _SHOWN} more"] if len(names) > _SHOWN else []
    return separator.join([*names[:_SHOWN], *more])
