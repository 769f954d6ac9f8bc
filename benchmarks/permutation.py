"""Does it matter how ACDC permutes? Test errors with permutations that are random, by blocks of 8, and with none.

Two real jobs, the demo's convnet and the papers' Caffe LeNet, each compressed by the command itself with several seeds.
Writes ``benchmarks/results/permutation.json``. Needs the data folder (``COMPRESSOR_DATA``, default ``../shared/data``).
"""

from __future__ import annotations

import statistics
import sys
from typing import Any

from facts import facts, keep, parser, show
from jobs import JOBS, test_error

PERMUTATIONS = ("random", "block", "none")
DEPTH = 6  # of the cascades: five permutations between them


def measure(seeds: int, epochs: int, first_seed: int, quick: bool) -> list[dict[str, Any]]:
    """One row a job and kind of permutation, with the errors of all seeds."""
    rows = []
    for name in JOBS:
        for permutation in PERMUTATIONS:
            settings = ["--method", "acdc", "--set", f"depth={DEPTH}", "--set", f"permutation={permutation}"]
            errors = [
                test_error(name, settings, epochs=epochs, seed=seed, quick=quick)
                for seed in range(first_seed, first_seed + seeds)
            ]
            rows.append({"job": name, "permutation": permutation, "errors": errors, "mean": statistics.mean(errors)})
            print(line(rows[-1]), file=sys.stderr, flush=True)
    return rows


def line(row: dict[str, Any]) -> str:
    """A row as it is printed."""
    errors = ", ".join(f"{error:.2%}" for error in row["errors"])
    return f"{row['job']:24} {row['permutation']:7} {row['mean']:.3%} error ({errors})"


def main() -> int:
    """Measure, print, keep; the exit status."""
    options = parser(__doc__, quick="a tenth of the images, one seed, one epoch; nothing kept")
    options.add_argument("--seeds", type=int, default=3, help="how many, from --seed on")
    options.add_argument("--epochs", type=int, default=3)
    chosen = options.parse_args()
    seeds, epochs = (1, 1) if chosen.quick else (chosen.seeds, chosen.epochs)
    rows = measure(seeds, epochs, chosen.seed, chosen.quick)
    result = {**facts(chosen.seed), "depth": DEPTH, "epochs": epochs, "rows": rows}
    show(result, map(line, rows), as_json=chosen.json)
    if not chosen.quick:
        keep("permutation", result)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
