"""The rows of a comparison of methods, out of the report of the command that made it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from compressor.candidate import NATIVE
from compressor.report import Report, Side


def sides(report: Report, *, original: str = "original") -> Iterator[tuple[str, Side, str]]:
    """Name, figures and note of every network: the original under the name given, the first method's, the others'."""
    yield original, report.before, ""
    yield report.method, report.after, "; ".join(note for note in report.notes if "entropy-coded" in note)
    for baseline in report.baselines:
        yield baseline.name, baseline.side, baseline.note


def row(name: str, side: Side) -> dict[str, Any]:
    """What every comparison keeps of one network: counts, sizes, the median latency of one example."""
    return {
        "name": name,
        "dense_params": side.dense_params,
        "params": side.params,
        "macs": side.macs,
        "safetensors_bytes": side.size_bytes.get("model.safetensors"),
        "onnx_bytes": side.size_bytes.get("model.onnx"),
        "latency_ms": side.latency_ms["onnxruntime"]["1"].median,
        "native_ms": native_ms(side),
    }


def native_ms(side: Side) -> float | None:
    """The median latency of one example in onnxruntime on the native kernels, where that was measured."""
    return side.latency_ms[NATIVE]["1"].median if NATIVE in side.latency_ms else None
