"""The report for a terminal: rich tables that are whole at 100 columns and plain text in a pipe."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from compressor.report.content import content
from compressor.report.marks import Tone
from compressor.report.table import Table
from compressor.report.value import Report

_STYLES: dict[Tone, str] = {"": "", "good": "green", "bad": "red", "unsure": "yellow"}


def render_text(report: Report) -> RenderableType:
    """All of ``report``; every colour only repeats what a word says."""
    said = content(report)
    parts: list[RenderableType] = [
        Text.assemble((said.title, "bold"), f"  {said.status}"),
        Text(said.headline),
        *(part for table in said.tables for part in (Text(), render_table(table))),
        Text(),
    ]
    parts += [_item("verified", line) for line in said.verification]
    parts += [_item("note", line) for line in said.notes]
    parts += [_item(name, line) for name, line in said.facts]
    return Group(*parts)


def render_table(table: Table) -> RenderableType:
    """One table with its title above and its note below; figures are never cut, words wrap."""
    shown = RichTable(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False, pad_edge=False)
    for number, name in enumerate(table.columns):
        words = number in table.texts
        shown.add_column(
            Text(name), justify="left" if words else "right", overflow="fold", no_wrap=not words and " " not in name,
            min_width=None if words else max((len(row[number].text) for row in table.rows), default=0),
        )  # fmt: skip
    for row in table.rows:
        shown.add_row(*(Text(cell.text, style=_STYLES[cell.tone]) for cell in row))
    return Group(Text(table.title, style="bold"), shown, *([Text(table.note, style="dim")] if table.note else []))


def _item(name: str, text: str) -> RenderableType:
    grid = RichTable.grid(padding=(0, 1))
    grid.add_column(min_width=9, style="dim")
    grid.add_column(overflow="fold")
    grid.add_row(Text(name), Text(text))
    return grid
