"""What one figure is beside another: the ratio in words, and whether it is worse. All pages judge by this alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from compressor.report.value import LatencyRow, Side

Tone = Literal["", "good", "bad", "unsure"]
OVERLAP = "(overlap)"  # beside a latency whose span touches the original's: the sign could be chance
OVERLAP_SAID = f"{OVERLAP}: the spans overlap, the difference may be chance"


@dataclass(frozen=True)
class Change:
    """``text`` for the table; ``mark`` is the one word that a worse figure carries ("slower", "larger", "worse").

    ``tone`` is how it is coloured; "unsure" where the spreads overlap, so that the sign could be chance.
    """

    text: str = ""
    mark: str = ""
    tone: Tone = ""


def times(ratio: float) -> str:
    """A ratio over 1 with three figures: ``20.0×``, ``1.25×``, ``1,234×``."""
    if not math.isfinite(ratio):
        return "∞×"
    digits = 2 if ratio < 9.995 else 1 if ratio < 99.95 else 0
    return f"{ratio:,.{digits}f}×"


def count_change(before: float | None, after: float | None, less: str = "fewer", more: str = "more") -> Change:
    """Parameters, multiply-adds or bytes: any growth is marked "larger"."""
    if before is None or after is None:
        return Change()
    if after == before:
        return Change("same")
    if after < before:
        return Change(f"{times(before / after if after else math.inf)} {less}", "", "good")
    return Change(f"{times(after / before if before else math.inf)} {more}", "larger", "bad")


def latency_change(before: LatencyRow | None, after: LatencyRow | None) -> Change:
    """A higher median is marked "slower", always; where the spans p10 to p90 overlap, that is said beside it."""
    if before is None or after is None:
        return Change()
    if after.median == before.median:
        return Change("same")
    overlap = after.p10 <= before.p90 and before.p10 <= after.p90
    said = f" {OVERLAP}" if overlap else ""
    if after.median < before.median:
        ratio = before.median / after.median if after.median else math.inf
        return Change(f"{times(ratio)} faster{said}", "", "" if overlap else "good")
    ratio = after.median / before.median if before.median else math.inf
    return Change(f"{times(ratio)} slower{said}", "slower", "unsure" if overlap else "bad")


def quality_change(before: Side, after: Side) -> Change:
    """The metric's difference, where both were judged by the same one; a lower quality is marked "worse"."""
    if before.value is None or after.value is None or before.metric != after.metric:
        return Change()
    difference = after.value - before.value
    if before.accuracy is not None and after.accuracy is not None:
        text = f"{signed(difference * 100, '.2f')} points"
    else:
        text = signed(difference, ".3g")
    if math.isnan(difference):
        return Change("not a number", "worse", "bad")
    if difference == 0:
        return Change("same")
    if after.higher_is_better is None:
        return Change(text)
    better = (difference > 0) == after.higher_is_better
    return Change(text, "", "good") if better else Change(f"{text}, worse", "worse", "bad")


def signed(value: float, form: str) -> str:
    """``value`` with its sign, a real minus, and no sign where it is printed as zero."""
    text = format(abs(value), form)
    if not any(digit in "123456789" for digit in text) and math.isfinite(value):
        return text
    return ("−" if value < 0 else "+") + text
