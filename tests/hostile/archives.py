"""Zip archives, torch's and NumPy's, whose names lead outside or whose sizes lie; and TorchScript."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from case import COMMAND, Touch, archive, case, job, network, torch_bytes, unpacked


def _state() -> dict[str, bytes]:
    return unpacked(torch_bytes(network().state_dict()))


def _program() -> dict[str, bytes]:
    out = io.BytesIO()
    shapes = ({0: torch.export.Dim("batch", min=1)},)
    torch.export.save(torch.export.export(network(), (torch.randn(4, 7),), dynamic_shapes=shapes, strict=False), out)
    return {name.split("/", 1)[1]: content for name, content in unpacked(out.getvalue()).items()}


def _write_program(change: Callable[[dict[str, bytes]], object]) -> list[str]:
    entries = _program()
    change(entries)
    archive(Path("model.pt2"), {f"m/{name}": content for name, content in entries.items()})
    return job("model.pt2")


def _edit(name: str, change: Callable[[Any], object]) -> list[str]:
    def run(entries: dict[str, bytes]) -> None:
        value = json.loads(entries[name])
        change(value)
        entries[name] = json.dumps(value).encode()

    return _write_program(run)


MODEL = "models/model.json"


@case("an entry that leads out of the archive", "leads outside")
def traversal(_folder: Path) -> list[str]:
    archive(Path("model.pt"), {**_state(), "../../marker": b"x"})
    return job("model.pt")


@case("an entry with an absolute name", "leads outside")
def absolute(folder: Path) -> list[str]:
    archive(Path("model.pt"), {**_state(), f"{folder.absolute()}/marker": b"x"})
    return job("model.pt")


@case("a bomb: tensors that are packed a thousandfold", "compressed")
def bomb(_folder: Path) -> list[str]:
    archive(Path("model.pt"), {**_state(), "archive/data/9": bytes(300_000_000)}, packed=True)
    return job("model.pt")


@case("entries that claim the same bytes fifty times", "its entries claim")
def overlapping(_folder: Path) -> list[str]:
    with zipfile.ZipFile("model.pt", "w") as out:
        out.writestr("m/data.pkl", bytes(1_000_000))
        first = out.filelist[0]
        for number in range(50):
            twin = zipfile.ZipInfo(f"m/data/{number}")
            twin.header_offset, twin.CRC = first.header_offset, first.CRC
            twin.file_size = twin.compress_size = first.file_size
            out.filelist.append(twin)
    return job("model.pt")


@case("two entries of one name", "two entries")
def twins(_folder: Path) -> list[str]:
    entries = _state()
    archive(Path("model.pt"), entries)
    with zipfile.ZipFile("model.pt", "a") as file:
        file.writestr(next(iter(entries)), torch_bytes(Touch()))
    return job("model.pt")


@case("an archive that is cut off")
def cut(_folder: Path) -> list[str]:
    whole = torch_bytes(network().state_dict())
    Path("model.pt").write_bytes(whole[: len(whole) // 2])
    return job("model.pt")


@case("thousands of empty entries")
def crowd(_folder: Path) -> list[str]:
    archive(Path("model.pt"), {f"m/{number}": b"" for number in range(5_000)})
    return job("model.pt")


@case("a TorchScript archive whose pickle runs code", "TorchScript")
def script_pickle(_folder: Path) -> list[str]:
    torch.jit.save(torch.jit.script(network()), "whole.pt")
    entries = unpacked(Path("whole.pt").read_bytes())
    entries = {name: torch_pickle() if name.endswith("/data.pkl") else content for name, content in entries.items()}
    archive(Path("model.pt"), entries)
    return job("model.pt")


def torch_pickle() -> bytes:
    """A pickle that runs the command."""
    import pickle

    return pickle.dumps(Touch(), protocol=2)


class Writes(torch.nn.Module):
    """Writes the marker when `torch.jit.load` reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.training = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x

    @torch.jit.export
    def __getstate__(self) -> bool:
        return self.training

    @torch.jit.export
    def __setstate__(self, state: bool) -> None:
        self.training = state
        torch.save(torch.zeros(1), "marker")


@case("a TorchScript archive that writes a file as it is read", "no tensors")
def script_writes(_folder: Path) -> list[str]:
    torch.jit.save(torch.jit.script(Writes()), "model.pt")
    Path("marker").unlink(missing_ok=True)
    return job("model.pt")


@case("a TorchScript archive without code that says what it is", "--arch")
def script(_folder: Path) -> list[str]:
    torch.jit.save(torch.jit.script(network()), "model.pt")
    return ["model.pt", "--method", "svd", "--input-shape", "1,7", "-o", "out"]


