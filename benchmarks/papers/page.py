"""Write ``benchmarks/papers/README.md`` from what was run: a row for each published figure.

``make papers-readme`` runs it; with ``--check`` it only says whether the page is up to date (exit status 1 if not).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from experiment import Experiment, Figure
from run import experiments

PAGE = Path(__file__).resolve().parent / "README.md"
_HEAD = """# The sources' experiments

Written by `make papers-readme`: "ours" comes from `results/*.json`, which the scripts beside it left. What was tried by
hand, and not kept, is named as such under "why".
M: Moczulski 2019. K: Müller, Martel, Indiveri 2018. D: Denil et al. 2013. "± " is the standard error over the runs.
A figure that nobody ran is "not run", and one that was not reached says so.
`make papers` lists the experiments, `make papers RUN="shapes recovery"` runs some; a run that was broken off is taken
up again. MovieLens, CIFAR-10 and MNIST come from the data folder (`COMPRESSOR_DATA`), Fashion-MNIST from Debian.
ImageNet, CaffeNet's weights, ML-10M, Penn Treebank, Europarl and Flickr8k cannot be had: of their tables there are
the counts that follow from shapes.
"""


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _row(figure: Figure) -> str:
    reached = {True: "yes", False: "**no**", None: ""}[figure.reached]
    cells = (figure.source, figure.what, figure.theirs, figure.ours or "not run", reached, figure.why)
    return f"| {' | '.join(_cell(cell) for cell in cells)} |"


def _section(experiment: Experiment) -> list[str]:
    runs = experiment.kept()
    lines = [f"## {experiment.number}. {experiment.title}", "", f"`benchmarks/papers/{experiment.name}.py`", ""]
    lines += ["| source | what | theirs | ours | reached | why, how |", "| --- | --- | --- | --- | --- | --- |"]
    lines += [_row(figure) for figure in experiment.figures(runs.found)]
    if runs.found:
        seconds = sum(run["seconds"] for run in runs.found.values())
        seeds = ", ".join(str(seed) for seed in sorted({run["seed"] for run in runs.found.values()}))
        versions = sorted({f"torch {session['versions']['torch']}" for session in runs.sessions})
        machines = sorted({session["machine"]["processor"] for session in runs.sessions})
        dates = sorted({session["date"] for session in runs.sessions})
        lines += [
            "",
            f"{len(runs.found)} runs, {seconds / 60:.0f} minutes by the clock of a busy machine, seeds {seeds};"
            f" {', '.join(machines)}, {', '.join(versions)}, {', '.join(dates)}.",
        ]
    return [*lines, ""]


def page() -> str:
    """The whole page."""
    lines = [_HEAD]
    found = experiments()
    figures = [figure for one in found for figure in one.figures(one.kept().found)]
    run = [figure for figure in figures if figure.ours is not None]
    reached = sum(figure.reached is True for figure in run)
    missed = sum(figure.reached is False for figure in run)
    lines += [
        f"Of {len(figures)} figures {len(run)} were run: {reached} reached, {missed} not, "
        f"{len(run) - reached - missed} without a number to compare.",
        "",
    ]
    for one in found:
        lines += _section(one)
    return "\n".join(lines).rstrip() + "\n"


def main() -> int:
    """Write the page, or compare it."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--check", action="store_true", help="only say whether the page is up to date")
    text = page()
    if options.parse_args().check:
        same = PAGE.exists() and PAGE.read_text(encoding="utf-8") == text
        print("up to date" if same else "not up to date: make papers-readme", file=sys.stderr)
        return 0 if same else 1
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
