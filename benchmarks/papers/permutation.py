"""Does it matter how ACDC permutes? Errors with permutations that are random, by blocks of 8, and with none.

Two real jobs, the demo's convnet and the Caffe LeNet, each compressed by the command itself with several seeds. The
source draws its permutations at random, once; by blocks a single row takes less time (`benchmarks/kernels_cpu.py`). The
default, by blocks, is the better trade: by that time, and by the errors on training images that are held back, which
no run has trained on (the original networks have). The test images tell what came of it.
"""

from __future__ import annotations

from collections.abc import Mapping

from experiment import Experiment, Figure, Mean, Runs, Values, lowest, main, mean_of, mean_over, percent
from jobs import JOBS, errors

PERMUTATIONS = ("random", "block", "none")
DEPTH = 6  # of the cascades: five permutations between them
SEEDS, EPOCHS = (0, 1, 2), 2


def measure(runs: Runs) -> None:
    """Seed by seed, every kind on both jobs."""

    def run(job: str, permutation: str, seed: int) -> Values:
        settings = ["--method", "acdc", "--set", f"depth={DEPTH}", "--set", f"permutation={permutation}"]
        epochs = 1 if runs.quick else EPOCHS
        return errors(job, settings, epochs=epochs, seed=seed, quick=runs.quick)

    for seed in SEEDS[:1] if runs.quick else SEEDS:
        for job in JOBS:
            for kind in PERMUTATIONS:
                name = f"{job}, {kind}, seed {seed}"
                runs.take(name, lambda job=job, kind=kind, seed=seed: run(job, kind, seed), seed=seed)


def figures(runs: Mapping[str, Values]) -> list[Figure]:
    """Each job's errors by kind, and those by which the default was chosen."""
    rows, held_back = [], {}
    for job in JOBS:
        names = {kind: [f"{job}, {kind}, seed {seed}" for seed in SEEDS] for kind in PERMUTATIONS}
        found = {kind: mean_of(runs, named, "test_error") for kind, named in names.items()}
        held_back[job] = {kind: mean_of(runs, named, "held_back_error") for kind, named in names.items()}
        why = f"depth {DEPTH}, {EPOCHS} epochs, a sixth of the training images held back"
        rows.append(Figure("M 3.5", f"{job}, ACDC by its permutations: error", "random", _shown(found), None, why))
    over = {
        kind: mean_over(known)
        for kind in PERMUTATIONS
        if len(known := [mean for job in JOBS if (mean := held_back[job][kind])]) == len(JOBS)
    }
    if over:
        why = f"{lowest(over)}; the command's default is block, the quicker one of what permutes"
        what = "ACDC by its permutations: error held back, mean of both jobs"
        rows.append(Figure("–", what, "–", _shown(over), None, why))
    return rows


def _shown(found: Mapping[str, Mean | None]) -> str | None:
    known = [f"{kind} {mean.shown(percent)}" for kind, mean in found.items() if mean]
    return ", ".join(known) or None


EXPERIMENT = Experiment(1, "permutation", "ACDC: permutations at random, by blocks, none", 45, measure, figures)

if __name__ == "__main__":
    raise SystemExit(main(EXPERIMENT, __doc__))
