"""What every benchmark has beside its figures: its options, the machine, the versions, where results are kept."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from compressor.case import processor

RESULTS = Path(__file__).resolve().parent / "results"
_PACKAGES = ("torch", "onnx", "onnxruntime", "numpy")


def parser(description: str | None, *, quick: str, seed: str | None = None) -> argparse.ArgumentParser:
    """The options that every benchmark takes; ``quick`` and ``seed`` say what these two do."""
    options = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true", help=quick)
    options.add_argument("--json", action="store_true", help="print the result as JSON")
    options.add_argument("--seed", type=int, default=0, help=seed)
    return options


def show(result: dict[str, Any], lines: Iterable[str], *, as_json: bool) -> None:
    """Print ``result``, as JSON or as ``lines``."""
    print(json.dumps(result, indent=2) if as_json else "\n".join(lines))


def pyplot() -> Any:
    """``matplotlib.pyplot`` that draws without a screen; None where it is not installed, which is said."""
    try:
        import matplotlib
    except ImportError:
        print("no figure: matplotlib is not installed (extra 'plots')", file=sys.stderr)
        return None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def facts(seed: int) -> dict[str, Any]:
    """Machine, versions and seed."""
    versions = {name: version(name) for name in _PACKAGES}
    return {
        "machine": {"processor": processor(), "cores": os.cpu_count()},
        "versions": {"python": platform.python_version(), **versions},
        "seed": seed,
    }


def keep(name: str, result: dict[str, Any]) -> Path:
    """Write ``result`` to ``benchmarks/results/NAME.json``."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return path
