"""What the command shows: progress, log lines, errors and the answer to Ctrl-C on stderr, tables for stdout."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from types import FrameType
from typing import IO, TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from compressor.errors import GIVEN_UP, CompressorError, one_line
from compressor.progress import Progress as ProgressProtocol
from compressor.progress import Stage, silent
from compressor.report.marks import latency_change

_SIDE = 1024  # of the layer that methods are counted for

if TYPE_CHECKING:
    from compressor.bench import Timings
    from compressor.export import Exported
    from compressor.inspection import Inspection
    from compressor.layers import Method
    from compressor.settings import Settings

LINE_SECONDS = 5.0  # between two progress lines where stderr is no terminal


class Lines:
    """Progress as plain lines, one every few seconds: for log files and pipes."""

    def __init__(self, stream: IO[str], seconds: float = LINE_SECONDS) -> None:
        self._stream, self._seconds = stream, seconds

    def __call__(self, title: str, total: int | None = None) -> AbstractContextManager[Stage]:
        """Open a stage."""
        return self._stage(title, total)

    @contextlib.contextmanager
    def _stage(self, title: str, total: int | None) -> Iterator[Stage]:
        started = said = time.monotonic()
        done, last = 0, ""

        def advance(steps: int = 1, note: str = "") -> None:
            nonlocal done, last, said
            done, last, now = done + steps, note or last, time.monotonic()
            if now - said >= self._seconds:
                said = now
                self._say(title, _count(done, total), last, _left(now - started, done, total))

        yield advance
        self._say(title, _count(done, total) if done else "", last, f"{time.monotonic() - started:.1f} s")

    def _say(self, *parts: str) -> None:
        print("  ".join(part for part in parts if part), file=self._stream, flush=True)


class Bars:
    """Progress as bars with the time left: for a terminal."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", style="dim"),
            console=console,
        )

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def __call__(self, title: str, total: int | None = None) -> AbstractContextManager[Stage]:
        """Open a stage."""
        return self._stage(title, total)

    @contextlib.contextmanager
    def _stage(self, title: str, total: int | None) -> Iterator[Stage]:
        task = self._progress.add_task(title, total=total, note="")

        def advance(steps: int = 1, note: str = "") -> None:
            self._progress.update(task, advance=steps)
            if note:
                self._progress.update(task, note=note)

        yield advance
        done = int(self._progress.tasks[self._progress.task_ids.index(task)].completed)
        self._progress.update(task, total=max(done, 1), completed=max(done, 1))


