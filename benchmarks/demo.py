"""The demo: compress a real pretrained MNIST convnet with ACDC, by the very command that a user would type.

``make demo`` runs it. The model is the one in PyPI's ccexam 1.0.0 (99.05 % on the test set), the images are
MNIST's; both are fetched by package name and checked against their hashes. It exits with 1 unless the
accuracy stays within 0.3 points and the dense maps have 15 times fewer parameters.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time

import numpy as np
from facts import keep
from packages import ROOT, STORE, Images, ccexam, mnist

MAX_LOSS = 0.003  # of accuracy: 0.3 points
MIN_RATIO = 15.0  # dense parameters before / after
NORMALIZE = "0.1307,0.3081"  # how ccexam saw its images: (x/255 - mean) / std
OUT = "demo-out"
MODEL = [".demo/ccexam/ccexam/weights/mnist.pth", "--arch", "benchmarks/zoo.py:mnist_net"]


def write_data(images: Images, quick: bool) -> tuple[str, str]:
    """Write the training and the test file that the command reads; ``quick`` takes a part of each."""
    parts = {"mnist-train": images.train, "mnist-test": images.test}
    names = []
    for (name, (x, labels)), rows in zip(parts.items(), (6000, 2000), strict=True):
        name += "-quick" if quick else ""
        keep = slice(0, rows if quick else len(x))
        np.savez(STORE / f"{name}.npz", x=x[keep], labels=labels[keep])
        names.append(f".demo/{name}.npz")
    return names[0], names[1]


def command(train: str, test: str, quick: bool, seed: int) -> list[str]:
    """The arguments after ``compress``."""
    data = ["--data", train, "--eval-data", test, "--normalize", NORMALIZE]
    epochs = ["--epochs", "2" if quick else "3"]
    return [*MODEL, *data, "--method", "acdc", "--seed", str(seed), *epochs, "-o", OUT, "--force"]


def check(report: dict, quick: bool) -> list[tuple[str, bool]]:
    """What must hold, each with whether it does."""
    before, after = report["before"], report["after"]
    ratio = before["dense_params"] / after["dense_params"]
    loss = before["accuracy"] - after["accuracy"]
    smaller = (f"dense maps: {ratio:.1f} times fewer parameters (at least {MIN_RATIO:g})", ratio >= MIN_RATIO)
    if quick:
        return [smaller]
    return [
        smaller,
        (f"accuracy: {loss * 100:+.2f} points lost (at most {MAX_LOSS * 100:g})", loss <= MAX_LOSS),
    ]


def main() -> int:
    """Fetch, compress, check; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the images, 2 epochs; accuracy is not judged")
    parser.add_argument("--json", action="store_true", help="print the report as JSON instead of tables")
    parser.add_argument("--keep", action="store_true", help="write benchmarks/results/demo.json, for the README")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    started = time.monotonic()
    ccexam()
    images = mnist()
    train, test = write_data(images, options.quick)
    arguments = command(train, test, options.quick, options.seed)
    say = sys.stderr if options.json else sys.stdout
    print("model  ccexam 1.0.0 (PyPI), a convnet trained on MNIST\ndata  ", images.origin, file=say)
    if not images.is_test_set:
        print("NOTE   ccexam was trained on these images: the accuracies below are not test accuracies.", file=say)
    print("$ compress", shlex.join(arguments), file=say, flush=True)
    arguments += ["--json"] if options.json else []
    status = subprocess.run([sys.executable, "-m", "compressor", *arguments], cwd=ROOT, check=False).returncode
    if status:
        return status
    report = json.loads((ROOT / OUT / "report.json").read_text())
    if options.keep and not options.quick:
        keep("demo", report)
    results = check(report, options.quick)
    for text, holds in results:
        print("ok  " if holds else "FAIL", text, file=say)
    print(f"{time.monotonic() - started:.0f} s in all", file=say)
    return 0 if all(holds for _, holds in results) else 1


if __name__ == "__main__":
    raise SystemExit(main())
