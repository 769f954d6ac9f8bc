"""Time a finished folder again, on this machine, alternately with the original that it was made from."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from compressor.candidate import Candidate, export, temporary_folder, time_all
from compressor.case import threads
from compressor.finished import original_case, recipe_of
from compressor.progress import Progress, silent
from compressor.report import LatencyRow
from compressor_converters.folder import load_folder
from compressor_converters.onnx_inputs import inputs_of

Timings = dict[str, dict[str, dict[str, LatencyRow]]]  # by candidate, runtime, batch size
_ROWS = 8


def bench(
    folder: str | Path,
    *,
    original: str | nn.Module | None = None,
    seconds: float = 3.0,
    unsafe_load: bool = False,
    progress: Progress = silent,
) -> Timings:
    """Latency of the compressed network in ``folder``, one thread, torch and stock onnxruntime, batch 1 and 32.

    ``original`` is the model it was made from, by default the one that the folder's recipe names.
    """
    folder = Path(folder)
    recipe = recipe_of(folder, ["model.onnx"], is_original_given=original is not None)
    is_graph = not (folder / "model.safetensors").is_file()  # then there is nothing but model.onnx
    inputs = None if is_graph else inputs_of(folder / "model.onnx", _ROWS)
    with threads(1):
        case = original_case(recipe, original, inputs, unsafe=unsafe_load, progress=progress)
        compressed = Candidate("compressed", None if is_graph else load_folder(folder, model=case.rebuild()), folder)
        reference = Candidate("original", case.model, temporary_folder(case, "original"))
        export(case, reference)
        time_all(case, [reference, compressed], seconds=seconds)
    return {candidate.name: candidate.latency for candidate in (reference, compressed)}
