"""What a Hugging Face folder may say before transformers is let near it.

``config.json`` is data, but transformers acts on it: ``auto_map`` names code in the folder, quantisers and kernels are
fetched by name, an adapter names another model. So the file is read here, what is not a plain description of the
network is dropped or refused, and transformers gets the rest as a value, never the folder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from compressor.errors import CompressorError

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
METHOD = "compressor"  # of the quantization_config in the folders that we write

_LIMIT = 16 << 20  # bytes of a JSON file
_LARGEST = 1 << 24  # of any whole number: longer contexts and vocabularies are not known
_DEEP = re.compile(r"(^|_)(layers?|depths?)$|^(n|num)_(\w+_)?blocks$")  # what a network is built of in a loop
_HARMLESS = re.compile(r"theta|scal|flo|param|seed|token_id")  # what no memory depends on
_DROPPED = {
    "auto_map", "attn_implementation", "experts_implementation", "transformers_weights", "fusion_config",
    "kernel_config", "use_kernels", "distributed_config", "custom_pipelines",
}  # fmt: skip


def is_folder(path: Path) -> bool:
    """Whether ``path`` is a folder with a Hugging Face model in it."""
    return path.is_dir() and (path / CONFIG).is_file()


def read_config(folder: Path) -> dict[str, Any]:
    """``config.json`` as far as it describes a network; CompressorError where it asks for more than that."""
    file = folder / CONFIG
    config = _json(file)
    if (folder / "adapter_config.json").exists():
        raise CompressorError(f"{folder}: is an adapter for another model; merge it into that one and save the whole")
    quantization = config.get("quantization_config")
    if quantization is not None:
        by = quantization.get("quant_method") if isinstance(quantization, dict) else None
        if by == METHOD:
            raise CompressorError(f"{folder}: was compressed already; start from the original model")
        raise CompressorError(f"{folder}: is quantised already ({str(by)[:40]}); start from the original model")
    kind = config.get("model_type")
    if not isinstance(kind, str) or not re.fullmatch(r"[\w.-]{1,60}", kind):
        raise CompressorError(f"{file}: has no model_type that names a network (it says {str(kind)[:60]!r})")
    return _plain(config)


def safetensors_files(folder: Path) -> list[Path]:
    """The files with the weights of ``folder``: one, or the shards that its index names."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not (folder / INDEX).is_file():
        old = sorted(path.name for path in folder.glob("pytorch_model*.bin"))
        if old:
            raise CompressorError(
                f"{folder}: holds its weights as a pickle ({old[0]}), which is not read from such a folder; save it"
                " anew with model.save_pretrained(folder), which writes model.safetensors"
            )
        raise CompressorError(f"{folder}: has a {CONFIG}, but neither {WEIGHTS} nor {INDEX}")
    index = _json(folder / INDEX).get("weight_map")
    if not isinstance(index, dict) or not index:
        raise CompressorError(f"{folder / INDEX}: has no weight_map of tensors and files")
    names = sorted({str(name) for name in index.values()})
    for name in names:
        if not re.fullmatch(r"[\w-][\w.-]*\.safetensors", name):
            raise CompressorError(f"{folder / INDEX}: names {name[:80]!r}, which is no safetensors file of the folder")
        if not (folder / name).is_file():
            raise CompressorError(f"{folder}: its index names {name}, which is not there")
    return [folder / name for name in names]


def check_sizes(folder: Path, config: dict[str, Any], tensors: int) -> None:
    """Refuse a configuration that would build more than the ``tensors`` of the files can be for."""
    for key, value in _numbers(config):
        if (abs(value) > _LARGEST and not _HARMLESS.search(key)) or (_DEEP.search(key) and value > tensors):
            raise CompressorError(
                f"{folder / CONFIG}: says {key}: {value:,}, which a network of {tensors:,} tensors cannot have"
            )


def _json(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > _LIMIT:
            raise CompressorError(f"{file}: has {file.stat().st_size:,} bytes, more than {_LIMIT:,}")
        found = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise CompressorError(f"{file}: is not valid JSON: {' '.join(str(error).split())[:100]}") from None
    if not isinstance(found, dict):
        raise CompressorError(f"{file}: is not a JSON object")
    return found


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    """``value`` without what names code or the machine that wrote it, inside too."""
    return {
        key: _plain(inner) if isinstance(inner, dict) else inner
        for key, inner in value.items()
        if not key.startswith("_") and key not in _DROPPED
    }


def _numbers(value: Any, key: str = "") -> Iterator[tuple[str, int]]:
    """The whole numbers in ``value``, each with the name that it stands under; token ids and the like name nothing."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _numbers(inner, name)
    elif isinstance(value, list):
        for inner in value:
            yield from _numbers(inner, key)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield key, value
