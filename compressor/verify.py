"""Read back every file that was written and run it against the model in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from compressor.errors import CompressorError, reason
from compressor.measure import difference, first_output, native_session, ort_session, output_place, run_ort
from compressor.report import Check
from compressor_converters.calling import call_in_order
from compressor_converters.folder import load_folder
from compressor_converters.hugging_face.config import CONFIG
from compressor_converters.hugging_face.writing import load_pretrained
from compressor_converters.onnx_in import FileRun, OnnxNetwork, check_untouched
from compressor_converters.onnx_in.room import RoomError
from compressor_converters.pt2 import load_pt2
from compressor_converters.safetensors_file import read_manifest

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

TOLERANCE = 1e-4  # of the largest output
_HALF_TOLERANCE = 1e-2  # likewise where numbers of half precision are computed with: ten roundings
_NATIVE = "model.onnx, native kernels"


def verify(
    folder: Path,
    model: nn.Module,
    inputs: tuple[Tensor, ...],
    *,
    rebuild: Callable[[], nn.Module],
    original: nn.Module | None = None,
    free: Sequence[Mapping[int, str]] = (),
) -> list[Check]:
    """Run each file of ``folder`` on ``inputs`` (several batch sizes) against ``model``.

    ``rebuild`` makes the original network anew, for the files that hold parameters only. ``free`` are the axes after
    the batch that may have any length: all files but those that are for one length are run on shorter inputs too. A
    difference over `TOLERANCE` raises CompressorError: a file that does not do what the model does is not a result.
    A graph in half precision may differ by more, since its modules compute in float32 and onnxruntime as it likes.
    Of a graph (``original`` as it was read), every node that was not replaced must be there byte for byte.
    """
    if isinstance(model, OnnxNetwork):
        assert isinstance(original, OnnxNetwork)
        written, exact, half = folder / "model.onnx", original.view.is_quantized, original.is_half
        check_untouched(model, written)
        sessions = {
            "the original in parts": (original, ort_session(original.view.file.path, exact=exact)),
            "model.onnx": (model, ort_session(written, exact=exact)),
        }
        if (native := native_session(written, exact=exact)) is not None:
            sessions[_NATIVE] = (model, native)
        while True:
            try:
                return [
                    check(name, net, inputs, FileRun(net, made), half=half) for name, (net, made) in sessions.items()
                ]
            except RoomError:  # so many examples at once do not fit
                if len(inputs[0]) == 1:
                    raise
                inputs = tuple(x[: max(1, len(x) // 4)] for x in inputs)
    with torch.no_grad():
        place = output_place(model(*(x[:1] for x in inputs)))
    checks = [
        check("model.safetensors", model, inputs, run_torch(load_folder(folder, model=rebuild()))),
        check("model.pt2", model, inputs, run_pt2(folder / "model.pt2")),
        check("model.pt2 with model.safetensors", model, inputs, run_torch(load_folder(folder))),
        check("model.onnx", model, inputs, run_onnx(folder / "model.onnx", place)),
    ]
    if (native := native_session(folder / "model.onnx")) is not None:
        checks.append(check(_NATIVE, model, inputs, run_session(native, place)))
    shorter = shortened(inputs, free)
    if shorter is not None and _takes_any_length(folder / "model.onnx", free):
        checks.append(check("model.onnx on shorter inputs", model, shorter, run_onnx(folder / "model.onnx", place)))
    if (folder / CONFIG).is_file():
        loaded = load_pretrained(folder, type(model))
        call_in_order(loaded, read_manifest(folder / "model.safetensors").input_names)
        checks.append(check("the folder, by from_pretrained", model, inputs, run_torch(loaded)))
    return checks


def shortened(inputs: tuple[Tensor, ...], free: Sequence[Mapping[int, str]]) -> tuple[Tensor, ...] | None:
    """``inputs`` at three quarters of their length along the axes ``free``; None where there are none."""
    if not any(free) or len(free) != len(inputs):
        return None
    shorter = []
    for x, axes in zip(inputs, free, strict=True):
        for axis in axes:
            x = x.narrow(axis, 0, max(1, 3 * x.shape[axis] // 4))
        shorter.append(x)
    return tuple(shorter)


def _takes_any_length(path: Path, free: Sequence[Mapping[int, str]]) -> bool:
    shapes = [given.shape for given in ort_session(path).get_inputs()]
    return all(not isinstance(shape[axis], int) for shape, axes in zip(shapes, free, strict=True) for axis in axes)


def run_onnx(path: Path, place: int = 0, *, library: Path | None = None) -> Callable[[tuple[Tensor, ...]], Tensor]:
    """What onnxruntime makes of a batch with the file ``path``: stock, or with the operators of ``library``."""
    return run_session(ort_session(path, library=library), place)


def run_session(session: InferenceSession, place: int = 0) -> Callable[[tuple[Tensor, ...]], Tensor]:
    """What ``session`` makes of a batch: the output number ``place``, see `output_place`."""
    return lambda batch: torch.from_numpy(np.asarray(run_ort(session, batch)[place]))


def run_pt2(path: Path) -> Callable[[tuple[Tensor, ...]], Tensor]:
    """What the exported program ``path`` makes of a batch."""
    return run_torch(load_pt2(path).module())


def run_torch(model: nn.Module) -> Callable[[tuple[Tensor, ...]], Tensor]:
    """What ``model`` makes of a batch."""
    return lambda batch: first_output(model(*batch))


def check(
    name: str,
    model: nn.Module,
    inputs: tuple[Tensor, ...],
    run: Callable[[tuple[Tensor, ...]], Tensor],
    *,
    half: bool = False,
) -> Check:
    """Whether the file ``name``, run by ``run``, gives what ``model`` gives; CompressorError where it does not.

    ``half``: it computes in half precision.
    """
    rows = len(inputs[0])
    against, tolerance = "model in memory", TOLERANCE
    if half:
        against, tolerance = "model in memory (half precision)", _HALF_TOLERANCE
    worst, largest = 0.0, 0.0
    with torch.no_grad():
        for size in sorted({1, min(3, rows), rows}):
            batch = tuple(x[:size] for x in inputs)
            expected = first_output(model(*batch))
            try:
                got = run(batch)
            except RoomError:
                raise
            except CompressorError as error:
                raise CompressorError(f"{name}: {error}; nothing was written") from error
            except Exception as error:  # torch's own, of many kinds
                raise CompressorError(
                    f"{name}: does not take a batch of {size}, which the model takes: {reason(error)};"
                    " nothing was written"
                ) from error
            if got.shape != expected.shape:
                raise CompressorError(f"{name}: gives {tuple(got.shape)}, the model in memory {tuple(expected.shape)}")
            off = difference(got.double(), expected.double()).abs()
            worst = max(worst, float(off.max()) if torch.isfinite(off).all() else float("inf"))
            largest = max(largest, float(expected.double().masked_fill(~torch.isfinite(expected), 0).abs().max()))
    relative = worst / largest if largest else worst
    if not relative <= tolerance:
        raise CompressorError(
            f"{name}: differs from the {against} by {relative:.2e} of the largest output, over {tolerance:g};"
            " nothing was written"
        )
    return Check(file=name, against=against, max_abs=worst, max_rel=relative, tolerance=tolerance, rows=rows)
