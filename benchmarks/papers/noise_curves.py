"""Learning curves of noisy activations: a single-layer MLP on MNIST by RMSProp (Moczulski 2019, figure 4.5).

tanh and hard-tanh beside NAN, NAH, NANI, NANIL and NANIS. The source gives no sizes: here 784-500-10, batches of 100,
rate 1e-3, five epochs. Kept: the negative log-likelihood while training, epoch by epoch, and that of the test images,
where the noise is its mean.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from classification import error, flat, mnist, outputs, train
from experiment import Experiment, Figure, Runs, Values, main, mean_of
from torch import nn

from compressor.train import noisy_

HIDDEN, EPOCHS, SEEDS = 500, 5, (0, 1, 2)
PLAIN = ("tanh", "hard-tanh")
NOISY = ("nan", "nah", "nani", "nanil", "nanis")


def network(kind: str, hidden: int = HIDDEN) -> nn.Module:
    """The MLP with the activation ``kind``."""
    activation = nn.Tanh() if kind == "tanh" else nn.Hardtanh()
    model = nn.Sequential(nn.Linear(784, hidden), activation, nn.Linear(hidden, 10))
    return noisy_(model, kind) if kind in NOISY else model


def measure(runs: Runs) -> None:
    """Every activation, seed by seed."""
    data, test = (flat(split) for split in mnist(runs))

    def run(kind: str, seed: int) -> Values:
        model = network(kind)
        optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-3)
        curve = train(model, data, epochs=1 if runs.quick else EPOCHS, optimizer=optimizer, seed=seed)
        nll = float(nn.functional.cross_entropy(outputs(model, test[0]), test[1]))
        clean = float(nn.functional.cross_entropy(outputs(model, data[0]), data[1]))
        return {"curve": curve, "train_nll": clean, "test_nll": nll, "test_error": error(model, test)}

    for seed in SEEDS[:1] if runs.quick else SEEDS:
        for kind in (*PLAIN, *NOISY):
            runs.take(f"{kind}, seed {seed}", lambda kind=kind, seed=seed: run(kind, seed), seed=seed)


def figures(runs: Mapping[str, Values]) -> list[Figure]:
    """What the source says of its curves, which it gives no numbers for."""
    means = {kind: mean_of(runs, [f"{kind}, seed {seed}" for seed in SEEDS], "train_nll") for kind in (*PLAIN, *NOISY)}
    rows = []
    for kind in NOISY:
        theirs = "final NLL below tanh and hard-tanh"
        ours, plain = means[kind], [means[name] for name in PLAIN]
        known = [mean for mean in plain if mean is not None]
        if ours is None or len(known) < len(PLAIN):
            rows.append(Figure("M fig. 4.5", f"{kind.upper()}: training NLL", theirs, None))
            continue
        shown = f"{ours.shown(lambda v: f'{v:.4f}')}; " + ", ".join(
            f"{name} {mean.mean:.4f}" for name, mean in zip(PLAIN, known, strict=True)
        )
        reached = all(ours.mean < mean.mean for mean in known)
        why = "" if reached else "five epochs without a choice of rates; the source gives neither sizes nor settings"
        rows.append(Figure("M fig. 4.5", f"{kind.upper()}: training NLL", theirs, shown, reached, why))
    return rows


EXPERIMENT = Experiment(8, "noise_curves", "Noisy activations: MNIST MLP curves", 6, measure, figures)

if __name__ == "__main__":
    raise SystemExit(main(EXPERIMENT, __doc__))
