"""MNIST with the Caffe LeNet's convolutions, all layers trained jointly (Moczulski 2019, table 3.1), and past it.

Reference (430,500 weights), random and adaptive Fastfood of 1024 and 2048 ReLU features in place of both dense layers,
with and without dropout, and ACDC and SVD in place of the first dense layer beside them. AdamW at 2e-3 falling to 0
(diagonals ten times as quick), batches of 100, ten epochs, three seeds; nothing is chosen, the last epoch counts.
Random features have a standard deviation of 0.05, one of the four that the source tried.

"Past it": digits moved by up to two pixels while training, 15 epochs, at no more than 38,800 and 30,000 weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from classification import error, mnist, shifted, train
from experiment import Experiment, Figure, Runs, Values, at_most, main, mean_of, percent
from torch import nn

from compressor.layers import method
from compressor.layers.rates import parameter_groups

EPOCHS, EPOCHS_PAST, SEEDS = 10, 15, (0, 1, 2)
_DROPOUT = 0.1
_TRIED = (
    "tried by hand on 10,000 held-back training images, Adaptive Fastfood 1024, one run each: as it is 0.92 %, dropout "
    "of 0.05 0.88 %, of 0.25 1.12 %, twice the epochs 0.96 %, twice the rate 1.09 %; standard error of each 0.1 points"
)


def _fastfood(width: int, *, adaptive: bool = True, dropout: float = 0.0) -> Callable[[int], list[nn.Module]]:
    settings = {"features": "relu", "width": width, "adaptive": adaptive, "dropout": dropout, "sigma": 20.0}
    return lambda seed: [method("fastfood").layer(800, 10, seed=seed, **settings)]


def _through(name: str, **settings: object) -> Callable[[int], list[nn.Module]]:
    """``name`` in place of the first dense layer."""

    def make(seed: int) -> list[nn.Module]:
        given = {**settings, "seed": seed} if name == "acdc" else settings
        return [method(name).layer(800, 500, **given), nn.ReLU(), nn.Linear(500, 10)]

    return make


HEADS: dict[str, Callable[[int], list[nn.Module]]] = {
    "reference": lambda _: [nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10)],
    "Adaptive Fastfood 1024": _fastfood(1024, dropout=_DROPOUT),
    "Fastfood 1024": _fastfood(1024, adaptive=False, dropout=_DROPOUT),
    "Adaptive Fastfood 1024 (ND)": _fastfood(1024),
    "Fastfood 1024 (ND)": _fastfood(1024, adaptive=False),
    "Adaptive Fastfood 2048": _fastfood(2048, dropout=_DROPOUT),
    "Fastfood 2048": _fastfood(2048, adaptive=False, dropout=_DROPOUT),
    "Adaptive Fastfood 2048 (ND)": _fastfood(2048),
    "Fastfood 2048 (ND)": _fastfood(2048, adaptive=False),
    "ACDC": _through("acdc", depth=2, permutation="random"),
    "SVD": _through("svd", rank=4),
}
PAST: dict[str, tuple[Callable[[int], list[nn.Module]], int, float]] = {  # head, weights at most, error at most
    "moved digits, Adaptive Fastfood 1000": (_fastfood(1000, dropout=_DROPOUT), 38_800, 0.0065),
    "moved digits, Adaptive Fastfood 200": (_fastfood(200), 30_000, 0.0075),
}
PUBLISHED = {
    "reference": 0.0087, "Fastfood 1024 (ND)": 0.0083, "Adaptive Fastfood 1024 (ND)": 0.0086,
    "Fastfood 2048 (ND)": 0.0090, "Adaptive Fastfood 2048 (ND)": 0.0092, "Fastfood 1024": 0.0071,
    "Adaptive Fastfood 1024": 0.0072, "Fastfood 2048": 0.0071, "Adaptive Fastfood 2048": 0.0073,
}  # fmt: skip


def network(head: list[nn.Module]) -> nn.Sequential:
    """LeNet's convolutions and ``head``."""
    convolutions = [nn.Conv2d(1, 20, 5), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2), nn.Flatten()]
    return nn.Sequential(*convolutions, *head)


def weights(model: nn.Module) -> int:
    """What is trained, biases not counted, as in the source."""
    return sum(p.numel() for name, p in model.named_parameters() if not name.endswith(("bias", "beta")))


def measure(runs: Runs) -> None:
    """What is to be beaten and the reference first, then the table; seed by seed."""
    data, test = mnist(runs, scale=256.0)

    def run(head: Callable[[int], list[nn.Module]], epochs: int, moved: bool, seed: int) -> Values:
        model = network(head(seed))
        optimizer = torch.optim.AdamW(parameter_groups(model, 2e-3, 1e-3))
        curve = train(
            model, data, epochs=1 if runs.quick else epochs, optimizer=optimizer, seed=seed, cosine=True,
            vary=shifted if moved else None,
        )  # fmt: skip
        return {"test_error": error(model, test), "weights": weights(model), "curve": curve}

    jobs = {name: (head, EPOCHS_PAST, True) for name, (head, _, _) in PAST.items()}
    jobs |= {name: (head, EPOCHS, False) for name, head in HEADS.items()}
    for seed in SEEDS[:1] if runs.quick else SEEDS:
        for name, job in jobs.items():
            runs.take(f"{name}, seed {seed}", lambda job=job, seed=seed: run(*job, seed), seed=seed)


def figures(runs: Mapping[str, Values]) -> list[Figure]:
    """Table 3.1, what stands beside it, and what is past it."""

    def ours(name: str) -> tuple[object, str]:
        names = [f"{name}, seed {seed}" for seed in SEEDS]
        known = next((runs[one] for one in names if one in runs), None)
        mean = mean_of(runs, names, "test_error")
        return mean, "" if known is None else f"{known['weights']:,} weights trained"

    rows = []
    for name, theirs in PUBLISHED.items():
        mean, why = ours(name)
        rows.append(at_most("M tab. 3.1", f"LeNet on MNIST, {name}: error", theirs, mean, percent, why, _TRIED))  # type: ignore[arg-type]
    for name in ("ACDC", "SVD"):
        mean, why = ours(name)
        shown = None if mean is None else mean.shown(percent)  # type: ignore[attr-defined]
        rows.append(Figure("M tab. 3.1", f"LeNet on MNIST, {name} beside it: error", "–", shown, None, why))
    for name, (_, most, theirs) in PAST.items():
        mean, why = ours(name)
        rows.append(at_most("past M tab. 3.1", f"≤ {most:,} weights, {name}: error", theirs, mean, percent, why))  # type: ignore[arg-type]
    return rows


EXPERIMENT = Experiment(2, "lenet", "MNIST, LeNet: Fastfood random and adaptive, ACDC, SVD", 150, measure, figures)

if __name__ == "__main__":
    raise SystemExit(main(EXPERIMENT, __doc__))
