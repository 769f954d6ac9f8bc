"""Two real jobs on which settings are compared: the demo's convnet and the papers' Caffe LeNet, by the command.

What is chosen is chosen by training images that are held back (`errors`); the test images tell what came of it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import caffe_lenet
import demo
import numpy as np
import torch
from packages import ROOT, Images, ccexam, data_folder, mnist, mnist_in

import compressor

HELD_BACK = 6  # one part in so many of the training images, the last ones
_QUICK = 10  # one image in so many


@dataclass(frozen=True)
class Job:
    """A network and its training as the command's arguments, the images, and how the network sees their bytes."""

    arguments: list[str]
    images: Images
    scaled: Callable[[np.ndarray], np.ndarray]


def convnet() -> Job:
    """The demo's."""
    ccexam()
    mean, std = map(float, demo.NORMALIZE.split(","))
    return Job(demo.MODEL, mnist(), lambda x: (x / np.float32(255) - np.float32(mean)) / np.float32(std))


def lenet() -> Job:
    """The Caffe LeNet."""
    arguments = [*caffe_lenet.network(), *caffe_lenet.training()]
    return Job(arguments, mnist_in(data_folder() / "mnist"), caffe_lenet.scaled)


JOBS = {"MNIST convnet (ccexam)": convnet, "Caffe LeNet": lenet}

Part = tuple[np.ndarray, np.ndarray]  # images and labels


def report(name: str, settings: Sequence[str], *, epochs: int, seed: int, quick: bool) -> dict[str, Any]:
    """What one ``compress`` of a job with the options ``settings`` reports; its figures are of the test images."""
    job = JOBS[name]()
    train, test = _parts(job, quick)
    with tempfile.TemporaryDirectory() as folder:
        return _compress(job, Path(folder), train, test, [*settings, *_how_long(epochs, seed)])


def errors(name: str, settings: Sequence[str], *, epochs: int, seed: int, quick: bool) -> dict[str, float]:
    """The errors after one ``compress`` that saw all but the images held back: of these, and of the test images."""
    job = JOBS[name]()
    train, (x, labels) = _parts(job, quick)
    kept = len(train[0]) // HELD_BACK
    seen, held = tuple(part[:-kept] for part in train), tuple(part[-kept:] for part in train)
    with tempfile.TemporaryDirectory() as folder:
        found = _compress(job, Path(folder), seen, held, [*settings, *_how_long(epochs, seed)])
        model = compressor.load(Path(folder) / "out")
    with torch.no_grad():
        guesses = torch.cat([model(batch).argmax(1) for batch in torch.from_numpy(x).split(1000)])
    wrong = guesses != torch.from_numpy(labels)
    return {"held_back_error": 1 - float(found["after"]["accuracy"]), "test_error": wrong.float().mean().item()}


def _how_long(epochs: int, seed: int) -> list[str]:
    return ["--epochs", str(epochs), "--seed", str(seed)]


def _parts(job: Job, quick: bool) -> tuple[Part, Part]:
    """Training and test images as the network sees them."""
    step = _QUICK if quick else 1
    (x, labels), (x_test, labels_test) = job.images.train, job.images.test
    return (job.scaled(x[::step]), labels[::step]), (job.scaled(x_test[::step]), labels_test[::step])


def _compress(job: Job, folder: Path, train: Part, evaluated: Part, options: list[str]) -> dict[str, Any]:
    """The report of one run of the command, whose output goes to ``folder/out``."""
    files = {"--data": folder / "train.npz", "--eval-data": folder / "eval.npz"}
    for (x, labels), file in zip((train, evaluated), files.values(), strict=True):
        np.savez(file, x=x, labels=labels)
    data = [part for option, file in files.items() for part in (option, str(file))]
    arguments = [*job.arguments, *data, *options, "-o", str(folder / "out"), "--json"]
    command = [sys.executable, "-m", "compressor", *arguments]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found
