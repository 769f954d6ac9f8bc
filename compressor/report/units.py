"""Figures with their units, the same on every page."""

from __future__ import annotations

from compressor.report.value import LatencyRow, Side

NONE = "–"


def count_text(count: int | None) -> str:
    """All digits, in groups of three."""
    return NONE if count is None else f"{count:,}"


def bytes_text(size: int | None) -> str:
    """Decimal units, three figures."""
    if size is None:
        return NONE
    if size < 1000:
        return f"{size} B"
    scaled = float(size)
    for unit in ("kB", "MB", "GB"):
        scaled /= 1000
        if scaled < 999.5 or unit == "GB":
            break
    return f"{three_figures(scaled)} {unit}"


def three_figures(value: float) -> str:
    """At least three figures, never an exponent, down to a ten-thousandth."""
    if value >= 99.95:
        return f"{value:,.0f}"
    if value >= 9.995:
        return f"{value:.1f}"
    if value >= 0.9995:
        return f"{value:.2f}"
    return f"{value:.3f}" if value >= 0.09995 else f"{value:.4f}"


def ms_text(value: float) -> str:
    """Milliseconds without their unit."""
    return three_figures(value)


def range_text(row: LatencyRow | None) -> str:
    """Median and span, in ms."""
    return NONE if row is None else f"{ms_text(row.median)} ({ms_text(row.p10)} – {ms_text(row.p90)})"


def quality_text(side: Side) -> str:
    """The metric's value (accuracy in per cent), or the agreement with the original; a dash where neither is known."""
    if side.accuracy is not None:
        return f"{side.accuracy:.2%}"
    if side.value is not None:
        return f"{side.value:.4g}"
    if side.fidelity is None:
        return NONE
    error = f"relative error {side.fidelity.relative_error:.3g}"
    if side.fidelity.agreement is None:
        return error
    return f"{side.fidelity.agreement:.2%} same answers, {error}"


def seconds_text(seconds: float) -> str:
    """``12.3 s``, ``4 min 05 s``, ``2 h 03 min``."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
