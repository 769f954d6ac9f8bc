"""A finished folder taken up again: the recipe in it, and the original that it was made from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from compressor.case import Case, open_case
from compressor.errors import CompressorError
from compressor.progress import Progress, silent
from compressor.recipe import Recipe, read_recipe, refuse_code_in
from compressor_converters.arch import is_callable_spec
from compressor_converters.hugging_face.reading import is_hub_name
from compressor_converters.onnx_inputs import Inputs


def recipe_of(folder: Path, needed: Sequence[str] = (), *, is_original_given: bool) -> Recipe:
    """The recipe of ``folder``; CompressorError where a file that is ``needed`` is not there, or it names own code."""
    for name in ("recipe.yaml", *needed):
        if not (folder / name).is_file():
            raise CompressorError(f"{folder}: is not a finished compression (no {name}); give the folder that -o named")
    recipe = read_recipe(folder / "recipe.yaml")
    refuse_code_in(folder, recipe, is_original_given=is_original_given)
    return recipe


def original_case(
    recipe: Recipe,
    original: str | nn.Module | None,
    inputs: Inputs | None,
    *,
    unsafe: bool = False,
    progress: Progress = silent,
) -> Case:
    """The case of the job of ``recipe``, with the network ``original`` where it is given.

    ``inputs`` stand for its data, which is not read; of a graph (None), the data says what it takes.
    """
    changed: dict[str, Any] = {"data_fingerprint": None}
    if inputs is not None:
        changed |= dict.fromkeys(("data", "eval_data", "label_key", "normalize", "input_shape", "metric"))
    if isinstance(original, str):
        changed |= {"model": original, "model_sha256": None}
    live = original if isinstance(original, nn.Module) else None
    asked = recipe.model_copy(update=changed)
    if original is None:
        _check_place(asked.model)
    given = None if inputs is None else dict(zip(inputs.names, inputs.example, strict=True))
    return open_case(asked, model=live, data=given, eval_data=given, unsafe=unsafe, progress=progress)


def _check_place(model: str | None) -> None:
    """CompressorError where a recipe's ``model`` cannot be found again."""
    if model is None:
        raise CompressorError("the folder was made from a live module: give the original with --original")
    if not (is_callable_spec(model) or is_hub_name(model) or Path(model).exists()):
        raise CompressorError(
            f"the original, {model}, is not there (paths in a recipe are seen from where the job ran): name it with"
            " --original, or run this in that folder"
        )
