"""What a compression did, measured: a value, its terminal tables, JSON, a model card section, an HTML page."""

from __future__ import annotations

from pathlib import Path

from compressor.report.text import render_text
from compressor.report.value import (
    FILE,
    Baseline,
    Check,
    Fidelity,
    LatencyRow,
    LayerRow,
    Report,
    Side,
    Stand,
    read_report,
)

__all__ = [
    "Baseline",
    "Check",
    "Fidelity",
    "LatencyRow",
    "LayerRow",
    "Report",
    "Side",
    "Stand",
    "read_report",
    "render_text",
    "write_reports",
]


def write_reports(report: Report, folder: Path) -> None:
    """Write report.json, report.md and report.html into ``folder``."""
    from compressor.report.html import render_html
    from compressor.report.markdown import render_markdown

    texts = {FILE: report.to_json(), "report.md": render_markdown(report), "report.html": render_html(report)}
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")
