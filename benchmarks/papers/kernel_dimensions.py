"""Kernels against dimension: KernelNets of one structure by dot, polynomial and RBF kernels (Müller et al., fig. 3).

MNIST, 784-200-200-10 with both hidden layers kernelized, ReLU, Adam falling to 0, three epochs. The source takes the
best of a range of settings; here the rate, 1e-3 or 1e-2, is chosen for each network on 5,000 training images that are
held back, with the first seed. Figure 3's values are not printed: what it says is which kernel wins where.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from classification import Split, error, flat, held_back, mnist, train
from experiment import Experiment, Figure, Mean, Runs, Values, main, mean_of
from torch import nn

from compressor.layers import KernelNet

KERNELS = ("dot", "polynomial", "gaussian")
DIMENSIONS = (1, 2, 4, 8, 16, 32)
RATES = (1e-3, 3e-3, 1e-2)
SEEDS, EPOCHS, WIDTH = (0, 1, 2), 3, 200


def network(kernel: str, d: int, seed: int, width: int = WIDTH) -> nn.Module:
    """The MLP; each layer's places are drawn from a seed of its own."""
    first, second = (
        KernelNet(ends, width, kernel=kernel, d=d, seed=2 * seed + i) for i, ends in enumerate((784, width))
    )
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Linear(width, 10))


def learn(kernel: str, d: int, seed: int, rate: float, data: Split, scored: Split, epochs: int) -> Values:
    """Train, and score."""
    model = network(kernel, d, seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    train(model, data, epochs=epochs, optimizer=optimizer, seed=seed, cosine=True, most=1.0)
    return {"rate": rate, "error": error(model, scored), "params": sum(p.numel() for p in model.parameters())}


def measure(runs: Runs) -> None:
    """The rates first, then each kernel by dimension and seed."""
    data, test = (flat(split) for split in mnist(runs))
    chosen_on = held_back(data, 200 if runs.quick else 5000)
    epochs = 1 if runs.quick else EPOCHS
    for seed in SEEDS[:1] if runs.quick else SEEDS:
        for d in (2,) if runs.quick else DIMENSIONS:
            for kernel in KERNELS:
                tried = [
                    runs.take(
                        f"{kernel}, d = {d}, held back, rate {rate:g}",
                        lambda kernel=kernel, d=d, rate=rate: learn(kernel, d, SEEDS[0], rate, *chosen_on, epochs),
                        seed=SEEDS[0],
                    )
                    for rate in RATES
                ]
                rate = min(tried, key=lambda run: run["error"])["rate"]
                runs.take(
                    f"{kernel}, d = {d}, seed {seed}",
                    lambda kernel=kernel, d=d, rate=rate, seed=seed: learn(kernel, d, seed, rate, data, test, epochs),
                    seed=seed,
                )


def figures(runs: Mapping[str, Values]) -> list[Figure]:
    """Which kernel wins at each dimension."""
    rows = []
    for d in DIMENSIONS:
        found: dict[str, Mean | None] = {
            kernel: mean_of(runs, [f"{kernel}, d = {d}, seed {seed}" for seed in SEEDS], "error") for kernel in KERNELS
        }
        text = ", ".join(f"{kernel} {mean.shown(lambda v: f'{v:.2%}')}" for kernel, mean in found.items() if mean)
        dot, poly, rbf = (found[kernel] for kernel in KERNELS)
        theirs = "RBF and polynomial below dot" if d <= 4 else "dot catches up"
        reached = None
        if dot and poly and rbf:
            higher = min(poly.mean, rbf.mean)
            reached = higher < dot.mean if d <= 4 else dot.mean <= 1.25 * higher if d == DIMENSIONS[-1] else None
        why = "caught up: within a quarter of the better one" if d == DIMENSIONS[-1] else ""
        rows.append(Figure("K fig. 3", f"MNIST test error, d = {d}", theirs, text or None, reached, why))
    return rows


EXPERIMENT = Experiment(6, "kernel_dimensions", "KernelNet: kernel against dimension", 25, measure, figures)

if __name__ == "__main__":
    raise SystemExit(main(EXPERIMENT, __doc__))
