"""The report for a terminal: tables that are whole at 100 columns, lists where it is narrower, plain text in a pipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table as RichTable
from rich.text import Text

from compressor.report.content import content
from compressor.report.marks import Tone
from compressor.report.table import Table
from compressor.report.value import Report

_STYLES: dict[Tone, str] = {"": "", "good": "green", "bad": "red", "unsure": "yellow"}
_GAP = 2  # columns between two columns of a table
_NARROW = 12  # a column of words is at least this wide, or the table becomes a list
_NAME = 26  # what the first column gets before the last column wraps


def render_text(report: Report) -> RenderableType:
    """All of ``report``, what matters most last, where a terminal stops; every colour only repeats what a word says."""
    said = content(report)
    results, details = [*said.tables[:1], *said.tables[2:]], said.tables[1:2]
    parts: list[RenderableType] = [Text.assemble((said.title, "bold"), f"  {said.status}")]
    parts += [part for table in details for part in (Text(), TableText(table))]
    parts += [Text(), *(_item("verified", line) for line in said.verification)]
    parts += [_item("note", line) for line in said.notes]
    parts += [_item(name, line) for name, line in said.facts]
    parts += [part for table in results for part in (Text(), TableText(table))]
    return Group(*parts, Text(), Text(said.headline, style="bold"))


@dataclass(frozen=True)
class TableText:
    """One table with its title above and its note below. Words wrap; a figure is never cut."""

    table: Table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Lay it out for the width that there is."""
        yield Text(self.table.title, style="bold")
        widths = _widths(self.table, options.max_width)
        yield from _list(self.table) if widths is None else [_grid(self.table, widths)]
        if self.table.note:
            yield Text(self.table.note, style="dim")


def _widths(table: Table, total: int) -> list[int] | None:
    """The width of each column, the figures' first; None where the words get too little of ``total``."""
    natural = [
        max([_heading(name, number in table.texts), *(cell_len(row[number].text) for row in table.rows)])
        for number, name in enumerate(table.columns)
    ]
    words = sorted(table.texts)
    left = total - _GAP * (len(natural) - 1) - sum(w for n, w in enumerate(natural) if n not in table.texts)
    least = {number: min(natural[number], _NARROW) for number in words}
    if sum(least.values()) > left:
        return None
    spare = left - sum(least.values())
    for limit in (_NAME, total):  # first every column up to a name's width, then the rest in their order
        for number in words:
            more = min(max(min(natural[number], limit) - least[number], 0), spare)
            least[number] += more
            spare -= more
    return [least.get(number, width) for number, width in enumerate(natural)]


def _heading(name: str, words: bool) -> int:
    return cell_len(name) if words else max((cell_len(word) for word in name.split()), default=0)


def _grid(table: Table, widths: Sequence[int]) -> RichTable:
    shown = RichTable(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False)
    for number, (name, width) in enumerate(zip(table.columns, widths, strict=True)):
        words = number in table.texts
        shown.add_column(Text(name), justify="left" if words else "right", overflow="fold", width=width)
    for row in table.rows:
        shown.add_row(*(Text(cell.text, style=_STYLES[cell.tone]) for cell in row))
    return shown


def _list(table: Table) -> list[Text]:
    """For a terminal too narrow for the table: each row as lines of its own."""
    lines = []
    for row in table.rows:
        lines.append(Text(row[0].text, style="bold", overflow="fold"))
        for name, cell in zip(table.columns[1:], row[1:], strict=True):
            if cell.text:
                lines.append(Text.assemble(f"  {name}: ", (cell.text, _STYLES[cell.tone]), overflow="fold"))
    return lines


def _item(name: str, text: str) -> RenderableType:
    grid = RichTable.grid(padding=(0, 1))
    grid.add_column(min_width=9, style="dim")
    grid.add_column(overflow="fold")
    grid.add_row(Text(name), Text(text))
    return grid
