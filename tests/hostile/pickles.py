"""Pickles that run code when they are read, or claim more than they hold."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path

import torch
from case import Touch, archive, case, job, network, torch_bytes, unpacked


def _file(name: str, content: bytes) -> list[str]:
    Path(name).write_bytes(content)
    return job(name)


def _with_pickle(content: bytes) -> bytes:
    """A state dict's archive whose ``data.pkl`` is ``content``."""
    entries = unpacked(torch_bytes(network().state_dict()))
    (name,) = (name for name in entries if name.endswith("data.pkl"))
    archive(Path("made.zip"), {**entries, name: content})
    found = Path("made.zip").read_bytes()
    Path("made.zip").unlink()
    return found


@case("a pickle that calls os.system, in torch's zip", "--unsafe-load")
def zipped(_folder: Path) -> list[str]:
    return _file("model.pt", torch_bytes({"0.weight": Touch()}))


@case("a pickle that calls os.system, in torch's old format", "--unsafe-load")
def legacy(_folder: Path) -> list[str]:
    return _file("model.pth", torch_bytes({"0.weight": Touch()}, _use_new_zipfile_serialization=False))


@case("a bare pickle that calls os.system", "--unsafe-load")
def bare(_folder: Path) -> list[str]:
    return _file("model.bin", pickle.dumps(Touch()))


@case("a pickle in a file named .safetensors", "safetensors")
def renamed(_folder: Path) -> list[str]:
    return _file("model.safetensors", pickle.dumps(Touch()))


@case("a pickle in a file named .pt2")
def renamed_program(_folder: Path) -> list[str]:
    return _file("model.pt2", pickle.dumps(Touch()))


@case("a pickle that names builtins.eval", "--unsafe-load")
def evaluates(_folder: Path) -> list[str]:
    return _file("model.pt", _with_pickle(b"\x80\x02cbuiltins\neval\nX\x0d\x00\x00\x00open('marker','w')\x85R."))


@case("a pickle that names torch.hub.load", "--unsafe-load")
def hub(_folder: Path) -> list[str]:
    return _file("model.pt", _with_pickle(b"\x80\x02ctorch.hub\nload\nX\x04\x00\x00\x00evil\x85R."))


@case("a pickle that reaches through a dotted name", "--unsafe-load")
def dotted(_folder: Path) -> list[str]:
    return _file("model.pt", _with_pickle(b"\x80\x04\x8c\x05torch\x8c\tos.system\x93\x8c\x0ctouch marker\x85R."))


@case("a whole module", "Sequential", "--arch")
def module(_folder: Path) -> list[str]:
    return _file("model.pt", torch_bytes(network()))


@case("lists nested a hundred thousand deep")
def deep(_folder: Path) -> list[str]:
    return _file("model.pt", _with_pickle(b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."))


@case("a memo index of four billion")
def memo(_folder: Path) -> list[str]:
    return _file("model.pt", _with_pickle(b"\x80\x02}r" + struct.pack("<I", 2**32 - 2) + b"."))


@case("bytes that claim to be an exabyte")
def long(_folder: Path) -> list[str]:
    return _file("model.pt", _with_pickle(b"\x80\x05\x96" + struct.pack("<Q", 2**60) + b"."))


@case("a number of a gigabyte")
def number(_folder: Path) -> list[str]:
    return _file("model.pt", _with_pickle(b"\x80\x02\x8b" + struct.pack("<i", 2**30) + b"."))


@case("lists of lists that double thirty times", "no tensors")
def laughs(_folder: Path) -> list[str]:
    value: list = ["x"]
    for _ in range(30):
        value = [value, value]
    return _file("model.pt", torch_bytes({"state_dict": value}))


@case("a tensor of four terabytes made of one number", "claims")
def repeated(_folder: Path) -> list[str]:
    return _file("model.pt", torch_bytes({"0.weight": torch.zeros(1).expand(1 << 40)}))


@case("a storage that claims more than its entry")
def claims(_folder: Path) -> list[str]:
    entries = unpacked(torch_bytes({"0.weight": torch.zeros(5, 7)}))
    (name,) = (name for name in entries if name.endswith("data.pkl"))
    pickled = entries[name].replace(b"K#", b"J" + struct.pack("<i", 2**30))  # 35 numbers become a billion
    assert pickled != entries[name]
    archive(Path("model.pt"), {**entries, name: pickled})
    return job("model.pt")


@case("a sparse tensor of an exabyte", "0.weight")
def sparse(_folder: Path) -> list[str]:
    index = torch.tensor([[0], [0]])
    return _file("model.pt", torch_bytes({"0.weight": torch.sparse_coo_tensor(index, torch.ones(1), (2**30, 2**30))}))


@case("a pickle as the data", "could run code")
def data(_folder: Path) -> list[str]:
    torch.save(network().state_dict(), "model.pth")
    Path("x.pt").write_bytes(torch_bytes({"x": Touch()}))
    return job("model.pth", "--data", "x.pt")


@case("an old pickle with the end of a zip file in it", "cut off or damaged")
def end_of_zip(_folder: Path) -> list[str]:
    content = torch_bytes(network().state_dict(), _use_new_zipfile_serialization=False)
    return _file("model.pth", content + b"PK\x05\x06" + b"\x01" * 18)


@case("data whose pickle runs out of its stack", "cut off or damaged")
def short_stack(_folder: Path) -> list[str]:
    torch.save(network().state_dict(), "model.pth")
    Path("x.pt").write_bytes(_with_pickle(b"\x80\x02}u."))
    return job("model.pth", "--data", "x.pt")
