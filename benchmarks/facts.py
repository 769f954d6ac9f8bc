"""What every benchmark says beside its figures: the machine, the versions, and where results are kept."""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from compressor.case import processor

RESULTS = Path(__file__).resolve().parent / "results"
_PACKAGES = ("torch", "onnx", "onnxruntime", "numpy")


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
