"""List the sources' experiments with the time that each takes, or run those that are named.

``make papers`` lists them, ``make papers RUN="shapes recovery"`` runs two; ``QUICK=1`` runs small versions and keeps
nothing. A run that was broken off is taken up again.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from importlib import import_module
from pathlib import Path

from experiment import Experiment

HERE = Path(__file__).resolve().parent
NAMES = (
    "recovery", "lenet", "three_ways", "denil", "kernel_dimensions", "kernel_grids", "kernel_map", "kernel_pretrained",
    "movielens", "movielens_past", "noise_curves", "unique_elements", "parity", "permutation", "progressive", "shapes",
)  # fmt: skip


def experiments() -> list[Experiment]:
    """All, by their number in the list."""
    found: list[Experiment] = [import_module(name).EXPERIMENT for name in NAMES]
    return sorted(found, key=lambda one: one.number)


def listing() -> list[str]:
    """A line for each: number, name, minutes on one core, runs kept, title."""
    lines = [f"{'':>3}  {'name':<18}{'minutes':>8}{'runs':>6}  what"]
    for one in experiments():
        lines.append(f"{one.number:>3}  {one.name:<18}{one.minutes:>8g}{len(one.kept().found):>6}  {one.title}")
    return lines


def main() -> int:
    """List, or run one after the other; the first that fails ends it."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("names", nargs="*", help="experiments to run; none: list them")
    options.add_argument("--quick", action="store_true", help="small versions; nothing is kept")
    options.add_argument("--json", action="store_true", help="print the results as JSON")
    given = options.parse_args()
    unknown = [name for name in given.names if name not in NAMES]
    if unknown:
        print(f"there is no experiment '{unknown[0]}'; choose from: {', '.join(NAMES)}", file=sys.stderr)
        return 2
    if not given.names:
        print("\n".join(listing()))
        return 0
    flags = [flag for flag, wanted in (("--quick", given.quick), ("--json", given.json)) if wanted]
    for name in given.names:
        done = subprocess.run([sys.executable, str(HERE / f"{name}.py"), *flags], check=False)
        if done.returncode:
            return done.returncode
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
