"""The two charts of the HTML page, as the places and lengths of their marks; the template draws them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from compressor.report.compare import rows_of
from compressor.report.marks import Tone, latency_change
from compressor.report.table import plain
from compressor.report.units import ms_text, range_text
from compressor.report.value import LatencyRow, LayerRow, Report

WIDTH = 860
_ROOM = 150  # right of the longest bar, for its figure
_CHARACTER = 7.4  # about the width of one
_LEAST = 2.5  # the shortest bar that can be seen
_MOST_LAYERS = 30  # the largest; a line below says what the others have together
_MOST_CHARACTERS = 34


@dataclass(frozen=True)
class Bar:
    """One bar with its figure: ``y`` of its top, ``length``, both in units of the drawing."""

    y: float
    length: float
    figure: str


@dataclass(frozen=True)
class LayerBars:
    """A layer's name and its two bars; ``after`` is of another colour where the layer was kept."""

    name: str
    label: str
    y: float
    before: Bar
    after: Bar
    kept: bool


@dataclass(frozen=True)
class BarChart:
    """Parameters by layer, linear from 0; the bars begin at ``left``. ``rest`` says what has no bar, if anything."""

    rows: tuple[LayerBars, ...]
    left: float
    height: float
    said: str
    rest: str


@dataclass(frozen=True)
class Span:
    """One network's latency: from ``left`` to ``right``, the median at ``middle``."""

    name: str
    label: str
    y: float
    left: float
    middle: float
    right: float
    figure: str
    tone: Tone


@dataclass(frozen=True)
class SpanChart:
    """Latency of all networks for one runtime and batch size, linear from 0 at ``left``; ``ticks`` are (x, figure)."""

    title: str
    rows: tuple[Span, ...]
    left: float
    ticks: tuple[tuple[float, str], ...]
    height: float
    said: str


def parameter_chart(report: Report) -> BarChart | None:
    """Parameters of each layer before and after; None without layers."""
    shown, rest = _largest(report.layers)
    counts = [(row.name, row.params_before, row.params_after, row.method is None) for row in shown]
    longest = max((max(before, after) for _, before, after, _ in counts), default=0)
    if not longest:
        return None
    left = _left([name for name, *_ in counts])
    rows = []
    for number, (name, before, after, kept) in enumerate(counts):
        top = 8.0 + 44 * number
        first, second = (Bar(top + 18 * n, _length(c, longest, left), f"{c:,}") for n, c in enumerate((before, after)))
        rows.append(LayerBars(plain(name), _short(plain(name)), top, first, second, kept))
    said = "; ".join(f"{row.name}: {row.before.figure} before, {row.after.figure} after" for row in rows)
    return BarChart(tuple(rows), left, 8 + 44 * len(rows), said, _rest(rest))


def latency_charts(report: Report) -> list[SpanChart]:
    """One chart for each runtime and batch size that was timed."""
    reference = report.before.latency_ms
    timed: dict[tuple[str, str], list[tuple[str, LatencyRow]]] = {}
    for network in rows_of(report):
        for runtime, batches in network.side.latency_ms.items():
            for batch, row in batches.items():
                timed.setdefault((runtime, batch), []).append((network.name, row))
    return [
        _span_chart(f"{plain(runtime)}, batch {plain(batch)}", rows, reference.get(runtime, {}).get(batch))
        for (runtime, batch), rows in timed.items()
    ]


def _span_chart(title: str, rows: Sequence[tuple[str, LatencyRow]], reference: LatencyRow | None) -> SpanChart:
    end = max(row.p90 for _, row in rows) or 1.0
    start = _left([name for name, _ in rows])
    full = WIDTH - start - _ROOM
    spans = []
    for number, (name, row) in enumerate(rows):
        left, middle, right = (start + full * value / end for value in (row.p10, row.median, row.p90))
        change = latency_change(reference, row)
        figure = f"{ms_text(row.median)} ms" + (f", {change.mark}" if change.mark else "")
        name = plain(name)
        spans.append(Span(name, _short(name), 22.0 + 30 * number, left, middle, right, figure, change.tone))
    said = "; ".join(f"{plain(name)}: {range_text(row)} ms" for name, row in rows)
    return SpanChart(title, tuple(spans), start, _ticks(end, start), 30 * len(rows) + 40, said)


def _ticks(end: float, start: float) -> tuple[tuple[float, str], ...]:
    """Round figures from 0 to ``end``, four or five of them."""
    step = 10 ** math.floor(math.log10(end / 4))
    step *= next(factor for factor in (1, 2, 2.5, 5, 10) if end / (step * factor) <= 5)
    count = math.floor(end / step + 1e-9)
    full = WIDTH - start - _ROOM
    return tuple((start + full * n * step / end, "0" if n == 0 else f"{n * step:,.6g}") for n in range(count + 1))


def _largest(layers: Sequence[LayerRow]) -> tuple[list[LayerRow], list[LayerRow]]:
    """The layers that get a bar of their own, in the model's order, and the others."""
    if len(layers) <= _MOST_LAYERS:
        return list(layers), []
    order = sorted(range(len(layers)), key=lambda n: (-layers[n].params_before, n))
    kept = set(order[:_MOST_LAYERS])
    return [row for n, row in enumerate(layers) if n in kept], [row for n, row in enumerate(layers) if n not in kept]


def _rest(rows: Sequence[LayerRow]) -> str:
    if not rows:
        return ""
    before, after = sum(row.params_before for row in rows), sum(row.params_after for row in rows)
    return f"the {len(rows):,} smaller layers, not drawn, together: {before:,} → {after:,}"


def _left(names: Sequence[str]) -> float:
    """Where the bars begin: right of the longest label."""
    return round(24 + _CHARACTER * max(len(_short(plain(name))) for name in names))


def _length(count: int, longest: int, left: float) -> float:
    return max(_LEAST, (WIDTH - left - _ROOM) * count / longest) if count else 0.0


def _short(name: str) -> str:
    """The end of a long name, which tells layers apart; the whole stands in the drawing's titles."""
    return name if len(name) <= _MOST_CHARACTERS else "…" + name[1 - _MOST_CHARACTERS :]
