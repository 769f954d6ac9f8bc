"""How a default of the command is chosen: each way on both real jobs of `jobs.py`, with several seeds.

Chosen is by the error on training images that are held back, which no run has trained on (the original networks have);
the test images only tell what came of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from experiment import Figure, Mean, Runs, Values, lowest, mean_of, mean_over, percent
from jobs import JOBS, errors

SEEDS, EPOCHS = (0, 1, 2), 2
HOW = f"{EPOCHS} epochs, a sixth of the training images held back"


@dataclass(frozen=True)
class Choice:
    """What there is to choose from: the command's options for each way, by the way's name."""

    ways: Mapping[str, Sequence[str]]

    def measure(self, runs: Runs) -> None:
        """Seed by seed, every way on both jobs."""
        epochs = 1 if runs.quick else EPOCHS
        for seed in SEEDS[:1] if runs.quick else SEEDS:
            for job in JOBS:
                for way, options in self.ways.items():
                    runs.take(
                        f"{job}, {way}, seed {seed}",
                        lambda job=job, options=options, seed=seed: errors(
                            job, options, epochs=epochs, seed=seed, quick=runs.quick
                        ),
                        seed=seed,
                    )

    def test_errors(self, runs: Mapping[str, Values], job: str) -> dict[str, Mean]:
        """The mean error of each way that was run on the job's test images."""
        return self._means(runs, job, "test_error")

    def chosen(self, runs: Mapping[str, Values], what: str, default: str) -> list[Figure]:
        """The row by which the default is chosen: errors held back, mean of both jobs; none before both were run."""
        held_back = [self._means(runs, job, "held_back_error") for job in JOBS]
        both = {
            way: mean_over([one[way] for one in held_back]) for way in self.ways if all(way in one for one in held_back)
        }
        if not both:
            return []
        row = f"{what}: error held back, mean of both jobs"
        return [Figure("–", row, "–", shown(both), None, f"{lowest(both)}; the command's default is {default}")]

    def _means(self, runs: Mapping[str, Values], job: str, key: str) -> dict[str, Mean]:
        found = {way: mean_of(runs, [f"{job}, {way}, seed {seed}" for seed in SEEDS], key) for way in self.ways}
        return {way: mean for way, mean in found.items() if mean}


def shown(means: Mapping[str, Mean]) -> str | None:
    """Each way and its error; None where none was run."""
    return ", ".join(f"{way} {mean.shown(percent)}" for way, mean in means.items()) or None
