"""A table as a value: cells with the mark that a worse figure carries."""

from __future__ import annotations

from dataclasses import dataclass

from compressor.report.marks import Change, Tone


@dataclass(frozen=True)
class Cell:
    """Text, and how it is coloured where there is colour; the text alone says it all."""

    text: str
    tone: Tone = ""

    @classmethod
    def of(cls, change: Change) -> Cell:
        """The cell of a change."""
        return cls(change.text, change.tone)


@dataclass(frozen=True)
class Table:
    """``texts`` are the columns set to the left; the others are figures, set to the right."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    texts: frozenset[int] = frozenset({0})
    note: str = ""


def plain(value: object) -> str:
    """``value`` on one line, with what is not printable (an escape sequence in a layer's name) shown as its code."""
    text = " ".join(str(value).split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
