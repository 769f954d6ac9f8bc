"""Files that try to fill the memory, lead outside or pass for something else, each with the answer it must get."""

from __future__ import annotations

import json
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from compressor.errors import CompressorError
from compressor_converters.pt2 import check_pt2, load_pt2, save_pt2
from tests.hostile_programs import (
    MODEL,
    WEIGHTS,
    edit,
    network,
    refused,
    rewrite,
    torch_bytes,
)

# --- sizes and names that lie -------------------------------------------------------------------


def test_a_zip_bomb_is_refused_before_it_unfolds(tmp_path: Path, marker: Path, program: bytes) -> None:
    def change(entries: dict[str, bytes]) -> None:
        entries["data/weights/weight_0"] = bytes(50_000_000)

    path = rewrite(program, tmp_path / "model.pt2", change, compress=True)
    assert path.stat().st_size < 1_000_000
    refused(path, "compressed", "50,000,000")


def test_a_zip_bomb_named_as_a_state_dict_is_refused(tmp_path: Path, marker: Path) -> None:
    whole = tmp_path / "whole.pt"
    torch.save({"0.weight": torch.zeros(2_000_000)}, whole)
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(whole) as file, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        for name in file.namelist():
            out.writestr(name, file.read(name))
    refused(path, "compressed", arch="nets.py:mlp")


def test_entries_that_claim_the_same_bytes_twice_are_refused(tmp_path: Path, marker: Path) -> None:
    path = tmp_path / "model.pt2"
    with zipfile.ZipFile(path, "w") as out:
        out.writestr("m/models/model.json", bytes(100_000))
        first = out.filelist[0]
        for number in range(50):
            twin = zipfile.ZipInfo(f"m/data/weights/weight_{number}")
            twin.header_offset, twin.CRC = first.header_offset, first.CRC
            twin.file_size = twin.compress_size = first.file_size
            out.filelist.append(twin)
    refused(path, "its entries claim")


@pytest.mark.parametrize("name", ["!../../marker", "!/marker", "data/../../../marker", "!m\\..\\marker"])
def test_an_entry_that_leads_outside_is_refused(tmp_path: Path, marker: Path, program: bytes, name: str) -> None:
    refused(rewrite(program, tmp_path / "model.pt2", lambda entries: entries.update({name: b"x"})), "leads outside")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_entries_of_one_name_are_refused(tmp_path: Path, marker: Path, program: bytes) -> None:
    path = rewrite(program, tmp_path / "model.pt2", lambda entries: None)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("m/models/model.json", b"{}")
    refused(path, "two entries")


def test_compiled_code_in_the_archive_is_refused(tmp_path: Path, marker: Path, program: bytes) -> None:
    change = {"data/aotinductor/model/code.so": b"\x7fELF"}
    refused(rewrite(program, tmp_path / "model.pt2", lambda entries: entries.update(change)), "machine code")


def test_an_unknown_entry_is_refused_by_name(tmp_path: Path, marker: Path, program: bytes) -> None:
    refused(rewrite(program, tmp_path / "model.pt2", lambda entries: entries.update({"new/thing": b"x"})), "new/thing")


def _huge(meta: Any) -> None:
    meta["sizes"], meta["strides"] = [{"as_int": 1 << 40}], [{"as_int": 0}]


def _beyond(meta: Any) -> None:
    meta["storage_offset"] = {"as_int": 1 << 20}


def _negative(meta: Any) -> None:
    meta["strides"] = [{"as_int": -1}, {"as_int": 1}]


@pytest.mark.parametrize(("lie", "word"), [(_huge, "claims"), (_beyond, "claims"), (_negative, "shape")])
def test_a_tensor_larger_than_its_bytes_is_refused(
    tmp_path: Path, marker: Path, program: bytes, lie: Callable[[Any], None], word: str
) -> None:
    def change(config: Any) -> None:
        lie(config["config"]["0.weight"]["tensor_meta"])

    refused(rewrite(program, tmp_path / "model.pt2", edit(WEIGHTS, change)), "0.weight", word)


def test_an_empty_tensor_entry_does_not_make_memory(tmp_path: Path, marker: Path, program: bytes) -> None:
    path = rewrite(program, tmp_path / "model.pt2", lambda entries: entries.update({"data/weights/weight_0": b""}))
    refused(path, "0.weight", "its entry has 0")


@pytest.mark.parametrize("part", [0.02, 0.3, 0.6, 0.99])
@pytest.mark.parametrize("name", ["model.pt2", "model.pt"])
def test_a_file_that_is_cut_off_is_refused(
    tmp_path: Path, marker: Path, program: bytes, part: float, name: str
) -> None:
    whole = program if name == "model.pt2" else torch_bytes(network().state_dict())
    (tmp_path / name).write_bytes(whole[: int(part * len(whole))])
    refused(tmp_path / name, arch="nets.py:mlp")