@case("a TorchScript tensor that claims more than its entry", "claims")
def script_claims(_folder: Path) -> list[str]:
    torch.jit.save(torch.jit.script(network()), "whole.pt")
    entries = unpacked(Path("whole.pt").read_bytes())
    small = {name: content[:8] if "/data/" in name else content for name, content in entries.items()}
    archive(Path("model.pt"), small)
    return job("model.pt")


@case("a program with a pickled weight", "pickle")
def pickled_weight(_folder: Path) -> list[str]:
    def change(entries: dict[str, bytes]) -> None:
        name = "data/weights/model_weights_config.json"
        config = json.loads(entries[name])
        config["config"]["0.weight"].update(use_pickle=True, tensor_meta=None)
        entries[name] = json.dumps(config).encode()
        entries["data/weights/weight_0"] = torch_bytes(Touch())

    return _write_program(change)


@case("a program whose size is an expression that runs code", "symbolic size")
def expression(_folder: Path) -> list[str]:
    def change(model: Any) -> None:
        sizes = model["graph_module"]["graph"]["tensor_values"]["input"]["sizes"]
        sizes[0]["as_expr"]["expr_str"] = f"__import__('os').system({COMMAND!r})"

    return _edit(MODEL, change)


@case("a program that calls torch.os.system", "it calls")
def operator(_folder: Path) -> list[str]:
    def change(model: Any) -> None:
        node = model["graph_module"]["graph"]["nodes"][1]
        node["target"] = "torch.os.system"
        node["inputs"][0]["arg"] = {"as_string": COMMAND}

    return _edit(MODEL, change)


@case("a program with a custom object", "custom object")
def custom(_folder: Path) -> list[str]:
    return _write_program(lambda entries: entries.update({"data/constants/custom_obj_0": torch_pickle()}))


@case("a program with machine code", "machine code")
def machine_code(_folder: Path) -> list[str]:
    return _write_program(lambda entries: entries.update({"data/aotinductor/model/code.so": b"\x7fELF"}))


@case("a program nested a hundred thousand deep")
def deep_program(_folder: Path) -> list[str]:
    return _write_program(lambda entries: entries.update({MODEL: b'{"a":' * 100_000}))


# --- arrays -------------------------------------------------------------------------------------


def _data(name: str) -> list[str]:
    torch.save(network().state_dict(), "model.pth")
    return job("model.pth", "--data", name)


@case("arrays of Python objects", "Python objects")
def objects(_folder: Path) -> list[str]:
    np.savez("x.npz", x=np.array([Touch()], dtype=object))
    return _data("x.npz")


@case("an array header that is code")
def header(_folder: Path) -> list[str]:
    text = f"{{'descr': __import__('os').system('{COMMAND}'), 'fortran_order': False, 'shape': (3,)}}".ljust(117) + "\n"
    Path("x.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + bytes(12))
    return _data("x.npy")


@case("an array that claims an exabyte")
def huge(_folder: Path) -> list[str]:
    text = "{'descr': '<f4', 'fortran_order': False, 'shape': (1152921504606846976, 7)}".ljust(117) + "\n"
    content = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + bytes(12)
    Path("x.npy").write_bytes(content)
    return _data("x.npy")


@case("arrays that unfold a thousandfold", "unfolds")
def unfolding(_folder: Path) -> list[str]:
    np.savez_compressed("x.npz", x=np.zeros((12_000_000, 7), np.float32))
    return _data("x.npz")


@case("an array in an archive that claims an exabyte")
def huge_packed(_folder: Path) -> list[str]:
    text = "{'descr': '<f4', 'fortran_order': False, 'shape': (1152921504606846976, 7)}".ljust(117) + "\n"
    content = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + bytes(12)
    archive(Path("x.npz"), {"x.npy": content}, packed=True)
    return _data("x.npz")


@case("data of a terabyte made of one number", "only a part is stored")
def repeated_data(_folder: Path) -> list[str]:
    torch.save({"x": torch.zeros(1, 7).expand(1 << 36, 7)}, "x.pt")
    return _data("x.pt")


@case("an image of a billion pixels", "is not an image")
def picture(_folder: Path) -> list[str]:
    import struct
    import zlib

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 0, 0, 0, 0)
    body = zlib.compress(bytes(40_001)) * 2
    Path("images").mkdir()
    for name in ("a", "b", "c"):
        png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
        (Path("images") / f"{name}.png").write_bytes(png)
    return [argument.replace("1,7", "1,1,1,7") for argument in _data("images")]