class Stop:
    """Ctrl-C, once: ask the job to end with the best so far. Twice: end now."""

    def __init__(self, stream: IO[str]) -> None:
        self._event, self._stream = threading.Event(), stream

    def __call__(self) -> bool:
        """Whether the job was asked to end."""
        return self._event.is_set()

    def _on_signal(self, _signum: int, _frame: FrameType | None) -> None:
        if self._event.is_set():
            raise KeyboardInterrupt
        self._event.set()
        print("ending with the best so far; Ctrl-C again to give up", file=self._stream, flush=True)

    @contextlib.contextmanager
    def listening(self) -> Iterator[Stop]:
        """Take Ctrl-C over, where this is the main thread, and give it back afterwards."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = signal.signal(signal.SIGINT, self._on_signal)
        try:
            yield self
        finally:
            signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def showing_progress(*, quiet: bool) -> Iterator[ProgressProtocol]:
    """Progress fit for this stderr: bars on a terminal, lines elsewhere, nothing when ``quiet``."""
    if quiet:
        yield silent
    elif sys.stderr.isatty():
        with Bars(Console(stderr=True)) as bars:
            yield bars
    else:
        yield Lines(sys.stderr)


def set_up_logging(verbose: int) -> None:
    """Log to stderr: errors, with ``-v`` what the project says, with ``-vv`` everything, warnings of torch too."""
    logging.basicConfig(stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s", level=logging.ERROR)
    if verbose:
        logging.getLogger("compressor").setLevel(logging.INFO if verbose == 1 else logging.DEBUG)
    if verbose > 1:
        logging.getLogger().setLevel(logging.DEBUG)
    else:
        warnings.simplefilter("ignore")


def inspection_tables(found: Inspection, width: int) -> list[Table]:
    """The dense maps, and the parameters that each method would need for them, ``width`` characters wide."""
    share = found.dense_params / found.params if found.params else 0.0
    maps = Table(
        title=f"{found.model}: {found.params:,} parameters, {share:.1%} in {len(found.dense_maps)} dense layers"
    )
    maps.add_column("layer")
    for column in ("in", "out", "calls", "params", "share", "MACs"):
        maps.add_column(column, justify="right")
    for row in found.dense_maps:
        sizes = (row.in_features, row.out_features, row.calls)
        maps.add_row(row.name, *map(str, sizes), f"{row.params:,}", f"{row.share:.1%}", f"{row.macs:,}")
    if found.chains:
        maps.caption = "one block can replace: " + "; ".join(" → ".join(chain) for chain in found.chains)
    offers = _offer_tables(found, width)
    offers[-1].caption = "; ".join(found.notes) or None
    return [maps, *offers]


def _offer_tables(found: Inspection, width: int) -> list[Table]:
    """A row a method and a column a shape, in as many tables as the width asks for."""
    shapes = {(row.in_features, row.out_features, row.bias): row for row in found.dense_maps}
    names = list(found.dense_maps[0].offers)
    columns = []
    for (rows_in, out, bias), row in shapes.items():
        head = f"{rows_in} → {out}" + ("" if bias or (rows_in, out, True) not in shapes else ", no bias")
        shown = (row.offers[name] for name in names)
        columns.append([head, f"{row.params:,}", *(f"{one.params:,}" if one.smaller else "–" for one in shown)])
    left = ["method", "dense", *names]
    parts: list[list[list[str]]] = [[]]
    for column in columns:
        if parts[-1] and _width([left, *parts[-1], column]) > width:
            parts.append([])
        parts[-1].append(column)
    tables = []
    for part in parts:
        table = Table(title="parameters under each method's defaults (– where that is not smaller)")
        for i, column in enumerate([left, *part]):
            table.add_column(column[0], justify="right" if i else "left")
        for cells in list(zip(left, *part, strict=True))[1:]:
            table.add_row(*cells)
        tables.append(table)
    return tables


def _width(columns: list[list[str]]) -> int:
    """Of a table of ``columns``: a space on each side of a cell, and the lines between them."""
    return sum(max(map(len, column)) + 3 for column in columns) + 1


def latency_table(measured: Timings) -> Table:
    """Median and spread by runtime and batch size, the first candidate's beside the others'."""
    table = Table(title="latency in ms, one thread: median (10th – 90th percentile)")
    for column in ("runtime", "batch", *measured):
        table.add_column(column, justify="left" if column == "runtime" else "right")
    first = next(iter(measured.values()))
    for runtime, rows in first.items():
        for batch, reference in rows.items():
            cells = []
            for candidate in measured.values():
                row = candidate[runtime][batch]
                change = "" if row is reference else "  " + latency_change(reference, row).text
                cells.append(f"{row.median:.3f} ({row.p10:.3f} – {row.p90:.3f}){change}")
            table.add_row(runtime, batch, *cells)
    return table


def method_text(entry: Method) -> str:
    """A method's name, what it is, where it is from, and its settings."""
    settings = describe_method(entry)["settings"]
    preset = f" (preset of {entry.layer.method})" if entry.name != entry.layer.method else ""
    lines = [f"[bold]{entry.name}[/bold]{preset}: {escape(entry.summary)}", f"    source: {escape(entry.source)}"]
    cost = costs(entry)
    lines.append(
        f"    {_SIDE:,} to {_SIDE:,}: {cost['params']:,} parameters, {cost['macs']:,} MACs; dense {_SIDE**2:,}"
    )
    return "\n".join([*lines, *_options("--set", entry.layer.Config, settings)])


