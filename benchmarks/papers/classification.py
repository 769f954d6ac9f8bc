"""Images and the training of classifiers that several experiments share."""

from __future__ import annotations

import math
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from experiment import Runs
from packages import STORE, Images, data_folder, mnist_in
from packages import fashion_mnist as fashion
from torch import Tensor, nn

Split = tuple[Tensor, Tensor]


def mnist(runs: Runs, *, scale: float = 255.0) -> tuple[Split, Split]:
    """Training and test images ``(n, 1, 28, 28)`` of x/scale; one in twenty and in ten for a quick run."""
    return _tensors(mnist_in(data_folder() / "mnist"), runs, scale)


def fashion_mnist(runs: Runs) -> tuple[Split, Split]:
    """The same of Fashion-MNIST, x/255."""
    return _tensors(fashion(), runs, 255.0)


def _tensors(images: Images, runs: Runs, scale: float) -> tuple[Split, Split]:
    splits = []
    for (x, labels), step in ((images.train, 20), (images.test, 10)):
        every = step if runs.quick else 1
        splits.append((torch.from_numpy(x[::every].copy()).float() / scale, torch.from_numpy(labels[::every].copy())))
    return splits[0], splits[1]


def cifar10(runs: Runs) -> tuple[Split, Split]:
    """CIFAR-10 (JPEG copy): ``(n, 3, 32, 32)``, x/255, mean and deviation of the training images taken out.

    Decoded once and kept beside the downloads; a quick run takes one in twenty.
    """
    kept = STORE / "cifar10.npz"
    if not kept.exists():
        _decode_cifar10(kept)
    table = np.load(kept)
    every = 20 if runs.quick else 1
    parts = [torch.from_numpy(table[f"{part}_x"][::every]).float() / 255 for part in ("train", "test")]
    mean, deviation = parts[0].mean((0, 2, 3), keepdim=True), parts[0].std((0, 2, 3), keepdim=True)
    labels = [torch.from_numpy(table[f"{part}_labels"][::every]) for part in ("train", "test")]
    train, test = (((x - mean) / deviation, y) for x, y in zip(parts, labels, strict=True))
    return train, test


def _decode_cifar10(kept: Path) -> None:
    """Folders of images by class, ``train`` and ``test``, into one file."""
    from PIL import Image

    found: dict[str, tuple[list[np.ndarray], list[str]]] = {"train": ([], []), "test": ([], [])}
    with tarfile.open(data_folder() / "cifar10" / "cifar10_jpg.tar.xz") as archive:
        for member in archive:
            file = archive.extractfile(member) if member.isfile() else None
            part = next((name for name in found if f"/{name}/" in f"/{member.name}"), None)
            if file is None or part is None or not member.name.endswith(".jpg"):
                continue
            found[part][0].append(np.asarray(Image.open(file).convert("RGB")).transpose(2, 0, 1))
            found[part][1].append(Path(member.name).parent.name)
    classes = sorted(set(found["train"][1]))
    tables = {}
    for part, (images, labels) in found.items():
        tables[f"{part}_x"] = np.stack(images)
        tables[f"{part}_labels"] = np.array([classes.index(label) for label in labels])
    kept.parent.mkdir(exist_ok=True)
    np.savez(kept, **tables)


def flat(split: Split) -> Split:
    """Each image in a row."""
    return split[0].flatten(1), split[1]


def train(
    model: nn.Module,
    data: Split,
    *,
    epochs: int,
    optimizer: torch.optim.Optimizer,
    batch: int = 100,
    seed: int = 0,
    cosine: bool = False,
    warm: float = 0.0,
    most: float = math.inf,
    vary: Callable[[Tensor], Tensor] | None = None,
    loss_of: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None,
    each_step: Callable[[float], Any] | None = None,
) -> list[float]:
    """Train by cross-entropy, or ``loss_of(outputs, labels, inputs)``; the mean loss of each epoch.

    ``cosine`` lets the rates fall to 0, after they rose for the share ``warm`` of the steps; ``most`` is the largest
    norm of a step's gradients; ``vary`` changes a batch of inputs; ``each_step`` is told the loss.
    """
    generator = torch.Generator().manual_seed(seed)
    x, labels = data
    if x.ndim == 4:  # convolutions and pooling take two thirds of the time so
        model.to(memory_format=torch.channels_last)
    rates = [group["lr"] for group in optimizer.param_groups]
    steps, step, losses = epochs * math.ceil(len(x) / batch), 0, []
    for _ in range(epochs):
        model.train()
        total = 0.0
        for rows in torch.randperm(len(x), generator=generator).split(batch):
            if cosine:
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    rise = min(1.0, (step + 1) / (warm * steps)) if warm else 1.0
                    group["lr"] = rate * rise * 0.5 * (1 + math.cos(math.pi * step / steps))
            inputs = x[rows] if vary is None else vary(x[rows])
            outputs = model(inputs)
            if loss_of is None:
                loss = nn.functional.cross_entropy(outputs, labels[rows])
            else:
                loss = loss_of(outputs, labels[rows], inputs)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if most < math.inf:
                nn.utils.clip_grad_norm_(model.parameters(), most)
            optimizer.step()
            step += 1
            total += loss.item() * len(rows)
            if each_step is not None:
                each_step(loss.item())
        losses.append(total / len(x))
    return losses


@torch.no_grad()
def outputs(model: nn.Module, x: Tensor, batch: int = 1000) -> Tensor:
    """What ``model`` gives for all of ``x`` without training."""
    model.eval()
    return torch.cat([model(part) for part in x.split(batch)])


def error(model: nn.Module, data: Split) -> float:
    """Share of the examples that are put in the wrong class."""
    return float((outputs(model, data[0]).argmax(1) != data[1]).float().mean())


def shifted(x: Tensor, most: int = 2) -> Tensor:
    """Images ``(n, 1, height, width)`` moved by up to ``most`` pixels, each by its own; zeros come in."""
    padded = nn.functional.pad(x, (most, most, most, most))
    height, width = x.shape[2:]
    moves = torch.randint(0, 2 * most + 1, (2, len(x), 1))
    rows, columns = moves[0] + torch.arange(height), moves[1] + torch.arange(width)
    return padded[torch.arange(len(x))[:, None, None], 0, rows[:, :, None], columns[:, None, :]].unsqueeze(1)


def mirrored(x: Tensor) -> Tensor:
    """Images ``(n, channels, height, width)``, about every second of them with left for right."""
    return torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(3), x)
