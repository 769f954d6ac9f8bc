"""Time a finished folder again, on this machine, alternately with the original where it is given."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from compressor.candidate import Candidate, export, temporary_folder, time_all
from compressor.case import open_case, threads
from compressor.errors import CompressorError
from compressor.progress import Progress, silent
from compressor.recipe import Recipe, read_recipe, refuse_code_in
from compressor.report import LatencyRow
from compressor_converters.folder import load_folder
from compressor_converters.onnx_in import OnnxNetwork

Timings = dict[str, dict[str, dict[str, LatencyRow]]]  # by candidate, runtime, batch size


def bench(
    folder: str | Path,
    *,
    original: str | nn.Module | None = None,
    seconds: float = 3.0,
    unsafe_load: bool = False,
    progress: Progress = silent,
) -> Timings:
    """Latency of the compressed network in ``folder``, one thread, torch and stock onnxruntime, batch 1 and 32.

    ``original`` is the model it was made from; by default the one that the folder's recipe names. Without it
    the compressed network is timed alone.
    """
    folder = Path(folder)
    if not (folder / "recipe.yaml").is_file():
        raise CompressorError(
            f"{folder}: is not a finished compression (no recipe.yaml); give the folder that -o named"
        )
    recipe: Recipe = read_recipe(folder / "recipe.yaml")
    refuse_code_in(folder, recipe, is_original_given=original is not None)
    live = original if isinstance(original, nn.Module) else None
    if isinstance(original, str):
        recipe = recipe.model_copy(update={"model": original, "model_sha256": None})
    with threads(1):
        case = open_case(recipe, model=live, unsafe=unsafe_load, progress=progress)
        graph = isinstance(case.model, OnnxNetwork)  # then there is nothing but model.onnx
        compressed = Candidate("compressed", None if graph else load_folder(folder, model=case.rebuild()), folder)
        reference = Candidate("original", case.model, temporary_folder(case, "original"))
        export(case, reference)
        time_all(case, [reference, compressed], seconds=seconds)
    return {candidate.name: candidate.latency for candidate in (reference, compressed)}