def training_text() -> str:
    """The settings of the training."""
    from compressor.training import Training

    lines = [f"[bold]training[/bold]: {escape(Training.__doc__ or '')}"]
    return "\n".join([*lines, *_options("--train", Training, Training().model_dump(mode="json"))])


def describe_training() -> dict[str, Any]:
    """The settings of the training as plain data, with their schema."""
    from compressor.training import Training

    return {"settings": Training().model_dump(mode="json"), "schema": Training.model_json_schema()}


def _options(option: str, config: type[Settings], settings: Mapping[str, Any]) -> list[str]:
    """One line for each of ``settings`` as ``option`` sets it."""
    lines = []
    for key, field in config.model_fields.items():
        value = json.dumps(settings[key]).strip('"')
        lines.append(escape(f"    {option} {key}={value}  {field.description or ''}".rstrip()))
    return lines


def costs(entry: Method) -> dict[str, int]:
    """What a method stores and multiplies as it comes, for a layer of 1,024 to 1,024; from shapes alone."""
    import torch

    with torch.device("meta"):
        layer = entry.layer(_SIDE, _SIDE, bias=False, config=entry.config())
    return {"params": layer.params(), "macs": layer.macs()}


def describe_method(entry: Method) -> dict[str, Any]:
    """A method as plain data: name, summary, source, preset of, cost at 1,024 to 1,024, settings, their schema."""
    return {
        "name": entry.name,
        "summary": entry.summary,
        "source": entry.source,
        "preset_of": entry.layer.method if entry.name != entry.layer.method else None,
        "costs_1024": costs(entry),
        "settings": entry.config().model_dump(mode="json"),
        "schema": entry.layer.Config.model_json_schema(),
    }


def _count(done: int, total: int | None) -> str:
    return f"{done}/{total}" if total else f"{done}"


def _left(elapsed: float, done: int, total: int | None) -> str:
    if not total or not done:
        return ""
    return f"about {elapsed * (total - done) / done:.0f} s left"


def exported_json(done: Exported) -> str:
    """What `compress export` wrote, as one JSON document."""
    plain = {
        "folder": str(done.folder), "dtype": done.dtype, "error": done.error, "size_bytes": done.size_bytes,
        "verification": [check.model_dump(mode="json") for check in done.checks], "notes": done.notes,
    }  # fmt: skip
    return json.dumps(plain, indent=2)


def exported_text(done: Exported) -> str:
    """What `compress export` wrote, line by line."""
    lines = [f"{name}  {size:,} bytes" for name, size in done.size_bytes.items()]
    lines += [f"verified  {check.file}: off by {check.max_rel:.1e} of the largest output" for check in done.checks]
    if done.error is not None:
        lines.append(f"stored as {done.dtype}: the outputs are off those in float32 by {done.error:.1e} of the largest")
    lines += [f"note  {note}" for note in done.notes]
    return "\n".join([*lines, f"wrote {done.folder}"])


def exit_status(run: Callable[[], Any]) -> int:
    """Do ``run``; what went wrong in one line on stderr, and the status that the command ends with."""
    try:
        returned = run()
        sys.stdout.flush()
        return returned if isinstance(returned, int) else 0
    except CompressorError as error:
        click.echo(f"error: {error!s}", err=True)
        return 2
    except click.ClickException as error:
        command = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "compress"
        click.echo(f"error: {one_line(error.format_message())} ({command} --help)", err=True)
        return 2
    except (KeyboardInterrupt, click.Abort):
        click.echo(GIVEN_UP, err=True)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the last flush does not fail too
        return 1
    except Exception:
        traceback.print_exc()
        click.echo(
            "this is a bug in compress, not in what you asked for; please report it with the lines above", err=True
        )
        return 1
