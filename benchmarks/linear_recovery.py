"""Linear recovery: how well a cascade of K ACDC layers learns a dense 32x32 map, for both initialisations.

Moczulski 2019, figure 3.4 (METHODS 3): X 10,000x32 and W 32x32 uniform in [0, 1], noise of variance 1e-4; diagonals
start at N(1, 1e-2), which trains at every depth, or at N(0, 1e-3), which does not. Writes
``benchmarks/results/linear_recovery.json`` and, with matplotlib, ``linear_recovery.png`` beside it.
"""

from __future__ import annotations

import itertools
import statistics
import sys
import time
from typing import Any

import torch
from facts import RESULTS, facts, keep, parser, pyplot, show

from compressor.layers import method

N = 32
ROWS = 10_000
DEPTHS = (1, 2, 4, 8, 16, 32)
STARTS = {"N(1, 1e-2)": (1.0, 1e-1), "N(0, 1e-3)": (0.0, 1e-3**0.5)}  # mean and standard deviation of a and d


def problem(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """``X (10000, 32)`` and ``Y = X W + noise``."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(ROWS, N, generator=generator)
    w = torch.rand(N, N, generator=generator)
    return x, x @ w + 1e-2 * torch.randn(ROWS, N, generator=generator)


def dense_loss(x: torch.Tensor, y: torch.Tensor) -> float:
    """Mean squared error of the dense map that fits best."""
    return float((x @ torch.linalg.lstsq(x, y).solution - y).square().mean())


def learn(
    x: torch.Tensor, y: torch.Tensor, depth: int, start: tuple[float, float], seed: int, evaluations: int
) -> float:
    """Train a cascade by L-BFGS on the loss of all rows; the mean squared error at the end.

    The loss of all rows is taken exactly on the N rows of the Cholesky factor of ``XᵀX / rows``: the squared
    distance to the least-squares map there, and what that map leaves.
    """
    layer = method("acdc").layer(N, N, bias=False, depth=depth, permutation="none", size=N)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(*start, generator=generator)
    rows = torch.linalg.cholesky((x.T @ x / len(x)).double()).T.float()
    aim = rows @ torch.linalg.lstsq(x, y).solution
    optimizer = torch.optim.LBFGS(
        layer.parameters(), max_iter=evaluations, max_eval=evaluations, history_size=20,
        line_search_fn="strong_wolfe", tolerance_grad=1e-12, tolerance_change=1e-14,
    )  # fmt: skip

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (layer(rows) - aim).square().sum() / N
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        return float((layer(x) - y).square().mean())


def draw(result: dict[str, Any]) -> None:
    """The figure: loss against K, both initialisations, the dense map as a line."""
    plt = pyplot()
    if plt is None:
        return
    figure, axes = plt.subplots(figsize=(6, 4))
    for name, rows in result["loss"].items():
        middle = [statistics.median(rows[str(depth)]) for depth in result["depths"]]
        low = [min(rows[str(depth)]) for depth in result["depths"]]
        high = [max(rows[str(depth)]) for depth in result["depths"]]
        axes.plot(result["depths"], middle, marker="o", label=f"a, d ~ {name}")
        axes.fill_between(result["depths"], low, high, alpha=0.2)
    axes.axhline(result["dense"], color="black", linestyle="--", label="dense")
    axes.set(xscale="log", yscale="log", xlabel="K", ylabel="mean squared error", title="ACDC: recovery of a 32x32 map")
    axes.set_xticks(result["depths"], [str(depth) for depth in result["depths"]])
    axes.legend()
    figure.tight_layout()
    figure.savefig(RESULTS / "linear_recovery.png", dpi=120, metadata={"Software": None})


def main() -> int:
    """Measure, print, keep; 1 when the good start does not fall to K = 16 or the bad one does."""
    options = parser(__doc__, quick="one seed and few evaluations; nothing is judged or kept").parse_args()
    torch.set_num_threads(1)
    started = time.monotonic()
    seeds = [options.seed] if options.quick else [options.seed + i for i in range(3)]
    evaluations = 100 if options.quick else 4000
    x, y = problem(options.seed)
    loss: dict[str, dict[str, list[float]]] = {}
    for name, start in STARTS.items():
        for depth in DEPTHS:
            loss.setdefault(name, {})[str(depth)] = [learn(x, y, depth, start, seed, evaluations) for seed in seeds]
            print(f"a, d ~ {name}, K = {depth}: {statistics.median(loss[name][str(depth)]):.5f}", file=sys.stderr)
    result = {
        **facts(options.seed),
        "depths": list(DEPTHS),
        "dense": dense_loss(x, y),
        "loss": loss,
        "evaluations": evaluations,
    }
    result["wall_time_s"] = time.monotonic() - started
    middle = {name: [statistics.median(rows[str(depth)]) for depth in DEPTHS] for name, rows in loss.items()}
    lines = ["K   " + "".join(f"{name:>14}" for name in middle) + f"{'dense':>14}"]
    for i, depth in enumerate(DEPTHS):
        values = "".join(f"{rows[i]:14.5f}" for rows in middle.values())
        lines.append(f"{depth:<4}{values}{result['dense']:14.5f}")
    show(result, lines, as_json=options.json)
    if options.quick:
        return 0
    keep("linear_recovery", result)
    draw(result)
    good, bad = (middle[name][: DEPTHS.index(16) + 1] for name in STARTS)
    falls = all(later < earlier for earlier, later in itertools.pairwise(good))
    holds = falls and not all(later < earlier for earlier, later in itertools.pairwise(bad))
    print("ok  " if holds else "FAIL", "a good start falls steadily to K = 16, a bad one does not", file=sys.stderr)
    return 0 if holds else 1


if __name__ == "__main__":
    raise SystemExit(main())
