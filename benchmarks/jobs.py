"""Two real jobs on which settings are compared: the demo's convnet and the papers' Caffe LeNet, by the command."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import caffe_lenet
import demo
from packages import ROOT, ccexam, mnist


def convnet(folder: Path, epochs: int, seed: int, quick: bool) -> list[str]:
    """The demo's model and data."""
    ccexam()
    arguments = demo.command(*demo.write_data(mnist(), quick), quick, seed)
    kept = arguments[: arguments.index("--method")]
    return [*kept, "--seed", str(seed), "--epochs", str(epochs)]


def lenet(folder: Path, epochs: int, seed: int, quick: bool) -> list[str]:
    """The Caffe LeNet, its data and training; the data go to ``folder``."""
    return caffe_lenet.job(folder, epochs, seed, quick)


JOBS = {"MNIST convnet (ccexam)": convnet, "Caffe LeNet": lenet}


def report(job: str, settings: Sequence[str], *, epochs: int, seed: int, quick: bool) -> dict[str, Any]:
    """What one ``compress`` of ``job`` with the options ``settings`` reports."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = JOBS[job](Path(folder), epochs, seed, quick)
        out = ["-o", str(Path(folder) / "out"), "--force", "--json"]
        command = [sys.executable, "-m", "compressor", *arguments, *settings, *out]
        done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_error(job: str, settings: Sequence[str], *, epochs: int, seed: int, quick: bool) -> float:
    """The test error after one ``compress`` of ``job`` with the options ``settings``."""
    return 1 - float(report(job, settings, epochs=epochs, seed=seed, quick=quick)["after"]["accuracy"])
