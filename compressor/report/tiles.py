"""The few figures in large print at the head of the HTML page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from compressor.report.content import COUNTS
from compressor.report.marks import Change, Tone, count_change, latency_change, quality_change
from compressor.report.table import plain
from compressor.report.units import NONE, bytes_text, count_text, ms_text, quality_text
from compressor.report.value import Report


@dataclass(frozen=True)
class Tile:
    """A figure in large print, what it is, and what it is beside the original's."""

    name: str
    figure: str
    change: Change = field(default_factory=Change)
    figure_is_change: bool = False

    @property
    def tone(self) -> Tone:
        """How the change is coloured."""
        return self.change.tone

    @property
    def beside(self) -> str:
        """The change, where the figure is not the change itself."""
        return "" if self.figure_is_change else self.change.text


def tiles(report: Report) -> list[Tile]:
    """The few figures for the head of a page."""
    before, after = report.before, report.after
    found = [_counted(name, of(before), of(after), count_text, "fewer", "more") for name, of in COUNTS[:2]]
    name = next(iter(after.size_bytes), "")
    sizes = before.size_bytes.get(name), after.size_bytes.get(name)
    found.append(_counted(plain(name), *sizes, bytes_text, "smaller", "larger"))
    if after.value is not None:
        was = NONE if before.value is None else f"original {quality_text(before)}"
        found.append(
            Tile(f"{plain(after.metric or 'quality')}, {was}", quality_text(after), quality_change(before, after))
        )
    elif after.fidelity is not None:
        agreement, error = after.fidelity.agreement, after.fidelity.relative_error
        if agreement is None:
            found.append(Tile("relative error against the original", f"{error:.3g}"))
        else:
            found.append(Tile("same answers as the original", f"{agreement:.2%}"))
    runtime = "onnxruntime"
    old, new = before.latency_ms.get(runtime, {}).get("1"), after.latency_ms.get(runtime, {}).get("1")
    change = latency_change(old, new)
    if old is not None and new is not None:
        name = f"{runtime}, batch 1: {ms_text(old.median)} → {ms_text(new.median)} ms"
        found.append(Tile(name, change.text, change, figure_is_change=True))
    return [tile for tile in found if tile is not None]


def _counted(
    name: str, before: int | None, after: int | None, show: Callable[[int | None], str], less: str, more: str
) -> Tile | None:
    if before is None or after is None:
        return None
    change = count_change(before, after, less, more)
    return Tile(f"{name}: {show(before)} → {show(after)}", change.text, change, figure_is_change=True)
