"""The few figures in large print at the head of the HTML page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from compressor.report.content import COUNTS
from compressor.report.marks import OVERLAP, Change, Tone, count_change, latency_change, quality_change
from compressor.report.table import plain
from compressor.report.units import bytes_text, count_text, ms_text, quality_text
from compressor.report.value import Report

_RUNTIME, _BATCH = "onnxruntime", "1"  # what a user waits for: one input, the file that runs elsewhere


@dataclass(frozen=True)
class Tile:
    """``large`` is the figure, ``beside`` what belongs to it, in smaller print, coloured by ``tone``.

    ``name`` says what was measured, ``figures`` what it was and is.
    """

    large: str
    name: str
    figures: str = ""
    beside: str = ""
    tone: Tone = ""
    is_change: bool = False  # the large figure is the change itself: coloured too


def tiles(report: Report) -> list[Tile]:
    """The figures that were measured, at most five."""
    before, after = report.before, report.after
    file = next(iter(after.size_bytes), "")
    sizes = before.size_bytes.get(file), after.size_bytes.get(file)
    found = [
        *(_counted(name, of(before), of(after), count_text, "fewer", "more") for name, of in COUNTS[:2]),
        _counted(plain(file), *sizes, bytes_text, "smaller", "larger"),
        _quality(report),
        _latency(report),
    ]
    return [tile for tile in found if tile is not None]


def _counted(
    name: str, before: int | None, after: int | None, show: Callable[[int | None], str], less: str, more: str
) -> Tile | None:
    change = count_change(before, after, less, more)
    return _changed(change, name, f"{show(before)} → {show(after)}")


def _quality(report: Report) -> Tile | None:
    before, after = report.before, report.after
    if after.value is not None:
        change = quality_change(before, after)
        figures = "" if before.value is None else f"original {quality_text(before)}"
        return Tile(quality_text(after), plain(after.metric or "quality"), figures, change.text, change.tone)
    if after.fidelity is None:
        return None
    examples = f"on {after.fidelity.examples:,} examples"
    if after.fidelity.agreement is None:
        return Tile(f"{after.fidelity.relative_error:.3g}", "relative error against the original", examples)
    return Tile(f"{after.fidelity.agreement:.2%}", "same answers as the original", examples)


def _latency(report: Report) -> Tile | None:
    old, new = (side.latency_ms.get(_RUNTIME, {}).get(_BATCH) for side in (report.before, report.after))
    if old is None or new is None:
        return None
    figures = f"{ms_text(old.median)} → {ms_text(new.median)} ms"
    return _changed(latency_change(old, new), f"{_RUNTIME}, batch {_BATCH}", figures)


def _changed(change: Change, name: str, figures: str) -> Tile | None:
    """A tile whose large figure is the change itself."""
    if not change.text:
        return None
    large = change.text.removesuffix(f" {OVERLAP}")
    return Tile(large, name, figures, "spans overlap" if large != change.text else "", change.tone, True)
