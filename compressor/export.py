"""A finished folder in another format: read back, written anew, and run against what it was made from.

The outputs of the folder's own network, on inputs of the shapes that its ONNX file names, are what every new file
must give; a file that does not is an error, and then nothing is there.
"""

from __future__ import annotations

import copy
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compressor.case import Case, threads
from compressor.errors import CompressorError, nearest
from compressor.finished import original_case, recipe_of
from compressor.measure import first_output
from compressor.report import Check
from compressor.verify import check, run_onnx, run_torch
from compressor_converters import storage
from compressor_converters.calling import call_in_order
from compressor_converters.dense import expanded
from compressor_converters.executorch_file import run_pte, save_pte
from compressor_converters.folder import EXPORTED, check_free, load_folder, output_folder
from compressor_converters.hugging_face.config import CONFIG
from compressor_converters.hugging_face.writing import copy_beside, is_hugging_face, load_pretrained, write_config
from compressor_converters.manifest import describe
from compressor_converters.onnx_file import save_onnx
from compressor_converters.onnx_inputs import Inputs, inputs_of
from compressor_converters.ort_file import NATIVE, STOCK, save_ort
from compressor_converters.pt2 import load_pt2, save_pt2
from compressor_converters.safetensors_file import cast, load_plain, save, save_plain
from compressor_kernels import onnx_library_path

_ROWS = 8
_NEEDED = ("model.safetensors", "model.onnx", "model.pt2")


@dataclass(frozen=True)
class Exported:
    """What was written, and what was found when it was read back."""

    folder: Path
    size_bytes: dict[str, int]
    checks: list[Check]
    notes: list[str]
    dtype: str
    error: float | None  # of the outputs against float32, relative to the largest, where less is stored


@dataclass
class _Job:
    """One export under way."""

    source: Path  # the finished folder
    model: nn.Module  # what the files must do: the folder's network, in the numbers that are stored
    inputs: Inputs
    dense: bool
    dtype: str | None  # of half precision
    open: Callable[[], Case]  # the original, read when it is needed
    out: Path
    checks: list[Check] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def check(self, name: str, run: Callable[[tuple[Tensor, ...]], Tensor]) -> None:
        # Graphs round what is computed from parameters, and dense layers are rounded once more.
        half = self.dtype is not None and (self.dense or Path(name).suffix in (".onnx", ".ort"))
        self.checks.append(check(name, self.model, self.inputs.example, run, half=half))


def export(
    folder: str | Path,
    to: str,
    output: str | Path,
    *,
    dense: bool = False,
    dtype: str = "float32",
    original: str | nn.Module | None = None,
    force: bool = False,
    unsafe_load: bool = False,
) -> Exported:
    """Write the compressed network of ``folder`` to the new folder ``output`` in the format ``to``.

    ``dense`` expands every structured layer first, for what wants plain layers. ``dtype`` float16 or bfloat16 halves
    what is stored; the numbers are computed with in float32 as before. ``original`` is the model that the folder was
    made from, by default the one that its recipe names; only what cannot be done without it asks for it.
    """
    folder, output = Path(folder), Path(output)
    if to not in FORMATS:
        raise CompressorError(f"there is no format '{to}'; {nearest(to, FORMATS)}")
    if dtype != "float32" and dtype not in storage.DTYPES:
        raise CompressorError(f"there is no storage type '{dtype}'; {nearest(dtype, ['float32', *storage.DTYPES])}")
    recipe = recipe_of(folder, _NEEDED, is_original_given=original is not None)
    check_free(output, force=force)
    inputs = inputs_of(folder / "model.onnx", _ROWS)
    model, error = load_folder(folder), None
    with threads(1), torch.no_grad():
        if dtype in storage.DTYPES:
            before = model
            model = storage.rounded(before, storage.DTYPES[dtype])
            error = _difference(before, model, inputs.example)
        with output_folder(output, force=force) as staging:
            job = _Job(
                folder, model, inputs, dense, None if error is None else dtype,
                lambda: original_case(recipe, original, inputs, unsafe=unsafe_load), staging,
            )  # fmt: skip
            FORMATS[to](job)
            sizes = {str(f.relative_to(staging)): f.stat().st_size for f in sorted(staging.rglob("*")) if f.is_file()}
            facts = Exported(output, sizes, job.checks, job.notes, dtype, error)
            _write_facts(staging / EXPORTED, facts, to, dense)
    return facts


def _difference(before: nn.Module, after: nn.Module, example: tuple[Tensor, ...]) -> float:
    """The largest difference of the outputs relative to the largest output."""
    one, other = first_output(before(*example)), first_output(after(*example))
    return float((one - other).abs().max() / one.abs().max().clamp_min(1e-30))


