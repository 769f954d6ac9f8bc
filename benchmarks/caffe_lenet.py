"""The papers' Caffe LeNet on MNIST: ACDC beside Fastfood and SVD at several sizes, each trained equally.

Runs ``compress compare`` as a user would and writes ``benchmarks/results/caffe_lenet.json``. ``svd`` and ``fastfood``
get ACDC's own number of parameters; the presets keep theirs. ``--every`` takes every method there is, at ACDC's default
size or its own smallest, and writes ``caffe_lenet_every.json``. ``--onnx`` starts from ``lenet.onnx``, without the
network's source, ONNX in and ONNX out: ACDC and SVD at its size, convolutions as they are (``caffe_lenet_onnx.json``).
Needs the data folder (``COMPRESSOR_DATA``, default ``../shared/data``). Nothing is chosen by the test images.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from comparison import row, sides
from facts import facts, keep, parser, show
from packages import ROOT, data_folder, mnist_in

from compressor.layers import methods
from compressor.report import Report

METHODS = "acdc,fastfood,svd-half,svd-quarter,svd,int8"
METHODS_ONNX = "acdc,svd"
ACDC = "size=1120"  # two layers, 6,721 numbers; at 800, the layer's own width, 4,801
# For all methods. Digits moved by two pixels stay the same digits: the labels count most, and nothing is blended.
TRAINING = ("shift=2", "label_share=0.7", "temperature=2", "blend=0", "hint_share=0")
_EPOCHS = 10
_EPOCHS_OF_EVERY = 3
MOST_PARAMS = 12_000  # in the dense layers
MOST_ERROR = 0.0095  # the original's
MOST_ERROR_ONNX = 0.01  # where the convolutions stay as they are


def network(*, onnx: bool = False) -> list[str]:
    """The command's arguments for the model."""
    folder = data_folder() / "lenet_caffe"
    if onnx:
        return [str(folder / "lenet.onnx")]
    return [str(folder / "lenet_state_dict.pt"), "--arch", "benchmarks/zoo.py:caffe_lenet"]


def training() -> list[str]:
    """The command's arguments for how it is trained."""
    return [part for setting in TRAINING for part in ("--train", setting)]


def scaled(x: np.ndarray) -> np.ndarray:
    """Images as the network sees them, of their bytes."""
    return x / np.float32(256)


def job(folder: Path, epochs: int, seed: int, quick: bool, *, onnx: bool = False) -> list[str]:
    """Write the images to ``folder``; the command's arguments for model, data and training. ``quick``: a tenth."""
    images = mnist_in(data_folder() / "mnist")
    step = 10 if quick else 1
    for name, (x, labels) in (("train", images.train), ("test", images.test)):
        np.savez(folder / f"{name}.npz", x=scaled(x[::step]), labels=labels[::step])
    arguments = [*network(onnx=onnx), "--seed", str(seed), "--epochs", str(epochs)]
    arguments += ["--data", str(folder / "train.npz"), "--eval-data", str(folder / "test.npz"), "--json"]
    return arguments + training()


def compare(
    folder: Path, names: str, settings: list[str], epochs: int, seed: int, quick: bool, *, onnx: bool = False
) -> Report:
    """The report of one ``compress compare``; ``quick`` takes a tenth of the images."""
    arguments = [*job(folder, epochs, seed, quick, onnx=onnx), "--methods", names, *settings]
    command = [sys.executable, "-m", "compressor", "compare", *arguments]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return Report.model_validate_json(done.stdout)


def rows_of(report: Report) -> list[dict[str, Any]]:
    """One row a candidate: name, counts, test error, latency."""
    return [
        {**row(name, side), "error": side.error, "note": note} for name, side, note in sides(report, original="dense")
    ]


def line(found: dict[str, Any]) -> str:
    """A row as it is printed."""
    counted = f"{found['dense_params']:,}" if found["dense_params"] else "-"
    return f"{found['name']:14} {counted:>9} dense params  {found['error']:7.2%} error  {found['latency_ms']:.3f} ms"


def main() -> int:
    """Compare and check; the exit status."""
    arguments = parser(__doc__, quick="a tenth of the images, 2 epochs; nothing judged or kept")
    arguments.add_argument("--methods", default=METHODS)
    arguments.add_argument("--every", action="store_true", help="every method there is")
    arguments.add_argument("--onnx", action="store_true", help="from lenet.onnx, to ONNX")
    arguments.add_argument("--epochs", type=int, help="of training, for each method (10; 3 with --every)")
    options = arguments.parse_args()
    names = METHODS_ONNX if options.onnx and options.methods == METHODS else options.methods
    settings = ["--set", ACDC] if names.split(",")[0] == "acdc" else []
    epochs = options.epochs or (2 if options.quick else _EPOCHS_OF_EVERY if options.every else _EPOCHS)
    if options.every:
        own = [name for name, entry in methods().items() if name == entry.layer.method and name != "acdc"]
        names, settings = ",".join(["acdc", *own]), []
    with tempfile.TemporaryDirectory() as folder:
        report = compare(Path(folder), names, settings, epochs, options.seed, options.quick, onnx=options.onnx)
    trained = {"epochs": epochs, "training": list(TRAINING)}
    result = {**facts(options.seed), **trained, "wall_time_s": report.wall_time_s, "rows": rows_of(report)}
    show(result, map(line, result["rows"]), as_json=options.json)
    if options.quick:
        return 0
    if options.every:
        keep("caffe_lenet_every", result)
        return 0
    if options.methods == METHODS:
        keep("caffe_lenet_onnx" if options.onnx else "caffe_lenet", result)
    first = result["rows"][1]
    most = MOST_ERROR_ONNX if options.onnx else MOST_ERROR
    holds = first["dense_params"] <= MOST_PARAMS and first["error"] <= most
    print("ok  " if holds else "FAIL", f"at most {MOST_PARAMS:,} dense params, {most:.2%} error", file=sys.stderr)
    return 0 if holds else 1


if __name__ == "__main__":
    raise SystemExit(main())
