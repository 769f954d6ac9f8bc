"""Exported programs in the format of torch before 2.8: read and written, and nothing in them is run."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from compressor_converters.pt2 import check_pt2, is_ours, load_pt2, save_pt2
from compressor_converters.pt2_old import PROGRAM
from tests.hostile_programs import MODEL, Touch, exported, network, refused, torch_bytes

STATE, CONSTANTS, EXAMPLES = (f"serialized_{name}.pt" for name in ("state_dict", "constants", "example_inputs"))


def old_entries(new: bytes, state: dict[str, torch.Tensor]) -> dict[str, bytes]:
    """The program of ``new``, which under an old torch is old itself, with the tensors of ``state``, as in 2.6."""
    with zipfile.ZipFile(io.BytesIO(new)) as file:
        program = next(file.read(name) for name in file.namelist() if name.endswith((MODEL, PROGRAM)))
    return {
        PROGRAM: program,
        STATE: torch_bytes(state),
        CONSTANTS: torch_bytes({}),
        EXAMPLES: torch_bytes(((torch.zeros(4, 7),), {})),
        "version": b"8.2",
    }


@pytest.fixture
def entries() -> dict[str, bytes]:
    state = {name: nn.Parameter(value) for name, value in network().state_dict().items()}
    return old_entries(exported(), state)


def write(entries: dict[str, bytes], path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name, content in entries.items():
            file.writestr(name, content)
    return path


def test_a_program_of_before_is_read(
    tmp_path: Path, marker: Path, entries: dict[str, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    path = write(entries | {EXAMPLES: torch_bytes(Touch(marker))}, tmp_path / "model.pt2")  # those are not read
    check_pt2(path)
    x = torch.randn(3, 7)
    torch.testing.assert_close(load_pt2(path).module()(x), network()(x))
    assert not is_ours(path)
    assert not caplog.records  # torch itself says that the format is old


def test_under_a_torch_of_before_that_format_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = torch.export.save

    def as_before(program: torch.export.ExportedProgram, out: io.BytesIO) -> None:
        new = io.BytesIO()
        save(program, new)
        with zipfile.ZipFile(out, "w") as file:
            for name, content in old_entries(new.getvalue(), dict(program.state_dict)).items():
                file.writestr(name, content)

    monkeypatch.setattr(torch.export, "save", as_before)
    x = torch.full((5, 7), 123.456)
    for name in ("one.pt2", "two.pt2"):
        assert save_pt2(network(), (x,), tmp_path / name) is None
    assert is_ours(tmp_path / "one.pt2")
    torch.testing.assert_close(load_pt2(tmp_path / "one.pt2").module()(x), network()(x))
    content = (tmp_path / "one.pt2").read_bytes()
    assert content == (tmp_path / "two.pt2").read_bytes()
    assert x.numpy().tobytes()[:16] not in content  # nor are there stack traces
    assert b".py" not in content


@pytest.mark.parametrize("name", [STATE, CONSTANTS])
@pytest.mark.parametrize("wrap", [lambda touch: touch, lambda touch: {"0.weight": touch}])
def test_a_pickle_that_runs_code_is_refused(
    tmp_path: Path, marker: Path, entries: dict[str, bytes], name: str, wrap: Callable[[Any], Any]
) -> None:
    path = write(entries | {name: torch_bytes(wrap(Touch(marker)))}, tmp_path / "model.pt2")
    refused(path, name, "run code", "--unsafe-load")


def _squeezed() -> bytes:
    out = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(torch_bytes({"w": torch.zeros(2_000_000)}))) as file,
        zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in file.namelist():
            target.writestr(name, file.read(name))
    return out.getvalue()


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"no archive", "damaged"),
        (_squeezed(), "compressed"),
        (torch_bytes([torch.zeros(2)]), "a list, not named tensors"),
        (torch_bytes({"0.weight": 3}), "not a plain tensor"),
        (torch_bytes({"0.weight": torch.zeros(2).to_sparse()}), "not a plain tensor"),
        (torch_bytes({"0.weight": torch.zeros(1).expand(1 << 40)}), "claims"),
        (torch_bytes({"a'); import os #": torch.zeros(1)}), "is named"),
    ],
)
def test_what_is_not_named_tensors_is_refused(
    tmp_path: Path, entries: dict[str, bytes], content: bytes, word: str
) -> None:
    refused(write(entries | {STATE: content}, tmp_path / "model.pt2"), word)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"code.py": b"x"}, "unknown entry 'code.py'"),
        ({"version": b"import os"}, "version is not a number"),
        ({PROGRAM: b'{"graph_module": {"target": "torch.os.system"}}'}, "torch.os.system"),
    ],
)
def test_other_entries_and_programs_that_call_more_than_operators_are_refused(
    tmp_path: Path, entries: dict[str, bytes], change: dict[str, bytes], word: str
) -> None:
    refused(write(entries | change, tmp_path / "model.pt2"), word)


@pytest.mark.parametrize("name", [PROGRAM, STATE, CONSTANTS, "version"])
def test_an_archive_without_an_entry_is_refused(tmp_path: Path, entries: dict[str, bytes], name: str) -> None:
    del entries[name]
    refused(write(entries, tmp_path / "model.pt2"), name if name.endswith(".pt") else "entr")
