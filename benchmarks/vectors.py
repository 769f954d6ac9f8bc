"""What it costs to prune whole vectors of outputs: the demo's convnet by ``pruned`` at one density, block after block.

Writes ``benchmarks/results/vectors.json``. The image sets are the demo's; nothing is chosen by the test images.
"""

from __future__ import annotations

from typing import Any

from facts import facts, keep, parser, show
from jobs import JOBS, report

JOB = next(iter(JOBS))  # the demo's
BLOCKS = (1, 16)
DENSITY = 0.05


def row(block: int, epochs: int, seed: int, quick: bool) -> dict[str, Any]:
    """Test error and bytes of one run."""
    settings = ["--method", "pruned", "--set", f"density={DENSITY}", "--set", f"block={block}"]
    found = report(JOB, settings, epochs=epochs, seed=seed, quick=quick)
    size = found["after"]["size_bytes"]["model.safetensors"]
    errors = {when: 1 - found[when]["accuracy"] for when in ("before", "after")}
    return {"block": block, "seed": seed, "original": errors["before"], "error": errors["after"], "bytes": size}


def line(found: dict[str, Any]) -> str:
    """A row as it is printed."""
    return f"block {found['block']:3} seed {found['seed']}: {found['error']:.2%} error, {found['bytes']:,} bytes"


def main() -> int:
    """Measure, print, keep; the exit status."""
    options = parser(__doc__, quick="a tenth of the images, one epoch; nothing kept", seed="the first one")
    options.add_argument("--epochs", type=int, default=1)
    options.add_argument("--seeds", type=int, default=2, help="how many")
    chosen = options.parse_args()
    epochs = 1 if chosen.quick else chosen.epochs
    seeds = range(chosen.seed, chosen.seed + chosen.seeds)
    rows = [row(block, epochs, seed, chosen.quick) for seed in seeds for block in BLOCKS]
    result = {**facts(chosen.seed), "job": JOB, "density": DENSITY, "epochs": epochs, "rows": rows}
    show(result, map(line, rows), as_json=chosen.json)
    if not chosen.quick:
        keep("vectors", result)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
