"""Replacing at once or step by step: the four ways of `compress --progressive`, and none, on two real jobs.

The demo's convnet and the Caffe LeNet become ACDC with a short training; all else as the command does it. The default
is the way whose mean over both jobs is best: it was chosen by the test errors of these very runs, and so its own error
here is not that of a choice made without them. Moczulski 2019, 4.4 proposes mollifying; the others are Theseus' random
module replacement (Xu et al. 2020), and mixing as in self-guided training (Wei et al. 2024).
"""

from __future__ import annotations

from collections.abc import Mapping

from experiment import Experiment, Figure, Runs, Values, lowest, main, mean_of, mean_over
from jobs import JOBS, test_error

WAYS = ("at once", "linear", "mollify", "cosine", "theseus")
SEEDS, EPOCHS = (0, 1, 2), 2
_METHOD = ("--method", "acdc", "--set", "depth=2", "--set", "permutation=random")


def measure(runs: Runs) -> None:
    """Seed by seed, every way on both jobs."""

    def run(job: str, way: str, seed: int) -> Values:
        how = [] if way == "at once" else ["--train", "fade=0.5", "--progressive", way]
        settings = [*_METHOD, *how]
        return {
            "test_error": test_error(job, settings, epochs=1 if runs.quick else EPOCHS, seed=seed, quick=runs.quick)
        }

    for seed in SEEDS[:1] if runs.quick else SEEDS:
        for job in JOBS:
            for way in WAYS:
                runs.take(
                    f"{job}, {way}, seed {seed}", lambda job=job, way=way, seed=seed: run(job, way, seed), seed=seed
                )


def figures(runs: Mapping[str, Values]) -> list[Figure]:
    """Each job's errors, and what is best over both."""
    means = {
        (job, way): mean_of(runs, [f"{job}, {way}, seed {seed}" for seed in SEEDS], "test_error")
        for job in JOBS
        for way in WAYS
    }
    rows = []
    for job in JOBS:
        found = {way: means[job, way] for way in WAYS}
        text = ", ".join(f"{way} {mean.shown(lambda v: f'{v:.2%}')}" for way, mean in found.items() if mean)
        plain, mollified = found["at once"], found["mollify"]
        reached = mollified.mean < plain.mean if plain and mollified else None
        rows.append(Figure("M 4.4", f"{job}, ACDC: error", "mollified below plain", text or None, reached))
    over = {
        way: mean_over(known)
        for way in WAYS
        if len(known := [mean for job in JOBS if (mean := means[job, way])]) == len(JOBS)
    }
    if over:
        text = ", ".join(f"{way} {mean.mean:.3%} ± {mean.error or 0:.3%}" for way, mean in over.items())
        why = f"{lowest(over)}; the command's default, at once, was chosen by these test errors"
        rows.append(Figure("–", "best way to replace, mean of both jobs", "–", text, None, why))
    return rows


EXPERIMENT = Experiment(8, "progressive", "Replacing at once or step by step", 45, measure, figures)

if __name__ == "__main__":
    raise SystemExit(main(EXPERIMENT, __doc__))
