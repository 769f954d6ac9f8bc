"""Safetensors files whose headers lie, and manifests that ask for what no file holds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from case import case, job, network, safetensors_bytes
from safetensors import safe_open
from safetensors.torch import load_file, save_file


def _header(header: object, data: bytes = bytes(140), *, length: int | None = None) -> list[str]:
    Path("model.safetensors").write_bytes(safetensors_bytes(header, data, length=length))
    return job("model.safetensors")


def _entry(**changes: Any) -> dict[str, Any]:
    return {"0.weight": {"dtype": "F32", "shape": [5, 7], "data_offsets": [0, 140], **changes}}


@case("a header of sixteen exabytes", "safetensors")
def long_header(_folder: Path) -> list[str]:
    return _header(_entry(), length=2**64 - 1)


@case("a header that ends behind the file", "safetensors")
def cut_header(_folder: Path) -> list[str]:
    return _header(_entry(), length=10_000)


@case("tensors that overlap", "safetensors")
def overlap(_folder: Path) -> list[str]:
    second = {"0.bias": {"dtype": "F32", "shape": [5, 7], "data_offsets": [70, 210]}}
    return _header({**_entry(), **second}, bytes(210))


@case("tensors with a hole between them", "safetensors")
def hole(_folder: Path) -> list[str]:
    return _header({**_entry(), "0.bias": {"dtype": "F32", "shape": [5], "data_offsets": [160, 180]}}, bytes(180))


@case("a shape whose size overflows", "safetensors")
def overflow(_folder: Path) -> list[str]:
    return _header(_entry(shape=[2**62, 4]))


@case("a tensor of four gigabytes in 140 bytes", "safetensors")
def too_large(_folder: Path) -> list[str]:
    return _header(_entry(shape=[2**30], data_offsets=[0, 2**32]))


@case("offsets that run backwards", "safetensors")
def backwards(_folder: Path) -> list[str]:
    return _header(_entry(data_offsets=[140, 0]))


@case("a negative shape", "safetensors")
def negative(_folder: Path) -> list[str]:
    return _header(_entry(shape=[-5, -7]))


@case("a type called NaN", "safetensors")
def nan_type(_folder: Path) -> list[str]:
    return _header(_entry(dtype="NaN"))


@case("a header that is NaN", "safetensors")
def nan(_folder: Path) -> list[str]:
    return _header(b"NaN")


@case("a header nested a hundred thousand deep", "safetensors")
def deep(_folder: Path) -> list[str]:
    return _header(b'{"a":' * 100_000)


@case("one tensor twice")
def twice(_folder: Path) -> list[str]:
    one = json.dumps(_entry())
    return _header((one[:-1] + "," + one[1:]).encode())


@case("a tensor named as a path", "nets.py:mlp")
def path(_folder: Path) -> list[str]:
    return _header({"../../marker": _entry()["0.weight"]})


@case("a name that moves the cursor", "nets.py:mlp")
def escape(_folder: Path) -> list[str]:
    return _header({"\x1b[2J\x1b]0;owned\x07\x00\u202eevil": _entry()["0.weight"]})


@case("weights that are not numbers", "NaN")
def not_numbers(_folder: Path) -> list[str]:
    state = network().state_dict()
    state["0.weight"][0, 0] = float("nan")
    save_file(state, "model.safetensors")
    return job("model.safetensors")


# --- manifests ----------------------------------------------------------------------------------


def _manifest(folder: Path, change: Callable[[dict[str, Any]], object]) -> list[str]:
    """Export of a finished folder (``done``, beside the working directory) whose manifest is changed."""
    shutil.copytree(folder.parent / "done", "small")
    file = Path("small/model.safetensors")
    with safe_open(file, framework="pt") as opened:
        manifest = json.loads(opened.metadata()["compressor"])
    change(manifest)
    save_file(load_file(file), file, metadata={"compressor": json.dumps(manifest)})
    return ["export", "small", "--to", "onnx", "--dense", "-o", "out", "--original", str(folder.parent / "weights.pth")]


def _layer(folder: Path, **changes: Any) -> list[str]:
    return _manifest(folder, lambda manifest: manifest["layers"]["0"].update(changes))


@case("a manifest with a method that is a path", "there is no method 'os.system'")
def dotted(folder: Path) -> list[str]:
    return _layer(folder, method="os.system")


@case("a manifest with a method that nobody knows", "there is no method")
def unknown(folder: Path) -> list[str]:
    return _layer(folder, method="zzz")


@case("a manifest with a layer of a trillion outputs", "out_features")
def wide(folder: Path) -> list[str]:
    return _layer(folder, out_features=10**12)


@case("a manifest with a rank of a billion", "rank")
def rank(folder: Path) -> list[str]:
    return _layer(folder, config={"rank": 10**9})


@case("a manifest with a cascade of a billion members", "depth")
def depth(folder: Path) -> list[str]:
    return _layer(folder, method="acdc", config={"depth": 10**9})


@case("a manifest with settings that no method has", "has no setting")
def settings(folder: Path) -> list[str]:
    return _layer(folder, config={"__class__": "evil"})


@case("a manifest that opens what it does not know", "install a newer one")
def opened(folder: Path) -> list[str]:
    return _manifest(folder, lambda manifest: manifest.update(opened={"0": "os.system"}))


@case("a manifest that replaces the whole network", "does not have")
def root(folder: Path) -> list[str]:
    return _manifest(folder, lambda manifest: manifest.update(identities=["nowhere"]))


@case("a manifest that is no object", "manifest is not valid")
def listed(folder: Path) -> list[str]:
    return _manifest(folder, lambda manifest: manifest.update(layers=[1]))


@case("a manifest nested ten thousand deep", "manifest is not valid")
def nested(folder: Path) -> list[str]:
    def change(manifest: dict[str, Any]) -> None:
        value: Any = 1
        for _ in range(400):
            value = [value]
        manifest["layers"]["0"]["config"] = {"rank": value}

    return _manifest(folder, change)


@case("tensors that are not those of the manifest", "the file 4 numbers at most")
def other(folder: Path) -> list[str]:
    found = _manifest(folder, lambda manifest: None)
    with safe_open("small/model.safetensors", framework="pt") as opened_file:
        metadata = opened_file.metadata()
    save_file({"0.first": torch.zeros(2, 2)}, "small/model.safetensors", metadata=metadata)
    return found
