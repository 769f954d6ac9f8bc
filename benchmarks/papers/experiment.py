"""What every experiment of the sources has: its runs, kept as they end and taken up again, and its published figures.

An experiment is one file beside this one with ``EXPERIMENT``. Its runs are kept in ``results/NAME.json`` under a name
each, with seed and seconds, and the session (machine, versions, date) that each was made in: started again, it only
does what is missing. ``figures`` holds what the source printed against what the runs gave; a run that nobody did has
no figure.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

sys.path.append(str(Path(__file__).resolve().parent.parent))  # the other benchmarks

from facts import facts, parser, show

RESULTS = Path(__file__).resolve().parent / "results"

Values = dict[str, Any]


@dataclass(frozen=True)
class Figure:
    """A published figure beside ours; ``reached`` is None where there is nothing to compare."""

    source: str
    what: str
    theirs: str
    ours: str | None
    reached: bool | None = None
    why: str = ""


@dataclass
class Runs:
    """The runs of one experiment; with ``path`` each is kept in it as it ends."""

    seed: int = 0
    quick: bool = False
    path: Path | None = None
    sessions: list[Values] = field(default_factory=list)
    found: dict[str, Values] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.path is not None and self.path.exists():
            kept = json.loads(self.path.read_text(encoding="utf-8"))
            self.sessions, self.found = kept["sessions"], kept["runs"]

    def take(self, name: str, make: Callable[[], Values], *, seed: int | None = None) -> Values:
        """The values of run ``name``: as they were kept, else those that ``make`` gives now."""
        seed = self.seed if seed is None else seed
        if name in self.found:
            kept = self.found[name]
            if kept["seed"] != seed:
                print(f"{name}: kept with seed {kept['seed']}, not made with {seed}", file=sys.stderr)
            return kept
        torch.manual_seed(seed)
        started = time.monotonic()
        values = make()
        seconds = round(time.monotonic() - started, 2)
        self.found[name] = {"seed": seed, "seconds": seconds, "session": self._session(), **values}
        self._keep()
        shown = ", ".join(
            f"{key} {_short(value)}" for key, value in values.items() if not isinstance(value, list | dict)
        )
        print(f"{name}: {shown} ({seconds:.0f} s)", file=sys.stderr, flush=True)
        return self.found[name]

    def _session(self) -> int:
        here = facts(self.seed)
        del here["seed"]
        here["date"] = datetime.datetime.now(datetime.UTC).date().isoformat()
        if here not in self.sessions:
            self.sessions.append(here)
        return self.sessions.index(here)

    def _keep(self) -> None:
        if self.path is None:
            return
        self.path.parent.mkdir(exist_ok=True)
        partial = self.path.with_suffix(".part")
        partial.write_text(json.dumps({"sessions": self.sessions, "runs": self.found}, indent=1) + "\n", "utf-8")
        partial.replace(self.path)


@dataclass(frozen=True)
class Experiment:
    """One experiment: its number in the list, how long it takes on one core, how to run it and to read its runs."""

    number: int
    name: str
    title: str
    minutes: float
    measure: Callable[[Runs], None]
    figures: Callable[[Mapping[str, Values]], list[Figure]]
    lines: Callable[[Mapping[str, Values]], list[str]] | None = None

    @property
    def path(self) -> Path:
        """Where its runs are kept."""
        return RESULTS / f"{self.name}.json"

    def kept(self) -> Runs:
        """What has been run so far."""
        return Runs(path=self.path)


@dataclass(frozen=True)
class Mean:
    """Mean and standard error over seeds."""

    mean: float
    error: float | None
    count: int

    def shown(self, style: Callable[[float], str]) -> str:
        """The mean, and with more than one run its standard error and their number."""
        if self.error is None:
            return f"{style(self.mean)} (one run)"
        return f"{style(self.mean)} ± {style(self.error)} ({self.count} runs)"


def mean_of(runs: Mapping[str, Values], names: Sequence[str], key: str) -> Mean | None:
    """Over those of ``names`` that were run; None where none was."""
    values = [float(runs[name][key]) for name in names if name in runs]
    if not values:
        return None
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return Mean(statistics.fmean(values), error, len(values))


def mean_over(means: Sequence[Mean]) -> Mean:
    """The mean of several means, each of runs of its own, with its standard error."""
    error = math.hypot(*(mean.error or 0.0 for mean in means)) / len(means)
    return Mean(statistics.fmean(mean.mean for mean in means), error, sum(mean.count for mean in means))


def spread(one: Mean, other: Mean) -> float:
    """The standard error of the difference of two means."""
    return math.hypot(one.error or 0.0, other.error or 0.0)


def lowest(means: Mapping[str, Mean]) -> str:
    """Which of ``means`` is the lowest, and which tie with it: those within a standard error of the difference."""
    best = min(means, key=lambda name: means[name].mean)
    ties = [
        name
        for name, mean in means.items()
        if name != best and mean.mean - means[best].mean <= spread(mean, means[best])
    ]
    tie = f" (a tie within a standard error: {', '.join(map(repr, ties))})" if ties else ""
    return f"lowest: {best!r}{tie}"


def at_most(
    source: str,
    what: str,
    theirs: float,
    ours: Mean | None,
    style: Callable[[float], str],
    why: str = "",
    missed: str = "",
) -> Figure:
    """A figure where less is better: reached when the mean over the seeds is no more than theirs.

    ``missed`` is added to ``why`` where it is not.
    """
    if ours is None:
        return Figure(source, what, style(theirs), None)
    reached = ours.mean <= theirs
    said = [why] if reached else [why, missed]
    return Figure(source, what, style(theirs), ours.shown(style), reached, "; ".join(part for part in said if part))


def percent(value: float) -> str:
    """A share with two digits."""
    return f"{value:.2%}"


def four_digits(value: float) -> str:
    """A number, such as the error of ratings."""
    return f"{value:.4f}"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def main(experiment: Experiment, description: str | None) -> int:
    """Run what is missing of ``experiment``, print all of it."""
    options = _options(description)
    torch.set_num_threads(1)
    runs = Runs(options.seed, options.quick, None if options.quick else experiment.path)
    experiment.measure(runs)
    lines = experiment.lines(runs.found) if experiment.lines else _rows(experiment.figures(runs.found))
    show({"sessions": runs.sessions, "runs": runs.found}, lines, as_json=options.json)
    return 0


def _options(description: str | None) -> argparse.Namespace:
    seed = "of runs that have no seed in their name; what is kept stays as it is, and says so"
    return parser(description, quick="a small version; nothing is kept", seed=seed).parse_args()


def _rows(figures: Sequence[Figure]) -> list[str]:
    return [f"{row.what}: {row.theirs} published, {row.ours or 'not run'} here" for row in figures]
