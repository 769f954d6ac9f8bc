"""Every hostile file gets its answer: one line, status 2, nothing run, nothing written, memory bounded.

The files are the programs in ``tests/hostile``; `run.py` there gives them to the command in one process of its own.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from typing import Any

import pytest
from conftest import ROOT, environment

pytestmark = pytest.mark.slow

HOSTILE = ROOT / "tests" / "hostile"

sys.path.insert(0, str(HOSTILE))
for _module in ("pickles", "archives", "tensors", "texts", "onnx_files"):
    importlib.import_module(_module)
CASES = importlib.import_module("case").CASES
sys.path.remove(str(HOSTILE))


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What the command did with every file, by name."""
    pytest.importorskip("transformers", reason="some of the files are Hugging Face folders")
    folder = tmp_path_factory.mktemp("hostile")
    done = subprocess.run(
        [sys.executable, str(HOSTILE / "run.py"), str(folder)],
        cwd=HOSTILE, env={**environment(), "PYTHONDONTWRITEBYTECODE": "1"}, capture_output=True, text=True,
        timeout=900, check=False,
    )  # fmt: skip
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert found, done.stderr
    assert found[0]["status"] == 0, found[0]["said"]
    missing = [name for name in CASES if name not in {answer["name"] for answer in found}]
    assert not missing, f"the process ended at {missing[0]!r}: {done.stderr[-2000:]}"
    return {answer["name"]: answer for answer in found[1:]}


def test_there_are_enough_of_them() -> None:
    assert len(CASES) >= 40


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_file_gets_its_answer(answers: dict[str, dict[str, Any]], name: str) -> None:
    answer = answers[name]
    said = answer["said"]
    assert answer["status"] == 2, said
    assert said.startswith("error: ")
    assert said.count("\n") == 1, said
    assert said.rstrip("\n").isprintable(), said
    assert len(said) < 1000
    for words in CASES[name].says:
        assert words in said, said


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_file_does_nothing(answers: dict[str, dict[str, Any]], name: str) -> None:
    answer = answers[name]
    assert not answer["marker"], "it has run code"
    assert answer["forbidden"] == []
    assert answer["left"] == [], "something was written"
    assert answer["grew_bytes"] < CASES[name].grows
