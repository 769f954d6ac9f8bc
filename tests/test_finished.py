"""A finished folder taken up again: timed and written anew, with the original found or named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import compressor
from compressor import CompressorError
from compressor.bench import bench
from compressor.export import export

CODE = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 16))
"""
JOB = {"settings": {"rank": 3}, "target": ("*",), "epochs": 0}
ROWS = torch.randn(40, 16, generator=torch.Generator().manual_seed(0))

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the code of a network."""
    (tmp_path / "net.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def built() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 16)).eval()


def program(place: Path) -> str:
    batch = {0: torch.export.Dim("batch")}
    torch.export.save(torch.export.export(built(), (ROWS[:4],), dynamic_shapes=(batch,)), place)
    return str(place)


def is_timed(folder: Path, **options: str | nn.Module) -> bool:
    timings = bench(folder, seconds=0.05, **options)
    return all(set(timings[name]) >= {"torch", "onnxruntime"} for name in ("original", "compressed"))


def test_data_is_not_asked_for_again(here: Path) -> None:
    labels = {"rows": ROWS, "kind": torch.zeros(40, dtype=torch.long)}
    compressor.compress("net.py:build", "svd", data=labels, label_key="kind", normalize="0,2", output="a", **JOB)
    assert is_timed(here / "a")


def test_a_live_original_is_named_again(here: Path) -> None:
    compressor.compress(built(), "svd", data=ROWS, output="b", **JOB)
    for again in (lambda: bench("b"), lambda: export("b", "safetensors", "plain", dense=True)):
        with pytest.raises(CompressorError, match="made from a live module: give the original with --original"):
            again()
    assert is_timed(here / "b", original=built())
    assert is_timed(here / "b", original="net.py:build")


def test_a_program_s_original_may_be_its_code(here: Path) -> None:
    compressor.compress(program(here / "net.pt2"), "svd", output="c", **JOB)
    assert is_timed(here / "c", original="net.py:build")


def test_an_original_that_is_not_there_from_here_is_said_so(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(here / "net.pt2")
    compressor.compress("net.pt2", "svd", output="d", **JOB)
    monkeypatch.chdir(here / "d")
    with pytest.raises(CompressorError, match=r"the original, net\.pt2, is not there .*--original"):
        bench(here / "d")
    assert is_timed(here / "d", original=str(here / "net.pt2"))
