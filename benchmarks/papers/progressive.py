"""Replacing at once or step by step: the four ways of `compress --progressive`, and none, on two real jobs.

The demo's convnet and the Caffe LeNet become ACDC with a short training; all else as the command does it. The default
is the way whose error on images that were held back is lowest, mean of both jobs (`choice.py`). Moczulski 2019, 4.4
proposes mollifying; the others are Theseus' random module replacement (Xu et al. 2020), and mixing as in self-guided
training (Wei et al. 2024).
"""

from __future__ import annotations

from collections.abc import Mapping

from choice import HOW, Choice, shown
from experiment import Experiment, Figure, Values, main
from jobs import JOBS

_METHOD = ("--method", "acdc")
_STEP_BY_STEP = ("linear", "mollify", "cosine", "theseus")
CHOICE = Choice(
    {"at once": _METHOD} | {way: (*_METHOD, "--train", "fade=0.5", "--progressive", way) for way in _STEP_BY_STEP}
)


def figures(runs: Mapping[str, Values]) -> list[Figure]:
    """Each job's errors, and those by which the default was chosen."""
    rows = []
    for job in JOBS:
        found = CHOICE.test_errors(runs, job)
        both = "at once" in found and "mollify" in found
        reached = found["mollify"].mean < found["at once"].mean if both else None
        rows.append(Figure("M 4.4", f"{job}, ACDC: error", "mollified below plain", shown(found), reached, HOW))
    return rows + CHOICE.chosen(runs, "ways to replace by ACDC", "at once")


EXPERIMENT = Experiment(8, "progressive", "Replacing at once or step by step", 75, CHOICE.measure, figures)

if __name__ == "__main__":
    raise SystemExit(main(EXPERIMENT, __doc__))
