"""Recipes, reports and Hugging Face folders: text that asks for code, for other files or for endless memory."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from case import COMMAND, Touch, case, network, torch_bytes


def _recipe(text: str) -> list[str]:
    torch.save(network().state_dict(), "model.pth")
    Path("recipe.yaml").write_text(text)
    return ["--recipe", "recipe.yaml", "-o", "out"]


@case("a recipe with a tag that runs code", "is not plain YAML")
def tag(_folder: Path) -> list[str]:
    return _recipe(f"model: !!python/object/apply:os.system ['{COMMAND}']\n")


@case("a recipe with a tag that makes an object", "is not plain YAML")
def new(_folder: Path) -> list[str]:
    return _recipe("model: !!python/object/new:subprocess.Popen [['touch', 'marker']]\n")


@case("a recipe whose aliases double sixty times", "aliases")
def laughs(_folder: Path) -> list[str]:
    lines = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 60)]
    return _recipe("settings:\n" + "".join(f"  {line}\n" for line in lines))


@case("a recipe that holds itself", "aliases")
def cycle(_folder: Path) -> list[str]:
    return _recipe("settings: &a\n  b: *a\n")


@case("a recipe nested a hundred thousand deep", "nested more than")
def deep(_folder: Path) -> list[str]:
    return _recipe("model: " + "[" * 100_000)


@case("a recipe with options that nobody knows", "is not valid")
def unknown(_folder: Path) -> list[str]:
    return _recipe("model: model.pth\nexec: touch marker\n")


@case("a recipe that is no text")
def binary(_folder: Path) -> list[str]:
    found = _recipe("")
    Path("recipe.yaml").write_bytes(b"\xff\xfe\x00" * 100)
    return found


@case("a recipe with a method that is a path", "there is no method")
def method(_folder: Path) -> list[str]:
    return _recipe("model: model.pth\narch: nets.py:mlp\nmethod: os.system\n")


def _folder_with(folder: Path, name: str, text: str) -> None:
    shutil.copytree(folder.parent / "done", "small")
    (Path("small") / name).write_text(text)


@case("a finished folder whose recipe names code in it", "not run unasked")
def planted(folder: Path) -> list[str]:
    _folder_with(folder, "evil.py", "open('marker', 'w')\n")
    Path("small/recipe.yaml").write_text("model: small/evil.py:build\nmethod: svd\n")
    return ["bench", "small"]


@case("a folder to be exported whose recipe names code in it", "not run unasked")
def planted_export(folder: Path) -> list[str]:
    _folder_with(folder, "evil.py", "open('marker', 'w')\n")
    Path("small/recipe.yaml").write_text("model: small/evil.py:build\nmethod: svd\n")
    return ["export", "small", "--to", "onnx", "--dense", "-o", "out"]


@case("a report that is no report", "is not a report")
def report(folder: Path) -> list[str]:
    _folder_with(folder, "report.json", '{"model": "x"}')
    return ["report", "small"]


@case("a report nested a hundred thousand deep", "is not a report")
def deep_report(folder: Path) -> list[str]:
    _folder_with(folder, "report.json", '{"a":' * 100_000)
    return ["report", "small"]


# --- Hugging Face -------------------------------------------------------------------------------

_SIZES = {
    "vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64,
    "max_position_embeddings": 40,
}  # fmt: skip


def _bert(change: Callable[[dict[str, Any]], object] = lambda config: None) -> list[str]:
    import transformers

    transformers.BertModel(transformers.BertConfig(**_SIZES)).save_pretrained("bert")
    config = json.loads(Path("bert/config.json").read_text())
    change(config)
    Path("bert/config.json").write_text(json.dumps(config))
    Path("bert/evil.py").write_text("open('marker', 'w')\nclass Model: pass\n")
    return ["bert", "--method", "svd", "--set", "rank=2", "-o", "out"]


@case("a Hugging Face folder with code for a type of its own", "never run")
def remote(_folder: Path) -> list[str]:
    return _bert(lambda config: config.update(model_type="mine", auto_map={"AutoModel": "evil.Model"}))


@case("a Hugging Face folder with a billion layers", "num_hidden_layers")
def layers(_folder: Path) -> list[str]:
    return _bert(lambda config: config.update(num_hidden_layers=10**9))


@case("a Hugging Face folder with a table of a trillion rows", "max_position_embeddings")
def table(_folder: Path) -> list[str]:
    return _bert(lambda config: config.update(max_position_embeddings=10**12))


@case("a Hugging Face folder whose index leads outside", "no safetensors file of the folder")
def index(_folder: Path) -> list[str]:
    found = _bert()
    Path("bert/model.safetensors").rename("elsewhere.safetensors")
    text = json.dumps({"weight_map": {"embeddings": "../elsewhere.safetensors"}})
    Path("bert/model.safetensors.index.json").write_text(text)
    return found


@case("a Hugging Face folder with pickled weights", "save_pretrained")
def pickled(_folder: Path) -> list[str]:
    found = _bert()
    Path("bert/model.safetensors").unlink()
    Path("bert/pytorch_model.bin").write_bytes(torch_bytes(Touch()))
    return found


@case("a Hugging Face folder that is an adapter of another", "adapter")
def adapter(_folder: Path) -> list[str]:
    found = _bert()
    Path("bert/adapter_config.json").write_text('{"base_model_name_or_path": "../evil", "peft_type": "LORA"}')
    return found


@case("a Hugging Face folder quantised by something else", "quantised already")
def quantised(_folder: Path) -> list[str]:
    return _bert(lambda config: config.update(quantization_config={"quant_method": "gptq", "bits": 4}))


@case("a Hugging Face configuration nested a hundred thousand deep", "JSON")
def deep_config(_folder: Path) -> list[str]:
    found = _bert()
    Path("bert/config.json").write_text('{"a":' * 100_000)
    return found
