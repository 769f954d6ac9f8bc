"""The fuzzed loaders on their seeds, whole and spoiled: what `make fuzz` does for long, for a moment."""

from __future__ import annotations

import importlib
import random
import sys
from pathlib import Path

import pytest
from conftest import ROOT

pytestmark = pytest.mark.slow

FUZZ = ROOT / "tests" / "fuzz"
sys.path.insert(0, str(FUZZ))
targets = importlib.import_module("targets")
sys.path.remove(str(FUZZ))

CHANGES = 60


def corpus(name: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted((FUZZ / "corpus" / name).iterdir())]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "in").mkdir()
    monkeypatch.chdir(tmp_path / "in")
    return tmp_path / "in"


def test_every_loader_has_seeds() -> None:
    assert {path.name for path in (FUZZ / "corpus").iterdir()} == set(targets.TARGETS)


@pytest.mark.parametrize("name", sorted(targets.TARGETS))
def test_a_seed_is_read(folder: Path, name: str) -> None:
    if name == "config":
        pytest.importorskip("transformers", reason="needs the extra hf")
    for path in sorted((FUZZ / "corpus" / name).glob("seed*")):
        assert targets.try_one(name, path.read_bytes(), folder), path


@pytest.mark.parametrize("path", sorted((FUZZ / "corpus").glob("*/found-*")), ids=lambda path: path.name)
def test_what_fuzzing_once_found_is_refused(folder: Path, path: Path) -> None:
    assert not targets.try_one(path.parent.name, path.read_bytes(), folder)


@pytest.mark.parametrize("name", sorted(targets.TARGETS))
def test_a_spoiled_seed_is_read_or_refused(folder: Path, name: str) -> None:
    if name == "config":
        pytest.importorskip("transformers", reason="needs the extra hf")
    draw = random.Random(name)
    for content in corpus(name):
        for _ in range(CHANGES):
            spoiled = bytearray(content)
            for _ in range(draw.choice([1, 2, 8])):
                place = draw.randrange(len(spoiled))
                if draw.random() < 0.5:
                    spoiled[place] = draw.randrange(256)
                else:
                    spoiled[place : place + draw.randrange(20)] = draw.randbytes(draw.randrange(20))
            targets.try_one(name, bytes(spoiled), folder)
