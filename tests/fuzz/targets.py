"""What is fuzzed: every loader, given a file that holds the fuzzer's bytes where a hostile one would put its own.

A loader may read the file or refuse it with a CompressorError. Anything else is a finding.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from compressor.data import load_data
from compressor.errors import CompressorError
from compressor.layers import method, replace
from compressor.recipe import read_recipe
from compressor.report import read_report
from compressor_converters.load import load_model
from compressor_converters.pt2 import load_pt2
from compressor_converters.safetensors_file import METADATA_KEY, load_into
from compressor_converters.state_dict import read_safetensors
from compressor_converters.tensor_stream import Source
from compressor_converters.torchscript import read_torchscript

Target = Callable[[Path, bytes], object]
TARGETS: dict[str, Target] = {}
NETS = """
from torch import nn

def mlp():
    return nn.Sequential(nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 3))
"""
BERT = {
    "model_type": "bert", "architectures": ["BertModel"], "vocab_size": 9, "hidden_size": 8, "hidden_act": "gelu",
    "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "max_position_embeddings": 9,
}  # fmt: skip


def target(function: Target) -> Target:
    """Enter ``function`` under its own name."""
    TARGETS[function.__name__.removesuffix("_")] = function
    return function


def try_one(name: str, data: bytes, folder: Path) -> bool:
    """Give ``data`` to the target ``name``; whether it was read. Raises what is a finding."""
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    try:
        TARGETS[name](folder, data)
    except CompressorError as error:
        if "\n" in str(error) or len(str(error)) > 2000:
            raise AssertionError(f"not one line: {str(error)[:300]!r}") from error
        return False
    return True


@contextlib.contextmanager
def scratch():
    """A folder in memory where there is one."""
    place = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=place) as name, contextlib.chdir(name):
        yield Path(name)


def network() -> nn.Module:
    """A small network, always the same."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 3)).eval()


def unpacked(content: bytes) -> dict[str, bytes]:
    """The entries of a zip file."""
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        return {name: file.read(name) for name in file.namelist()}


def entry(entries: dict[str, bytes], ending: str) -> bytes:
    """The one that ends so."""
    return next(content for name, content in entries.items() if name.endswith(ending))


def _pack(to, entries: dict[str, bytes]):
    with zipfile.ZipFile(to, "w") as file:
        for name, content in entries.items():
            file.writestr(name, content)
    return to


@cache
def state() -> dict[str, bytes]:
    """The entries of a saved state dict."""
    out = io.BytesIO()
    torch.save(network().state_dict(), out)
    return unpacked(out.getvalue())


@cache
def parameters() -> dict[str, bytes]:
    """The entries of saved parameters."""
    out = io.BytesIO()
    torch.save(dict(network().named_parameters()), out)
    return unpacked(out.getvalue())


@cache
def examples() -> dict[str, bytes]:
    """The entries of saved data."""
    out = io.BytesIO()
    torch.save({"x": torch.zeros(4, 7), "labels": torch.arange(4)}, out)
    return unpacked(out.getvalue())


@cache
def script() -> dict[str, bytes]:
    """The entries of a TorchScript archive."""
    out = io.BytesIO()
    torch.jit.save(torch.jit.script(network()), out)
    return unpacked(out.getvalue())


@cache
def program() -> dict[str, bytes]:
    """The entries of an exported program."""
    out = io.BytesIO()
    shapes = ({0: torch.export.Dim("batch", min=1)},)
    torch.export.save(torch.export.export(network(), (torch.randn(4, 7),), dynamic_shapes=shapes, strict=False), out)
    return unpacked(out.getvalue())


@cache
def compressed() -> nn.Module:
    """The network with one structured layer."""
    model = network()
    replace(model, "0", method("acdc").layer(7, 5, depth=2))
    return model


def _with(entries: dict[str, bytes], ending: str, data: bytes) -> dict[str, bytes]:
    (name,) = (name for name in entries if name.endswith(ending))
    return {**entries, name: data}


# --- models -------------------------------------------------------------------------------------


def _load(path: Path) -> None:
    (path.parent / "nets.py").write_text(NETS)
    load_model(str(path), arch="nets.py:mlp")


@target
def pickled(folder: Path, data: bytes) -> object:
    """``data.pkl`` of a state dict."""
    return _load(_pack(folder / "model.pt", _with(state(), "data.pkl", data)))


@target
def old_pickle(folder: Path, data: bytes) -> object:
    """A pickle as torch wrote before its zip format."""
    (folder / "model.pth").write_bytes(b"\x80" + data)
    return _load(folder / "model.pth")


@target
def archive(folder: Path, data: bytes) -> object:
    """The zip file itself."""
    (folder / "model.pt").write_bytes(b"PK" + data)
    return _load(folder / "model.pt")


@target
def torchscript(folder: Path, data: bytes) -> object:
    """``data.pkl`` of a TorchScript archive."""
    return read_torchscript(_pack(folder / "model.pt", _with(script(), "/data.pkl", data)))


