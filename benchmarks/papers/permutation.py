"""Does it matter how ACDC permutes? Errors with permutations that are random, by blocks of 8, and with none.

Two real jobs, the demo's convnet and the Caffe LeNet, each compressed by the command itself with several seeds. The
source draws its permutations at random, once; by blocks a single row takes less time (`benchmarks/kernels_cpu.py`). The
default, by blocks, is the better trade: by that time, and by the errors on images that were held back (`choice.py`).
"""

from __future__ import annotations

from collections.abc import Mapping

from choice import HOW, Choice, shown
from experiment import Experiment, Figure, Values, main
from jobs import JOBS

DEPTH = 6  # of the cascades: five permutations between them
_METHOD = ("--method", "acdc", "--set", f"depth={DEPTH}")
CHOICE = Choice({kind: (*_METHOD, "--set", f"permutation={kind}") for kind in ("random", "block", "none")})


def figures(runs: Mapping[str, Values]) -> list[Figure]:
    """Each job's errors by kind, and those by which the default was chosen."""
    rows = [
        Figure(
            "M 3.5",
            f"{job}, ACDC by its permutations: error",
            "random",
            shown(CHOICE.test_errors(runs, job)),
            None,
            f"depth {DEPTH}, {HOW}",
        )
        for job in JOBS
    ]
    return rows + CHOICE.chosen(runs, "ACDC by its permutations", "block, the quicker one of what permutes")


EXPERIMENT = Experiment(1, "permutation", "ACDC: permutations at random, by blocks, none", 45, CHOICE.measure, figures)

if __name__ == "__main__":
    raise SystemExit(main(EXPERIMENT, __doc__))
