"""MNIST with pixel locations known or learned: two RBF layers of several 2-D maps (Müller et al., 3.2 and table 1).

784 pixels - 16 maps of 14x14 - 16 maps of 7x7 - softmax, ReLU and dropout between. Known: all places lie on grids and
stay there, only λ (one for each map and input), biases and softmax are learned. Learned: places start at random and
are trained. Pixels are a grid of cells of side 0.5; Adam at 3e-3 falling to 0. The source gives no sizes.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from classification import error, flat, mnist, train
from experiment import Experiment, Figure, Runs, Values, main, mean_of, percent
from torch import nn

from compressor.layers import KernelNet

MAPS, FIRST, SECOND = 16, 14, 7
EPOCHS, SEEDS = 10, (0, 1, 2)
PUBLISHED = {"known": 0.9903, "learned": 0.9889}


def network(places: str, seed: int, maps: int = MAPS, dropout: float = 0.2) -> nn.Module:
    """The two kernelized layers and the softmax."""
    ends = ((784, maps * FIRST**2), (maps * FIRST**2, maps * SECOND**2))
    grids = (("28x28", f"{FIRST}x{FIRST}", 0.5), (f"{FIRST}x{FIRST}", f"{SECOND}x{SECOND}", 1.0))
    layers: list[nn.Module] = []
    for i, ((inputs, outputs), (grid, out_grid, spacing)) in enumerate(zip(ends, grids, strict=True)):
        where = {"grid": grid, "out_grid": out_grid, "spacing": spacing, "learn": False} if places == "known" else {}
        kernel = KernelNet(inputs, outputs, kernel="gaussian", d=2, seed=2 * seed + i, **where)
        layers += [kernel, nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.Linear(ends[1][1], 10))


def measure(runs: Runs) -> None:
    """Known, then learned, seed by seed."""
    data, test = (flat(split) for split in mnist(runs))

    def run(places: str, seed: int) -> Values:
        model = network(places, seed, 2 if runs.quick else MAPS)
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        curve = train(model, data, epochs=1 if runs.quick else EPOCHS, optimizer=optimizer, seed=seed, cosine=True)
        params = sum(p.numel() for p in model.parameters())
        return {"accuracy": 1 - error(model, test), "params": params, "curve": curve}

    for seed in SEEDS[:1] if runs.quick else SEEDS:
        for places in PUBLISHED:
            runs.take(f"{places}, seed {seed}", lambda places=places, seed=seed: run(places, seed), seed=seed)


def figures(runs: Mapping[str, Values]) -> list[Figure]:
    """Table 1."""
    rows = []
    for places, theirs in PUBLISHED.items():
        ours = mean_of(runs, [f"{places}, seed {seed}" for seed in SEEDS], "accuracy")
        shown = None if ours is None else ours.shown(percent)
        reached = None if ours is None else ours.mean >= theirs
        why = f"{MAPS} maps of {FIRST}×{FIRST} and {SECOND}×{SECOND}, {EPOCHS} epochs; the source gives no sizes"
        rows.append(
            Figure("K tab. 1", f"MNIST accuracy, pixel locations {places}", percent(theirs), shown, reached, why)
        )
    return rows


EXPERIMENT = Experiment(6, "kernel_grids", "KernelNet: pixel locations known or learned", 45, measure, figures)

if __name__ == "__main__":
    raise SystemExit(main(EXPERIMENT, __doc__))
