"""A compressed network as a Hugging Face folder: ``config.json`` and the tokeniser's files beside the weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from torch import nn

from compressor.errors import CompressorError
from compressor_converters.hugging_face.config import CONFIG, METHOD
from compressor_converters.hugging_face.registration import register

# What stands beside the weights and says how to use the model: data only, no code and no other weights.
_BESIDE = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt",
    "vocab.json", "merges.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model",
    "preprocessor_config.json", "processor_config.json", "generation_config.json", "chat_template.jinja",
    "modules.json", "sentence_bert_config.json", "config_sentence_transformers.json", "1_Pooling/config.json",
)  # fmt: skip


def is_hugging_face(model: nn.Module) -> bool:
    """Whether ``model`` is a network of transformers, so that a folder can be written for it."""
    return hasattr(model, "config") and hasattr(type(model), "from_pretrained") and hasattr(model, "main_input_name")


def write_config(model: Any, folder: Path, *, compressed: bool = True, source: Path | None = None) -> None:
    """Write what makes ``folder``, which has the weights, one that ``from_pretrained`` reads.

    ``compressed``: the weights are compact and carry a manifest; else they are plain. The tokeniser's files are
    those of the folder ``source``, where there is one.
    """
    config = model.config.to_dict()
    if not isinstance(config.get("model_type"), str):
        raise CompressorError(
            "the network's configuration names no model_type, so that no folder can be written for it"
        )
    for key in ("_name_or_path", "quantization_config", "auto_map"):
        config.pop(key, None)
    config["architectures"] = [type(model).__name__]
    config["dtype"] = "float32"
    if compressed:
        config["quantization_config"] = {"quant_method": METHOD}
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    if source is not None:
        copy_beside(source, folder)


def copy_beside(source: Path, folder: Path) -> None:
    """Copy what says how to use the model from the folder ``source`` to ``folder``."""
    for name in _BESIDE:
        if (source / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, folder / name)


def load_pretrained(folder: Path, network: type[nn.Module] | None = None) -> nn.Module:
    """What ``network.from_pretrained`` makes of ``folder``, as whoever gets the folder will load it.

    ``network`` is by default the class that the folder names.
    """
    from compressor_converters.hugging_face.reading import network_class, quietly, transformers_for

    register()
    found: Any = network or network_class(transformers_for(folder), folder, json.loads((folder / CONFIG).read_bytes()))

    def load() -> Any:
        return found.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False, output_loading_info=True
        )

    model, info = quietly(folder, load)
    wrong = sorted(str(name) for part in ("missing_keys", "unexpected_keys", "mismatched_keys") for name in info[part])
    if wrong:
        raise CompressorError(
            f"{folder.name}: from_pretrained misses or does not know {len(wrong)} tensors ({wrong[0]})"
        )
    loaded: nn.Module = model.eval()
    return loaded