def test_a_program_with_random_changes_is_read_or_refused(tmp_path: Path, marker: Path, program: bytes) -> None:
    path = rewrite(program, tmp_path / "whole.pt2", lambda entries: None)
    whole = path.read_bytes()
    draw = random.Random(0)
    answers = set()
    for _ in range(150):
        broken = bytearray(whole)
        for _ in range(draw.choice([1, 3, 20])):
            broken[draw.randrange(len(broken))] = draw.choice(b'"\\{}[]0\x00\xff(')
        (tmp_path / "broken.pt2").write_bytes(broken)
        try:
            load_pt2(tmp_path / "broken.pt2")
            answers.add("read")
        except CompressorError:
            answers.add("refused")
    assert answers == {"read", "refused"}


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in inner for place in _places(item, (*path, key)))]


def test_a_program_with_values_of_another_kind_is_checked_or_refused(
    tmp_path: Path, marker: Path, program: bytes
) -> None:
    draw = random.Random(1)

    def spoil(value: Any) -> None:
        *way, last = draw.choice(_places(value)[1:])
        for key in way:
            value = value[key]
        value[last] = draw.choice([None, [], {}, [{}], 3, "x", "__import__('os')", True, [["x"]], -1.5])

    answers = set()
    for number in range(300):
        path = rewrite(program, tmp_path / "spoiled.pt2", edit([MODEL, WEIGHTS][number % 2], spoil))
        try:
            check_pt2(path)
            answers.add("passed")
        except CompressorError:
            answers.add("refused")
    assert answers == {"passed", "refused"}


# --- files that are something else --------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.pt2", "model.pt", "model.safetensors", "model.txt"])
@pytest.mark.parametrize("content", [b"", b"this is a text\n" * 20, b"\x00" * 64, b"PK\x03\x04" + b"\x00" * 60])
def test_a_file_without_a_model_is_refused(tmp_path: Path, marker: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, arch="nets.py:mlp")


@pytest.mark.parametrize("length", [0, 1, 2**20, 2**63 - 1, 2**64 - 1])
def test_a_safetensors_file_whose_header_lies_is_refused(tmp_path: Path, marker: Path, length: int) -> None:
    header = json.dumps({"0.weight": {"dtype": "F32", "shape": [5, 7], "data_offsets": [0, 140]}}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", length) + header + bytes(140))
    refused(path, "safetensors", arch="nets.py:mlp")


def test_a_safetensors_file_whose_offsets_lie_is_refused(tmp_path: Path, marker: Path) -> None:
    header = json.dumps({"0.weight": {"dtype": "F32", "shape": [1 << 30], "data_offsets": [0, 1 << 32]}}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(140))
    refused(path, "safetensors", arch="nets.py:mlp")


def test_a_torchscript_archive_is_refused_without_the_code_of_its_network(tmp_path: Path, marker: Path) -> None:
    torch.jit.save(torch.jit.trace(network(), torch.randn(2, 7)), tmp_path / "model.pt")
    refused(tmp_path / "model.pt", "torch.jit.save", "--arch")


def test_arrays_are_not_taken_for_a_model(tmp_path: Path, marker: Path) -> None:
    np.savez(tmp_path / "data.npz", x=np.zeros(3))
    refused(tmp_path / "data.npz", "--data")


def test_an_onnx_file_is_refused_by_its_name(tmp_path: Path, marker: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"\x08\x07\x12\x07pytorch")
    refused(tmp_path / "model.onnx", "ONNX")


# --- models that cannot be compressed -----------------------------------------------------------


def test_a_compressed_safetensors_file_is_refused(tmp_path: Path, marker: Path) -> None:
    save_file({"0.weight": torch.zeros(5, 7)}, tmp_path / "model.safetensors", metadata={"compressor": "{}"})
    refused(tmp_path / "model.safetensors", "compressed already", arch="nets.py:mlp")


def test_a_compressed_program_is_refused(tmp_path: Path, marker: Path) -> None:
    save_pt2(network(), (torch.randn(2, 7),), tmp_path / "model.pt2")
    refused(tmp_path / "model.pt2", "compressed already")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["model.pt", "model.safetensors"])
def test_weights_that_are_no_numbers_are_refused_by_name(tmp_path: Path, marker: Path, name: str, value: float) -> None:
    state = network().state_dict()
    state["2.weight"][1, 2] = value
    (save_file if name.endswith("safetensors") else torch.save)(state, tmp_path / name)
    refused(tmp_path / name, "'2.weight'", "1 values of 15", arch="nets.py:mlp")
