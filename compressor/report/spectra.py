"""For each layer, error against parameters: the curve of the best maps of low rank, and where the methods stand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from compressor.report.table import plain
from compressor.report.units import count_text
from compressor.report.value import LayerRow, Report

WIDTH, HEIGHT = 420, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 90, 12, 34
_MOST_LAYERS = 12  # the largest


@dataclass(frozen=True)
class Point:
    """One method's place: its centre, and what it is called."""

    x: float
    y: float
    label: str
    said: str


@dataclass(frozen=True)
class Spectrum:
    """One layer's drawing: the low-rank curve as the points of a polyline, the methods, the ticks of both axes."""

    title: str
    curve: str
    points: tuple[Point, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    said: str


def spectra(report: Report) -> list[Spectrum]:
    """A drawing for each layer whose spectrum is known, the largest first."""
    known = [row for row in report.layers if row.low_rank]
    known.sort(key=lambda row: -row.params_before)
    return [_spectrum(row) for row in known[:_MOST_LAYERS]]


def _spectrum(row: LayerRow) -> Spectrum:
    both, bias = row.in_features + row.out_features, row.params_before - row.in_features * row.out_features
    curve = [(rank * both + bias, error) for rank, error in row.low_rank]
    counts = [params for params, _ in curve] + [stand.params for stand in row.stands]
    low, high = math.log10(min(counts)), math.log10(max(max(counts), 10 * min(counts)))

    def place(params: int, error: float) -> tuple[float, float]:
        share = (math.log10(params) - low) / (high - low)
        inner = HEIGHT - _TOP - _BOTTOM
        return round(_LEFT + share * (WIDTH - _LEFT - _RIGHT), 1), round(_TOP + inner * (1 - min(error, 1.0)), 1)

    points = tuple(
        Point(*place(stand.params, stand.error), plain(stand.method), _said(stand.method, stand.params, stand.error))
        for stand in row.stands
    )
    decades = range(math.ceil(low), math.floor(high) + 1)
    return Spectrum(
        title=plain(row.name),
        curve=" ".join(f"{x},{y}" for x, y in (place(*pair) for pair in curve)),
        points=points,
        x_ticks=tuple((place(10**n, 0)[0], count_text(10**n)) for n in decades),
        y_ticks=tuple((place(counts[0], n / 4)[1], f"{n / 4:.2f}") for n in range(5)),
        said=_listed(row, curve),
    )


def _said(method: str, params: int, error: float) -> str:
    return f"{plain(method)}: {params:,} parameters, error {error:.3f}"


def _listed(row: LayerRow, curve: Sequence[tuple[int, float]]) -> str:
    ends = (curve[0], curve[-1])
    low_rank = ", ".join(f"{error:.3f} at {params:,} parameters" for params, error in ends)
    stands = [_said(stand.method, stand.params, stand.error) for stand in row.stands]
    return "; ".join([f"the best maps of low rank err {low_rank}", *stands])
