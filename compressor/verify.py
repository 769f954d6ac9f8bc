"""Read back every file that was written and run it against the model in memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from compressor.errors import CompressorError
from compressor.measure import first_output, ort_session, run_ort
from compressor.report import Check
from compressor_converters.folder import load_folder
from compressor_converters.onnx_in import FileRun, OnnxNetwork, check_untouched
from compressor_converters.pt2 import load_pt2

TOLERANCE = 1e-4  # of the largest output


def verify(
    folder: Path,
    model: nn.Module,
    inputs: tuple[Tensor, ...],
    *,
    rebuild: Callable[[], nn.Module],
    original: nn.Module | None = None,
) -> list[Check]:
    """Run each file of ``folder`` on ``inputs`` (several batch sizes) against ``model``.

    ``rebuild`` makes the original network anew, for the files that hold parameters only. A difference over
    `TOLERANCE` raises CompressorError: a file that does not do what the model does is not a result. Of a graph
    (``original`` as it was read), every node that was not replaced must be there byte for byte.
    """
    if isinstance(model, OnnxNetwork):
        assert isinstance(original, OnnxNetwork)
        written, exact = folder / "model.onnx", original.view.is_quantized
        check_untouched(model, written)
        read = ort_session(original.view.file.path, exact=exact)
        return [
            _check("the original in parts", original, inputs, FileRun(original, read)),
            _check("model.onnx", model, inputs, FileRun(model, ort_session(written, exact=exact))),
        ]
    checks = [
        _check("model.safetensors", model, inputs, _torch(load_folder(folder, model=rebuild()))),
        _check("model.pt2", model, inputs, _torch(load_pt2(folder / "model.pt2").module())),
        _check("model.pt2 with model.safetensors", model, inputs, _torch(load_folder(folder))),
    ]
    session = ort_session(folder / "model.onnx")
    checks.append(
        _check("model.onnx", model, inputs, lambda batch: torch.from_numpy(np.asarray(run_ort(session, batch)[0])))
    )
    return checks


def _torch(model: nn.Module) -> Callable[[tuple[Tensor, ...]], Tensor]:
    return lambda batch: first_output(model(*batch))


def _check(
    name: str, model: nn.Module, inputs: tuple[Tensor, ...], run: Callable[[tuple[Tensor, ...]], Tensor]
) -> Check:
    rows = len(inputs[0])
    worst, largest = 0.0, 0.0
    with torch.no_grad():
        for size in sorted({1, min(3, rows), rows}):
            batch = tuple(x[:size] for x in inputs)
            expected, got = first_output(model(*batch)), run(batch)
            if got.shape != expected.shape:
                raise CompressorError(f"{name}: gives {tuple(got.shape)}, the model in memory {tuple(expected.shape)}")
            difference = (got - expected).abs()
            worst = max(worst, float(difference.max()) if torch.isfinite(difference).all() else float("inf"))
            largest = max(largest, float(expected.abs().max()))
    relative = worst / largest if largest else worst
    if not relative <= TOLERANCE:
        raise CompressorError(
            f"{name}: differs from the model in memory by {relative:.2e} of the largest output, over {TOLERANCE:g};"
            " nothing was written"
        )
    return Check(file=name, against="model in memory", max_abs=worst, max_rel=relative, tolerance=TOLERANCE, rows=rows)
