"""The output folder: it appears whole or not at all; and what is read back from one."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from torch import nn

from compressor.errors import CompressorError
from compressor_converters.safetensors_file import load_into, read_manifest

# What a folder that we wrote holds, of a job (on a graph the parameters are in model.onnx) or of an export.
_MARKS = ("recipe.yaml", "report.json")
EXPORTED = "export.json"
_ROOM = 2**16  # bytes: a disk with less than this is full
_LONGEST = 200  # bytes of a name: file systems take 255, and staging folders and checkpoints have longer ones


def check_free(path: Path, *, force: bool) -> None:
    """Refuse early what `output_folder` would refuse at the end."""
    if len(os.fsencode(path.name)) > _LONGEST:
        raise CompressorError(
            f"output {path}: its name has more than {_LONGEST} bytes, which leaves no room for the names beside it;"
            " name another with -o"
        )
    with _writing(path):
        _check_place(path, force)


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """What the system refuses within it is said in one line about ``path``."""
    try:
        yield
    except OSError as error:
        raise CompressorError(f"output {path}: cannot be written: {error.strerror}; name another with -o") from None


def _check_place(path: Path, force: bool) -> None:
    _recover(path)
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise CompressorError(f"output {path}: is not a folder; name another with -o")
    if path.exists() and any(path.iterdir()):
        if not force:
            raise CompressorError(f"output {path}: exists; name another with -o, or replace it with --force")
        if not all((path / mark).is_file() for mark in _MARKS) and not (path / EXPORTED).is_file():
            raise CompressorError(
                f"output {path}: exists and was not written by compress (no {', '.join(_MARKS)}), so that --force does"
                " not replace it; name another with -o"
            )
    parent = path.absolute().parent
    nearest = next(folder for folder in (parent, *parent.parents) if folder.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise CompressorError(f"output {path}: {nearest} cannot be written to; name another with -o")


@contextlib.contextmanager
def output_folder(path: Path, *, force: bool = False) -> Iterator[Path]:
    """A staging folder beside ``path`` that becomes ``path`` when the block ends without an exception.

    Until then nothing is seen at ``path``. What a killed run left behind is removed by the next one.
    """
    check_free(path, force=force)
    target = path.absolute()
    staging = target.parent / f".{target.name}.partial-{secrets.token_hex(4)}"
    with _writing(path):
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target)
        staging.mkdir()
    lock = _lock(staging)
    try:
        yield staging
        _sync(staging)
        check_free(path, force=force)
        _publish(staging, target)
    except Exception as error:
        if _is_full(target.parent, error):
            raise CompressorError(f"output {path}: the disk is full; make room, or name another with -o") from error
        raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _publish(staging: Path, target: Path) -> None:
    """Rename ``staging`` to ``target``; what stood there is kept under another name until it is done."""
    former = target.parent / f".{target.name}.former"
    if target.exists():
        os.rename(target, former)
    os.rename(staging, target)
    shutil.rmtree(former, ignore_errors=True)


def _is_full(folder: Path, error: Exception) -> bool:
    """Whether ``error`` came from a full disk: libraries that write for us have errors of their own for it."""
    ours = isinstance(error, CompressorError)
    return getattr(error, "errno", None) == errno.ENOSPC or (not ours and shutil.disk_usage(folder).free < _ROOM)


def _recover(path: Path) -> None:
    """Put back the former folder where a run was killed between the two renames of `_publish`."""
    target = path.absolute()
    former = target.parent / f".{target.name}.former"
    if former.is_dir():
        if target.exists():
            shutil.rmtree(former, ignore_errors=True)
        else:
            os.rename(former, target)


def _sweep(target: Path) -> None:
    """Remove the staging folders of runs that are no longer alive: their lock is free."""
    for leftover in target.parent.glob(f".{glob.escape(target.name)}.partial-*"):
        lock = _lock(leftover)
        if lock is not None:
            shutil.rmtree(leftover, ignore_errors=True)
            os.close(lock)


def _lock(folder: Path) -> int | None:
    """Lock ``folder`` for as long as this process lives; None where another one has it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _sync(folder: Path) -> None:
    for file in (*(file for file in sorted(folder.rglob("*")) if file.is_file()), folder):
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def load_folder(path: str | Path, *, arch: str | None = None, model: nn.Module | None = None) -> nn.Module:
    """The compressed network of a finished folder, in eval mode.

    With the original network (``model``, changed in place, or ``arch`` that builds it: ``module:callable``) the
    structured layers come back as modules of it. Without, they stand in the graph of ``model.pt2``, with the
    parameters of ``model.safetensors``; the ``arch`` that the file itself names is never called unasked. A folder
    that was made from an ONNX file holds a graph, which onnxruntime runs.
    """
    folder = Path(path)
    weights = folder / "model.safetensors"
    if not folder.is_dir():
        raise CompressorError(f"{folder}: there is no such folder; give one that compress wrote")
    if not weights.is_file() and (folder / "model.onnx").is_file():
        from compressor_converters.onnx_in import OnnxNetwork, read_onnx

        return OnnxNetwork(read_onnx(folder / "model.onnx"))
    if model is not None:
        return load_into(model, weights).eval()
    if arch is not None:
        from compressor_converters.load import build_network

        return load_into(build_network(arch, meta=False), weights).eval()
    from compressor_converters.graph import as_module
    from compressor_converters.graph_layers import restore_layers
    from compressor_converters.pt2 import load_pt2

    if not (folder / "model.pt2").is_file():
        named = read_manifest(weights).arch
        raise CompressorError(
            f"{folder}: has no model.pt2; give the original network as model= or arch="
            + (f" (the file says that it was {named})" if named else "")
        )
    return load_into(as_module(load_pt2(folder / "model.pt2")), weights, put=restore_layers)
