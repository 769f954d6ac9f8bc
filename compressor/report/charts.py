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
LABEL = 250  # where the bars begin
_ROOM = 130  # right of the longest bar, for its figure
_FULL = WIDTH - LABEL - _ROOM
_LEAST = 2.5  # the shortest bar that can be seen
_MOST_LAYERS = 30  # those with more parameters each have their bar, the others share one
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
    """Parameters by layer, linear from 0."""

    rows: tuple[LayerBars, ...]
    height: float
    said: str


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
    """Latency of all networks for one runtime and batch size, linear from 0; ``ticks`` are (x, figure)."""

    title: str
    rows: tuple[Span, ...]
    ticks: tuple[tuple[float, str], ...]
    height: float
    said: str


def parameter_chart(report: Report) -> BarChart | None:
    """Parameters of each layer before and after; None without layers."""
    shown, rest = _largest(report.layers)
    counts = [(row.name, row.params_before, row.params_after, row.method is None) for row in shown]
    if rest:
        before, after = sum(row.params_before for row in rest), sum(row.params_after for row in rest)
        counts.append((f"{len(rest)} smaller ones together", before, after, all(row.method is None for row in rest)))
    longest = max((max(before, after) for _, before, after, _ in counts), default=0)
    if not longest:
        return None
    rows = []
    for number, (name, before, after, kept) in enumerate(counts):
        top = 8.0 + 44 * number
        first, second = (Bar(top + 18 * n, _length(c, longest), f"{c:,}") for n, c in enumerate((before, after)))
        rows.append(LayerBars(plain(name), _short(plain(name)), top, first, second, kept))
    said = "; ".join(f"{row.name}: {row.before.figure} before, {row.after.figure} after" for row in rows)
    return BarChart(tuple(rows), 8 + 44 * len(rows), said)


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
    spans = []
    for number, (name, row) in enumerate(rows):
        left, middle, right = (LABEL + _FULL * value / end for value in (row.p10, row.median, row.p90))
        change = latency_change(reference, row)
        figure = f"{ms_text(row.median)} ms" + (f", {change.mark}" if change.mark else "")
        name = plain(name)
        spans.append(Span(name, _short(name), 22.0 + 30 * number, left, middle, right, figure, change.tone))
    said = "; ".join(f"{plain(name)}: {range_text(row)} ms" for name, row in rows)
    return SpanChart(title, tuple(spans), _ticks(end), 30 * len(rows) + 40, said)


def _ticks(end: float) -> tuple[tuple[float, str], ...]:
    """Round figures from 0 to ``end``, four or five of them."""
    step = 10 ** math.floor(math.log10(end / 4))
    step *= next(factor for factor in (1, 2, 2.5, 5, 10) if end / (step * factor) <= 5)
    count = math.floor(end / step + 1e-9)
    return tuple((LABEL + _FULL * n * step / end, "0" if n == 0 else f"{n * step:,.6g}") for n in range(count + 1))


def _largest(layers: Sequence[LayerRow]) -> tuple[list[LayerRow], list[LayerRow]]:
    """The layers that get a bar of their own, in the model's order, and the others."""
    if len(layers) <= _MOST_LAYERS:
        return list(layers), []
    order = sorted(range(len(layers)), key=lambda n: (-layers[n].params_before, n))
    kept = set(order[: _MOST_LAYERS - 1])
    return [row for n, row in enumerate(layers) if n in kept], [row for n, row in enumerate(layers) if n not in kept]


def _length(count: int, longest: int) -> float:
    return max(_LEAST, _FULL * count / longest) if count else 0.0


def _short(name: str) -> str:
    """The end of a long name, which tells layers apart; the whole stands in the drawing's titles."""
    return name if len(name) <= _MOST_CHARACTERS else "…" + name[1 - _MOST_CHARACTERS :]
