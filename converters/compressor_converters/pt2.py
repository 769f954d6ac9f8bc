"""Exported programs (.pt2): read without running what is in them, written without traces of the machine."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from compressor.errors import CompressorError, reason
from compressor_converters import pt2_check, pt2_old
from compressor_converters.calling import plain_output

_EPOCH = (1980, 1, 1, 0, 0, 0)
_CHUNK = 1 << 20
MOST_ROWS = (1 << 31) - 1  # of a batch: without an end, torch 2.6 finds the largest integer excluded, and fixes it

FreeAxes = Sequence[Mapping[int, str]]  # for each input, the axes after the batch that may have any length, by name


def check_pt2(path: str | Path) -> None:
    """CompressorError unless everything in the file is known to be harmless. Loads nothing."""
    _archive(Path(path), None)


def is_ours(path: str | Path) -> bool:
    """Whether the exported program in ``path`` was written by `save_pt2`."""
    try:
        with zipfile.ZipFile(path) as file:
            return any(name.endswith((f"/{pt2_check.MARK}", pt2_old.MARK)) for name in file.namelist())
    except (zipfile.BadZipFile, OSError):
        return False


def load_pt2(path: str | Path, *, unsafe: bool = False) -> ExportedProgram:
    """The exported program in ``path``, its tensors on the CPU.

    What the file holds is checked and copied into a clean archive first, and that is what torch reads; with
    ``unsafe`` torch reads the file itself.
    """
    path = Path(path)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "model.pt2"
        if not unsafe:
            with copy.open("wb") as out:
                _archive(path, out)
        try:
            return _quietly_load(path if unsafe else copy)
        except Exception as error:  # torch raises many kinds for a program that it cannot read
            said = reason(error)
            raise CompressorError(
                f"{path}: torch {torch.__version__} does not read this exported program:"
                f" {type(error).__name__}: {said}; export and save it anew with this version"
            ) from error


def _quietly_load(path: Path) -> ExportedProgram:
    def unsaid(_: logging.LogRecord) -> bool:
        return False

    log = logging.getLogger("torch.export")  # it says of older formats that they are old
    log.addFilter(unsaid)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if path.suffix == ".pt2":
                return torch.export.load(path)
            return torch.export.load(io.BytesIO(path.read_bytes()))
    finally:
        log.removeFilter(unsaid)


def save_pt2(
    model: nn.Module,
    example: tuple[Tensor, ...],
    path: str | Path,
    *,
    dynamic_batch: bool = True,
    free: FreeAxes = (),
) -> str | None:
    """Export ``model`` and write it; the same model gives the same bytes.

    The batch (axis 0 of every input) is free, and the axes that ``free`` names; where the model fixes them, a program
    for the example's sizes is written and the returned note says so. Example inputs, stack traces and machine paths
    are left out.
    """
    path = Path(path)
    for name in model.state_dict():
        if not pt2_check.is_plain_name(name):
            raise CompressorError(
                f"{path.name}: a parameter is named '{name}'; give its module a name of letters a to z, digits, _ and -"
            )
    program, note = export(model, example, dynamic_batch=dynamic_batch, free=free)
    whole = io.BytesIO()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.export.save(program, whole)
    except Exception as error:  # torch raises many kinds
        raise CompressorError(
            f"{path.name}: this model cannot be written as an exported program: {reason(error)};"
            " let it take and return tensors in tuples, lists and dicts"
        ) from error
    with zipfile.ZipFile(whole) as file, path.open("wb") as out:
        try:
            _copy(file, _cleaned(file, len(whole.getbuffer())), out, mark=True)
        except pt2_check.RefusedError as error:
            raise CompressorError(
                f"{path.name}: this model cannot be written as an exported program: {error}"
            ) from None
    return note


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """The exporters print, warn and log, of their own versions for instance; what matters comes as an exception."""
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        nowhere = io.StringIO()
        with warnings.catch_warnings(), contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def export(
    model: nn.Module, example: tuple[Tensor, ...], *, dynamic_batch: bool = True, free: FreeAxes = ()
) -> tuple[ExportedProgram, str | None]:
    """The exported program of ``model`` in eval mode, and a note where a size could not be left free."""
    was_training = model.training
    model.eval()
    try:
        with silence(), plain_output(model):
            if not dynamic_batch:
                return torch.export.export(model, example, strict=False), None
            # Two rows: torch takes a size of one for a constant, and the file must not depend on their number.
            two = tuple(torch.cat([x, x])[:2] for x in example)
            notes: list[str] = []
            for axes in [free, ()] if any(free) else [()]:
                try:
                    shapes = free_batch(two, axes)
                    return torch.export.export(model, two, strict=False, dynamic_shapes=shapes), "; ".join(
                        notes
                    ) or None
                except Exception as error:  # torch.export raises many kinds; the reason is passed on
                    kept = f"a batch of {len(example[0])}" if not any(axes) else "inputs of one length"
                    notes.append(f"model.pt2 takes {kept} only: that size cannot be left free ({reason(error)})")
            try:
                return torch.export.export(model, example, strict=False), notes[-1]
            except Exception as error:
                raise CompressorError(
                    f"the model cannot be written as an exported program: {reason(error)};"
                    " change what torch.export does not follow, such as a branch on a tensor's value"
                ) from error
    finally:
        model.train(was_training)


def free_batch(example: tuple[Tensor, ...], free: FreeAxes = ()) -> tuple[dict[int, Any], ...]:
    """What says to torch.export that the first size of every input may be any, and those of the axes ``free``.

    The latter within bounds that torch finds: a table of positions, say, has an end.
    """
    batch = torch.export.Dim("batch", min=1, max=MOST_ROWS)
    further = free if len(free) == len(example) else tuple({} for _ in example)
    return tuple({0: batch, **dict.fromkeys(axes, torch.export.Dim.DYNAMIC)} for axes in further)


def _archive(path: Path, out: BinaryIO | None) -> None:
    """Check ``path`` and write what may be loaded from it to ``out``."""
    try:
        file, size = pt2_check.read(path)
        with file:
            archive = _cleaned(file, size)
            if out is not None:
                _copy(file, archive, out, mark=archive.marked)
    except pt2_check.RefusedError as error:
        raise CompressorError(
            f"{path}: not read as an exported program, {error} (if you trust the file: --unsafe-load)"
        ) from None
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise CompressorError(f"{path}: the archive is damaged: {error}") from None
    except (TypeError, KeyError, AttributeError, ValueError, NotImplementedError, RuntimeError) as error:
        # A value of another kind than torch writes, wherever it stands: the checks do not look at each.
        raise CompressorError(f"{path}: not read as an exported program, it is malformed ({error!s:.80})") from None


def _cleaned(file: zipfile.ZipFile, size: int) -> pt2_check.Archive:
    """Either format: that of torch before 2.8 too, which such a torch writes and any reads."""
    if pt2_old.is_old(file):
        return pt2_old.cleaned(file, size)
    return pt2_check.cleaned(file, size)


def _copy(file: zipfile.ZipFile, archive: pt2_check.Archive, out: BinaryIO, *, mark: bool) -> None:
    texts = archive.texts | ({archive.mark: b"1"} if mark else {})
    with zipfile.ZipFile(out, "w") as target:
        for name in sorted([*texts, *archive.payloads]):
            info = zipfile.ZipInfo(archive.root + name, _EPOCH)
            with target.open(info, "w", force_zip64=name in archive.payloads) as entry:
                if name in texts:
                    entry.write(texts[name])
                    continue
                with file.open(archive.payloads[name]) as source:
                    while chunk := source.read(_CHUNK):
                        entry.write(chunk)