def _write_facts(path: Path, facts: Exported, to: str, dense: bool) -> None:
    plain = {
        "format": to, "dense": dense, "dtype": facts.dtype, "error": facts.error, "size_bytes": facts.size_bytes,
        "verification": [one.model_dump(mode="json") for one in facts.checks], "notes": facts.notes,
    }  # fmt: skip
    path.write_text(json.dumps(plain, indent=2) + "\n", encoding="utf-8")


def _modules(job: _Job) -> tuple[nn.Module, Case]:
    """The compressed network as modules of the original's types, dense where that is asked for, and the case."""
    case = job.open()
    model = load_folder(job.source, model=case.rebuild())
    if job.dtype is not None:
        model = storage.rounded(model, storage.DTYPES[job.dtype])
    if job.dense:
        if case.is_rebuilt:
            raise CompressorError("the model was rebuilt from its graph, so that it cannot be written dense")
        model = expanded(model, case.model)
    return model.eval(), case


def _safetensors(job: _Job) -> None:
    path = job.out / "model.safetensors"
    if not job.dense:
        cast(job.source / "model.safetensors", path, job.dtype)
        shutil.copyfile(job.source / "model.pt2", job.out / "model.pt2")
        run = run_torch(load_folder(job.out))
        (job.out / "model.pt2").unlink()
    else:
        model, case = _modules(job)
        save_plain(model, path, job.dtype)
        run = run_torch(load_plain(copy.deepcopy(case.model), path))
    job.check(path.name, run)


def _pt2(job: _Job) -> None:
    path = job.out / "model.pt2"
    if job.dense or job.dtype is not None:
        model = _modules(job)[0] if job.dense else job.model
        if job.dtype is not None:
            model = storage.held_in(model, storage.DTYPES[job.dtype])
        _note(job, save_pt2(model, job.inputs.example, path, free=job.inputs.free))
    else:
        shutil.copyfile(job.source / "model.pt2", path)
    job.check(path.name, run_torch(load_pt2(path).module()))


def _onnx(job: _Job, name: str = "model.onnx") -> Path:
    import onnx

    path, inputs = job.out / name, job.inputs
    if job.dense:
        model = _modules(job)[0]
        _note(job, save_onnx(model, inputs.example, path, input_names=inputs.names, free=inputs.free))
    else:
        shutil.copyfile(job.source / "model.onnx", path)
    if job.dtype is not None:
        proto = onnx.load(str(path))
        storage.hold_onnx_in(proto, job.dtype)
        onnx.checker.check_model(proto, full_check=True)
        path.write_bytes(proto.SerializeToString(deterministic=True))
    job.check(path.name, run_onnx(path))
    return path


def _ort(job: _Job) -> None:
    with tempfile.TemporaryDirectory() as folder:
        within = _Job(**{**vars(job), "out": Path(folder), "checks": []})
        onnx = _onnx(within)
        save_ort(onnx, job.out / STOCK)
        job.check(STOCK, run_onnx(job.out / STOCK))
        library = onnx_library_path()
        if job.dense:
            return
        if library is None:
            job.notes.append(f"{NATIVE} was not written: this installation has no library with the native operators")
            return
        save_ort(onnx, job.out / NATIVE, library=library)
        job.check(NATIVE, run_onnx(job.out / NATIVE, library=library))


def _hugging_face(job: _Job) -> None:
    path = job.out / "model.safetensors"
    if (job.source / CONFIG).is_file() and not job.dense:
        cast(job.source / "model.safetensors", path, job.dtype)
        shutil.copyfile(job.source / CONFIG, job.out / CONFIG)
        copy_beside(job.source, job.out)
        network = None
    else:
        model, case = _modules(job)
        if not is_hugging_face(case.model):
            raise CompressorError(f"{case.loaded.source}: is no network of transformers; give --to safetensors")
        network = type(case.model)
        if job.dense:
            save_plain(model, path, job.dtype)
        else:
            save(model, describe(model, input_names=job.inputs.names), path, dtype=job.dtype)
        write_config(case.model, job.out, compressed=not job.dense, source=case.loaded.folder)
    loaded = load_pretrained(job.out, network)
    call_in_order(loaded, job.inputs.names)
    job.check("the folder, by from_pretrained", run_torch(loaded))


def _executorch(job: _Job) -> None:
    if job.dtype is not None:
        raise CompressorError("--to pte stores float32; leave --dtype out")
    model = _modules(job)[0] if job.dense else job.model
    path = job.out / "model.pte"
    save_pte(model, job.inputs.example, path)
    job.check(path.name, run_pte(path))


def _note(job: _Job, text: str | None) -> None:
    if text:
        job.notes.append(text)


FORMATS: dict[str, Callable[[_Job], Any]] = {
    "safetensors": _safetensors,
    "pt2": _pt2,
    "onnx": _onnx,
    "ort": _ort,
    "hf": _hugging_face,
    "pte": _executorch,
}
