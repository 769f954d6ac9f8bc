"""Learning curves of noisy activations: a single-layer MLP on MNIST by RMSProp (Moczulski 2019, figure 4.5).

tanh and hard-tanh beside NAN, NAH, NANI, NANIL and NANIS. The source gives no sizes: here 784-500-10, batches of 100,
rate 1e-3, five epochs. Kept: the mean loss of each epoch while training, noise on (``curve``, what the source plots);
then, where the noise is its mean, the negative log-likelihood of all training images and of the test images, and the
test error. One curve ends below another where it does by more than the standard error of the difference.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from classification import error, flat, mnist, outputs, train
from experiment import Experiment, Figure, Mean, Runs, Values, main, mean_of, spread
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
    ends = {name: {"last": run["curve"][-1], "clean": run["train_nll"]} for name, run in runs.items()}
    means, clean = (
        {kind: mean_of(ends, [f"{kind}, seed {seed}" for seed in SEEDS], key) for kind in (*PLAIN, *NOISY)}
        for key in ("last", "clean")
    )
    rows = []
    for kind in NOISY:
        theirs = "final NLL below tanh and hard-tanh"
        what = f"{kind.upper()}: training NLL, mean of the last epoch"
        ours, plain = means[kind], {name: mean for name in PLAIN if (mean := means[name])}
        if ours is None or len(plain) < len(PLAIN):
            rows.append(Figure("M fig. 4.5", what, theirs, None))
            continue
        reached = all(mean.mean - ours.mean > spread(ours, mean) for mean in plain.values())
        ties = [name for name, mean in plain.items() if abs(mean.mean - ours.mean) <= spread(ours, mean)]
        why = [f"a tie with {' and '.join(ties)}: within a standard error"] if ties else []
        if not reached:
            why.append("five epochs without a choice of rates; the source gives neither sizes nor settings")
        quiet = _shown({name: clean[name.lower()] for name in (kind.upper(), *PLAIN)})
        why.append(f"after training, without noise: {quiet}")
        shown = _shown({kind.upper(): ours, **plain})
        rows.append(Figure("M fig. 4.5", what, theirs, shown, reached, "; ".join(why)))
    return rows


def _shown(means: Mapping[str, Mean | None]) -> str:
    return ", ".join(f"{name} {mean.shown(lambda v: f'{v:.4f}')}" for name, mean in means.items() if mean)


EXPERIMENT = Experiment(8, "noise_curves", "Noisy activations: MNIST MLP curves", 6, measure, figures)

if __name__ == "__main__":
    raise SystemExit(main(EXPERIMENT, __doc__))
