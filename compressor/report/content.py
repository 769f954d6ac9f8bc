"""What the report says, as plain tables and sentences: text, Markdown and HTML only dress it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from compressor.report.compare import comparison, rows_of
from compressor.report.marks import OVERLAP, OVERLAP_SAID, count_change, latency_change, quality_change
from compressor.report.table import Cell, Table, plain
from compressor.report.units import NONE, bytes_text, count_text, quality_text, range_text, seconds_text
from compressor.report.value import LayerRow, Report, Side

COUNTS: tuple[tuple[str, Callable[[Side], int | None]], ...] = (
    ("parameters in dense layers", lambda side: side.dense_params),
    ("parameters", lambda side: side.params),
    ("MACs per example", lambda side: side.macs),
)


@dataclass(frozen=True)
class Content:
    """A report in the order it is read: sentences, tables, notes, and how it was made."""

    title: str
    status: str
    headline: str
    tables: tuple[Table, ...]
    verification: tuple[str, ...]
    notes: tuple[str, ...]
    facts: tuple[tuple[str, str], ...] = field(default=())


def content(report: Report) -> Content:
    """All of ``report`` in words and cells."""
    tables = [before_after(report), layers(report)]
    if report.baselines:
        tables.append(comparison(rows_of(report)))
    notes = [*report.notes, *(f"{row.name}: {row.note}" for row in report.baselines if row.note)]
    return Content(
        title=f"{plain(report.model)} → {plain(report.method)}",
        status=plain(report.status),
        headline=headline(report),
        tables=tuple(table for table in tables if table.rows),
        verification=tuple(verification(report)),
        notes=tuple(plain(note) for note in notes),
        facts=tuple(facts(report)),
    )


def headline(report: Report) -> str:
    """One sentence: what became of the dense layers, and at what cost in quality."""
    before, after = report.before, report.after
    said = []
    if before.dense_params is not None and after.dense_params is not None:
        change = count_change(before.dense_params, after.dense_params)
        counted = f"{before.dense_params:,} → {after.dense_params:,} parameters ({change.text})"
        said.append(f"dense layers: {counted}{', if it were done' if report.is_dry_run else ''}")
    if after.value is not None and before.value is not None and before.metric == after.metric:
        name = plain(after.metric or "quality")
        said.append(f"{name}: {quality_text(before)} → {quality_text(after)}")
    elif after.fidelity is not None:
        said.append(f"without labels: {quality_text(after)}")
    elif not report.is_dry_run:
        said.append("quality was not measured: no data was given")
    return "; ".join(said)


def before_after(report: Report) -> Table:
    """The table that the issue is about: original, compressed, and what changed."""
    before, after = report.before, report.after
    rows = [_count_row(name, of(before), of(after), count_text, "fewer", "more") for name, of in COUNTS]
    for name in _either(before.size_bytes, after.size_bytes):
        size = (before.size_bytes.get(name), after.size_bytes.get(name))
        rows.append(_count_row(plain(name), *size, bytes_text, "smaller", "larger"))
    rows += _quality_rows(before, after)
    for runtime in _either(before.latency_ms, after.latency_ms):
        old, new = before.latency_ms.get(runtime, {}), after.latency_ms.get(runtime, {})
        for batch in _either(old, new):
            a, b = old.get(batch), new.get(batch)
            label = f"{plain(runtime)}, batch {plain(batch)}, ms"
            rows.append((Cell(label), Cell(range_text(a)), Cell(range_text(b)), Cell.of(latency_change(a, b))))
    shown = tuple(row for row in rows if row[1].text != NONE or row[2].text != NONE)
    notes = ["latency: one thread, median (10th – 90th percentile), timed alternately"] if after.latency_ms else []
    if any(OVERLAP in row[3].text for row in shown):
        notes.append(OVERLAP_SAID)
    return Table(
        title="Before and after",
        columns=("", "original", plain(report.method), "change"),
        rows=shown,
        texts=frozenset({0, 3}),
        note="; ".join(notes),
    )


def _count_row(
    name: str, before: int | None, after: int | None, show: Callable[[int | None], str], less: str, more: str
) -> tuple[Cell, ...]:
    return Cell(name), Cell(show(before)), Cell(show(after)), Cell.of(count_change(before, after, less, more))


def _quality_rows(before: Side, after: Side) -> list[tuple[Cell, ...]]:
    rows: list[tuple[Cell, ...]] = []
    if before.value is not None or after.value is not None:
        names = [plain(name) for name in dict.fromkeys((before.metric, after.metric)) if name]
        change = Cell.of(quality_change(before, after))
        rows.append(
            (Cell(" / ".join(names) or "quality"), Cell(quality_text(before)), Cell(quality_text(after)), change)
        )
    if after.fidelity is not None:
        kept, examples = after.fidelity, f"{after.fidelity.examples:,} examples"
        if kept.agreement is not None:
            agreed = Cell(f"{kept.agreement:.2%}"), Cell(examples)
            rows.append((Cell("same answer as the original"), Cell(NONE), *agreed))
        differs = Cell(f"{kept.relative_error:.3g}"), Cell(examples)
        rows.append((Cell("relative error against the original"), Cell(NONE), *differs))
    return rows


def layers(report: Report) -> Table:
    """What became of each dense map; settings that all replaced layers share stand in the note, once."""
    replaced = [row for row in report.layers if row.method is not None]
    settings = list(dict.fromkeys(_settings(row) for row in replaced))
    shared = len(settings) == 1
    rows = []
    for row in report.layers:
        what = f"kept: {plain(row.kept_because or 'as it was')}"
        if row.method is not None:
            what = plain(row.method) if shared else _settings(row)
            what += f", one block for {', '.join(map(plain, row.sites))}" if len(row.sites) > 1 else ""
        rows.append(
            (
                Cell(plain(row.name) + (f" (×{row.calls})" if row.calls > 1 else "")),
                Cell(f"{row.in_features:,} → {row.out_features:,}"),
                Cell(f"{row.params_before:,}"),
                Cell(f"{row.params_after:,}"),
                Cell.of(count_change(row.params_before, row.params_after)) if row.method is not None else Cell(NONE),
                Cell(NONE if row.fit_error is None else f"{row.fit_error:.3f}"),
                Cell(what),
            )
        )
    notes = [f"settings: {settings[0]}"] if shared else []
    if any(row.fit_error is not None for row in replaced):
        notes.append("fit error: relative, of the layer's outputs, before any training")
    return Table(
        title="Layer by layer",
        columns=("layer", "in → out", "before", "after", "change", "fit error", "what was done"),
        rows=tuple(rows),
        texts=frozenset({0, 6}),
        note="; ".join(notes),
    )


def _settings(row: LayerRow) -> str:
    shown = ", ".join(f"{plain(key)}={plain(value)}" for key, value in row.config.items() if value is not None)
    return f"{plain(row.method)}({shown})"


def verification(report: Report) -> list[str]:
    """One line for each file that was read back."""
    return [
        f"{plain(check.file)}: read back, off the {plain(check.against)} by {check.max_rel:.1e} of the largest output "
        f"on {check.rows:,} examples (limit {check.tolerance:.0e})"
        for check in report.verification
    ]


def facts(report: Report) -> list[tuple[str, str]]:
    """How it was made: time, seed, threads, machine, versions."""
    machine = ", ".join(f"{plain(key)} {plain(value)}" for key, value in report.machine.items())
    versions = ", ".join(f"{plain(name)} {plain(number)}" for name, number in report.versions.items())
    known = [
        ("wall time", seconds_text(report.wall_time_s)),
        ("seed", str(report.seed)),
        ("threads", str(report.threads)),
        ("machine", machine),
        ("versions", versions),
    ]
    return [(name, text) for name, text in known if text]


def _either(first: Iterable[str], second: Iterable[str]) -> list[str]:
    """The names in either, in their order."""
    return list(dict.fromkeys([*first, *second]))
