"""The networks of one report in one table, the original first."""

from __future__ import annotations

from collections.abc import Sequence

from compressor.report.marks import OVERLAP, OVERLAP_SAID, count_change, latency_change, quality_change, times
from compressor.report.table import Cell, Table, plain
from compressor.report.units import NONE, bytes_text, count_text, ms_text, quality_text
from compressor.report.value import Baseline, LatencyRow, Report, Side

_FILE = "model.onnx"  # the one file that every candidate has, a quantised one too


def rows_of(report: Report) -> list[Baseline]:
    """The networks that one report compares: the original, the method's own, the baselines."""
    own = [Baseline(name="original", side=report.before), Baseline(name=report.method, side=report.after)]
    return own + report.baselines


def comparison(rows: Sequence[Baseline]) -> Table:
    """One line for each network, judged against the first, which is the original."""
    original = rows[0].side
    runtime, batch = _timed(rows)
    cells = [
        (
            Cell(plain(row.name)),
            Cell(count_text(row.side.dense_params)),
            Cell(_ratio(original, row.side)),
            Cell(count_text(row.side.params)),
            Cell(count_text(row.side.macs)),
            Cell(bytes_text(row.side.size_bytes.get(_FILE))),
            Cell(_quality(row.side, original)),
            Cell(_ms(_latency(row.side, runtime, batch))),
            judged(original, row.side, runtime, batch),
        )
        for row in rows
    ]
    notes = [f"ms: {runtime}, batch {batch}, one thread, median"] if runtime else []
    if any(OVERLAP in line[-1].text for line in cells):
        notes.append(OVERLAP_SAID)
    kept = [
        column
        for column in range(len(_COLUMNS))
        if column in (0, 8) or any(line[column].text != NONE for line in cells)
    ]
    columns = [_metric(rows) if name == "quality" else name for name in _COLUMNS]
    return Table(
        title="Side by side",
        columns=tuple(columns[column] for column in kept),
        rows=tuple(tuple(line[column] for column in kept) for line in cells),
        texts=frozenset({0, len(kept) - 1}),
        note="; ".join(notes),
    )


_COLUMNS = ("", "dense params", "fewer", "params", "MACs", _FILE, "quality", "ms", "marks")


def judged(original: Side, side: Side, runtime: str, batch: str) -> Cell:
    """The marks of one network: larger, worse, slower; none for the original itself."""
    latency = latency_change(_latency(original, runtime, batch), _latency(side, runtime, batch))
    changes = {
        "in parameters": count_change(original.dense_params, side.dense_params),
        "as a file": count_change(original.size_bytes.get(_FILE), side.size_bytes.get(_FILE)),
        "": quality_change(original, side),
        OVERLAP: latency if latency.tone == "unsure" else None,
        " ": latency if latency.tone != "unsure" else None,
    }
    marks = [f"{change.mark} {where}".strip() for where, change in changes.items() if change and change.mark]
    certain = any(change and change.tone == "bad" for change in changes.values())
    return Cell(", ".join(marks), "bad" if certain else "unsure" if marks else "")


def _ratio(original: Side, side: Side) -> str:
    if side is original or not original.dense_params or not side.dense_params:
        return NONE
    return times(original.dense_params / side.dense_params)


def _quality(side: Side, original: Side) -> str:
    if side.value is not None and original.metric is not None and side.metric != original.metric:
        return f"{plain(side.metric)} {quality_text(side)}"
    if side.value is None and side.fidelity is not None:
        agreement, error = side.fidelity.agreement, side.fidelity.relative_error
        return f"{error:.3g}" if agreement is None else f"{agreement:.2%}"
    return quality_text(side)


def _metric(rows: Sequence[Baseline]) -> str:
    """The heading of the quality column."""
    for row in rows:
        if row.side.metric is not None:
            return plain(row.side.metric)
        if row.side.fidelity is not None:
            return "relative error" if row.side.fidelity.agreement is None else "same answers"
    return "quality"


def _timed(rows: Sequence[Baseline]) -> tuple[str, str]:
    """The runtime and batch size that most of the networks were timed with; stock onnxruntime and one row first."""
    count: dict[tuple[str, str], int] = {("onnxruntime", "1"): 0}
    for row in rows:
        for runtime, batches in row.side.latency_ms.items():
            for batch in batches:
                count[runtime, batch] = count.get((runtime, batch), 0) + 1
    best = max(count, key=lambda key: count[key])
    return best if count[best] else ("", "")


def _latency(side: Side, runtime: str, batch: str) -> LatencyRow | None:
    return side.latency_ms.get(runtime, {}).get(batch)


def _ms(row: LatencyRow | None) -> str:
    return NONE if row is None else ms_text(row.median)
