"""A whole job with the native kernels and without: the papers' Caffe LeNet compressed by ACDC, start to end.

Writes ``benchmarks/results/kernels_job.json``. Needs the data folder (``COMPRESSOR_DATA``, default ``../shared/data``).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import caffe_lenet
from facts import facts, keep, parser, show
from packages import ROOT

PATHS = {"plain torch": "reference", "native": ""}  # COMPRESSOR_KERNELS for each


def row(name: str, depth: int, epochs: int, seed: int, quick: bool) -> dict[str, Any]:
    """Seconds and test error of one run."""
    settings = ["--method", "acdc", "--set", caffe_lenet.ACDC, "--set", f"depth={depth}"]
    with tempfile.TemporaryDirectory() as folder:
        arguments = [*caffe_lenet.job(Path(folder), epochs, seed, quick), *settings, "-o", f"{folder}/out"]
        command = [sys.executable, "-m", "compressor", *arguments]
        environment = {**os.environ, "COMPRESSOR_KERNELS": PATHS[name]}
        done = subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    report = json.loads(done.stdout)
    return {"kernels": name, "wall_time_s": report["wall_time_s"], "error": 1 - report["after"]["accuracy"]}


def line(found: dict[str, Any]) -> str:
    """A row as it is printed."""
    return f"{found['kernels']:12} {found['wall_time_s']:8.1f} s  {found['error']:.2%} error"


def main() -> int:
    """Measure, print, keep; the exit status."""
    options = parser(__doc__, quick="a tenth of the images, one epoch; nothing kept")
    options.add_argument("--epochs", type=int, default=3)
    options.add_argument("--depth", type=int, default=2, help="members of each cascade")
    chosen = options.parse_args()
    epochs = 1 if chosen.quick else chosen.epochs
    rows = [row(name, chosen.depth, epochs, chosen.seed, chosen.quick) for name in PATHS]
    result = {**facts(chosen.seed), "depth": chosen.depth, "epochs": epochs, "rows": rows}
    show(result, map(line, rows), as_json=chosen.json)
    if not chosen.quick:
        keep("kernels_job", result)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
