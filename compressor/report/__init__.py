"""What a compression did, measured: a value, its terminal tables, JSON, a model card section, an HTML page."""

from __future__ import annotations

from compressor.report.text import render_text
from compressor.report.value import Baseline, Check, Fidelity, LatencyRow, LayerRow, Report, Side, read_report

__all__ = [
    "Baseline",
    "Check",
    "Fidelity",
    "LatencyRow",
    "LayerRow",
    "Report",
    "Side",
    "read_report",
    "render_text",
]
