"""What all tests share: one thread, and a tiny trained model on disk with its data and its code."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compressor.cli import cli
from compressor.console import exit_status
from tests import hostile_programs

ROOT = Path(__file__).resolve().parent.parent

NETS = """
from torch import nn

def mlp():
    return nn.Sequential(nn.Linear(24, 37), nn.ReLU(), nn.Dropout(0.1), nn.Linear(37, 33), nn.ReLU(), nn.Linear(33, 3))

def without_dense():
    return nn.Sequential(nn.Flatten(), nn.ReLU())
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests first, so that no process is left with one at the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _compiles_from_nothing() -> None:
    """Dynamo compiles a function eight times in a process; the tests' own do not add up."""
    torch.compiler.reset()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks are timed for a moment only."""
    monkeypatch.setattr("compressor.candidate._TIMING_SECONDS", 0.01)


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may be fitted."""

    def fit(*_: Any, **__: Any) -> None:
        raise AssertionError("the work began")

    monkeypatch.setattr("compressor.pipeline.fit", fit)


@pytest.fixture
def teacher() -> nn.Sequential:
    """A small network to be fitted and distilled."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(20, 31), nn.ReLU(), nn.Linear(31, 29), nn.ReLU(), nn.Linear(29, 17))
    return net.eval()


@pytest.fixture
def inputs() -> Tensor:
    """What `teacher` takes."""
    torch.manual_seed(1)
    return torch.randn(700, 20) @ torch.diag(torch.linspace(2, 0.05, 20)) + 0.5


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder with data that no package carries; the test is skipped where it is not."""
    folder = Path(os.environ.get("COMPRESSOR_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no data at {folder} (set COMPRESSOR_DATA)")
    return folder


@dataclass(frozen=True)
class Tiny:
    """Files of a small classifier: ``weights.pth`` with ``nets.py:mlp``, ``train.npz`` and ``test.npz``."""

    folder: Path

    def run(self, *arguments: str, status: int = 0, timeout: float = 240) -> subprocess.CompletedProcess[str]:
        """Run the command in the folder and check its exit status."""
        done = subprocess.run(
            [sys.executable, "-m", "compressor", *arguments],
            cwd=self.folder,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == status, f"exit {done.returncode}, not {status}\n{done.stdout}\n{done.stderr}"
        return done

    def call(self, *arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        """Run the command in the folder, in this process: quicker than `run`, and the same code after its start."""
        out, error = io.StringIO(), io.StringIO()
        with contextlib.chdir(self.folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
            found = exit_status(lambda: cli.main(arguments, prog_name="compress", standalone_mode=False))
        assert found == status, f"exit {found}, not {status}\n{out.getvalue()}\n{error.getvalue()}"
        return subprocess.CompletedProcess(arguments, found, out.getvalue(), error.getvalue())


def environment() -> dict[str, str]:
    """The environment of a child process: this project's packages, one thread."""
    roots = [str(ROOT), str(ROOT / "kernels"), str(ROOT / "converters")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(roots), "OMP_NUM_THREADS": "1"}


def write_tiny(folder: Path) -> Tiny:
    """Train a small classifier on three classes that it can learn, and write it with its data."""
    (folder / "nets.py").write_text(NETS)
    scope: dict = {}
    exec(NETS, scope)
    torch.manual_seed(0)
    centres = torch.randn(3, 24)
    labels = torch.arange(1200) % 3
    x = centres[labels] + 0.8 * torch.randn(1200, 24)
    model = scope["mlp"]()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x[:900]), labels[:900]).backward()
        optimizer.step()
    torch.save(model.state_dict(), folder / "weights.pth")
    np.savez(folder / "train.npz", x=x[:900].numpy(), labels=labels[:900].numpy())
    np.savez(folder / "test.npz", x=x[900:].numpy(), labels=labels[900:].numpy())
    return Tiny(folder)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """One tiny model for the whole session: tests write beside it, never over it."""
    return write_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def program() -> bytes:
    """An exported program as torch writes it, for the tests of hostile models."""
    return hostile_programs.exported()


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file that only executed code makes; the test is in its folder, beside ``nets.py``."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(hostile_programs.NETS)
    path = tmp_path / "marker"
    yield path
    assert not path.exists(), "the file has run code"