@target
def exported(folder: Path, data: bytes) -> object:
    """``model.json`` of an exported program."""
    return load_pt2(_pack(folder / "model.pt2", _with(program(), "models/model.json", data)))


@target
def exported_weights(folder: Path, data: bytes) -> object:
    """The list of weights of an exported program."""
    return load_pt2(_pack(folder / "model.pt2", _with(program(), "model_weights_config.json", data)))


@target
def exported_before(folder: Path, data: bytes) -> object:
    """``data.pkl`` of the weights of an exported program, as torch before 2.8 wrote one."""
    constants = io.BytesIO()
    torch.save({}, constants)
    entries = {
        "serialized_exported_program.json": entry(program(), "models/model.json"),
        "serialized_state_dict.pt": _pack(io.BytesIO(), _with(parameters(), "data.pkl", data)).getvalue(),
        "serialized_constants.pt": constants.getvalue(),
        "version": b"8.2",
    }
    return load_pt2(_pack(folder / "model.pt2", entries))


@target
def safetensors(folder: Path, data: bytes) -> object:
    """The header of a safetensors file."""
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(data)) + data + bytes(232))
    return read_safetensors(folder / "model.safetensors")


@target
def streamed(folder: Path, data: bytes) -> object:
    """The header of a safetensors file that is read tensor by tensor."""
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(data)) + data + bytes(232))
    source = Source([folder / "model.safetensors"])
    return [source.tensor(name) for name in source.shapes]


@target
def onnx(folder: Path, data: bytes) -> object:
    """An ONNX file, with a file of external data beside it."""
    (folder / "model.onnx").write_bytes(data)
    (folder / "w.bin").write_bytes(bytes(140))
    return load_model(str(folder / "model.onnx"))


@target
def config(folder: Path, data: bytes) -> object:
    """``config.json`` of a Hugging Face folder."""
    (folder / "bert").mkdir()
    (folder / "bert" / "config.json").write_bytes(data)
    save_file(bert(), folder / "bert" / "model.safetensors", metadata={"format": "pt"})
    return load_model(str(folder / "bert"))


@target
def index(folder: Path, data: bytes) -> object:
    """The index of a sharded Hugging Face folder."""
    (folder / "bert").mkdir()
    (folder / "bert" / "config.json").write_text(json.dumps(BERT))
    (folder / "bert" / "model.safetensors.index.json").write_bytes(data)
    save_file(bert(), folder / "bert" / "model-00001-of-00001.safetensors", metadata={"format": "pt"})
    return load_model(str(folder / "bert"))


@cache
def bert() -> dict[str, torch.Tensor]:
    """The weights of a small network of transformers."""
    import transformers

    return transformers.BertModel(transformers.BertConfig(**BERT)).state_dict()


# --- what we write ------------------------------------------------------------------------------


@target
def manifest(folder: Path, data: bytes) -> object:
    """The manifest of a compressed network."""
    tensors = compressed().state_dict()
    with contextlib.suppress(UnicodeDecodeError):
        save_file(tensors, folder / "model.safetensors", metadata={METADATA_KEY: data.decode()})
        return load_into(network(), folder / "model.safetensors")
    return None


@target
def recipe(folder: Path, data: bytes) -> object:
    """A recipe."""
    (folder / "recipe.yaml").write_bytes(data)
    return read_recipe(folder / "recipe.yaml").digest()


@target
def report(folder: Path, data: bytes) -> object:
    """A report."""
    (folder / "report.json").write_bytes(data)
    return read_report(folder).to_json()


# --- data ---------------------------------------------------------------------------------------


@target
def array(folder: Path, data: bytes) -> object:
    """A NumPy array."""
    (folder / "x.npy").write_bytes(data)
    return load_data(str(folder / "x.npy"), ("x",)).head(3)


@target
def arrays(folder: Path, data: bytes) -> object:
    """An archive of NumPy arrays."""
    return load_data(str(_pack(folder / "x.npz", {"x.npy": data})), ("x",)).head(3)


@target
def data_pickle(folder: Path, data: bytes) -> object:
    """Tensors as data."""
    return load_data(str(_pack(folder / "x.pt", _with(examples(), "data.pkl", data))), ("x",)).head(3)


@target
def data_tensors(folder: Path, data: bytes) -> object:
    """The header of a safetensors file as data."""
    (folder / "x.safetensors").write_bytes(struct.pack("<Q", len(data)) + data + bytes(232))
    return load_data(str(folder / "x.safetensors"), ("x",)).head(3)


@target
def picture(folder: Path, data: bytes) -> object:
    """One picture in a folder of pictures by class."""
    (folder / "pictures" / "cat").mkdir(parents=True)
    (folder / "pictures" / "cat" / "one.png").write_bytes(data)
    return load_data(str(folder / "pictures"), ("x",)).head(1)
