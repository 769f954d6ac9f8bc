"""A candidate: one network that the report compares, with its files, its quality and its speed."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from compressor.case import Case
from compressor.distill import Distilled
from compressor.errors import CompressorError
from compressor.fit import Fitted
from compressor.layers import StructuredLayer
from compressor.measure import (
    Latency,
    check_evaluation,
    count_macs,
    count_params,
    evaluate,
    fidelity,
    first_output,
    latencies,
    native_session,
    one_thread,
    ort_session,
    output_place,
    run_ort,
)
from compressor.report import LatencyRow, Side
from compressor.sites import device_of, structured
from compressor.verify import check, run_pt2
from compressor_converters import manifest as manifests
from compressor_converters.hugging_face.writing import is_hugging_face, write_config
from compressor_converters.onnx_file import save_onnx
from compressor_converters.onnx_in import FileRun, OnnxNetwork, macs_outside, save_network
from compressor_converters.onnx_in.room import RoomError
from compressor_converters.pt2 import save_pt2
from compressor_converters.safetensors_file import save as save_safetensors

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

BATCHES = (1, 32)
NATIVE = "onnxruntime, native kernels"  # as the report calls it
_LONG = 4  # a batch that many times what goes through together otherwise is not timed
_TIMING_SECONDS = 0.75  # for each candidate, runtime and batch size
_TIMING_ROUNDS = 100  # of some milliseconds each: enough for quick networks
FILES = ("model.safetensors", "model.onnx", "model.onnx.data", "model.pt2")


@dataclass
class Candidate:
    """A network in memory and the folder its files are in. ``model`` is None for one that is only an ONNX file."""

    name: str
    model: nn.Module | None
    folder: Path
    fitted: list[Fitted] = field(default_factory=list)
    distilled: Distilled | None = None
    notes: list[str] = field(default_factory=list)
    latency: dict[str, dict[str, LatencyRow]] = field(default_factory=dict)

    @property
    def onnx(self) -> Path:
        """The ONNX file."""
        return self.folder / "model.onnx"

    def sizes(self) -> dict[str, int]:
        """Bytes of each file written."""
        return {name: (self.folder / name).stat().st_size for name in FILES if (self.folder / name).exists()}


def temporary_folder(case: Case, name: str) -> Path:
    """A folder for the files of one candidate that goes when the case does."""
    keep = tempfile.TemporaryDirectory(prefix=f"compress-{name}-")
    case.temporary.append(keep)
    return Path(keep.name)


def export(case: Case, candidate: Candidate) -> None:
    """Write the candidate's files into its folder: of a graph, one ONNX file."""
    assert candidate.model is not None
    assert case.example is not None
    if isinstance(candidate.model, OnnxNetwork):
        save_network(candidate.model.cpu().eval(), candidate.onnx)
        return
    model = candidate.model.cpu().eval()
    example = tuple(x.cpu() for x in case.example)
    described = manifests.describe(model, arch=case.recipe.arch, input_names=case.loaded.input_names)
    save_safetensors(model, described, candidate.folder / "model.safetensors")
    free = case.loaded.free_axes
    for note in (
        save_pt2(model, example, candidate.folder / "model.pt2", free=free),
        save_onnx(model, example, candidate.onnx, input_names=case.loaded.input_names, free=free),
    ):
        if note:
            candidate.notes.append(note)
    if case.loaded.folder is not None and is_hugging_face(model):
        write_config(model, candidate.folder, source=case.loaded.folder)


def export_original(case: Case) -> Candidate:
    """The original with its files: what cannot be written, loaded or taken as the network takes it is said here."""
    original = Candidate("original", case.model, temporary_folder(case, "original"))
    export(case, original)
    if isinstance(case.model, OnnxNetwork):
        ort_session(case.model.view.file.path)
        return original
    ort_session(original.onnx)
    assert case.example is not None
    check("the original as a program (.pt2)", case.model, case.example, run_pt2(original.folder / "model.pt2"))
    return original


def time_all(case: Case, candidates: Sequence[Candidate], *, seconds: float | None = None) -> None:
    """Time all candidates alternately, on one thread: torch and stock onnxruntime, each batch size.

    Those whose nodes run on the native kernels are timed so too, in turns with the first, which is the original.
    ``seconds`` for each runtime and batch size; by default enough for a sound median, and no more.
    """
    limit = _TIMING_SECONDS * len(candidates) if seconds is None else seconds
    most = _TIMING_ROUNDS if seconds is None else None
    stock, native = cache(ort_session), cache(native_session)  # by file
    in_ort = _that_run(case, candidates, stock)
    with case.progress("measure", 2 * len(BATCHES)) as advance, one_thread(), torch.inference_mode():
        for rows in BATCHES:
            if rows > _LONG * case.examples_at_once:
                _note(candidates, f"not timed at batch {rows}: each example is long")
                continue
            inputs = tuple(x.cpu() for x in case.inputs(rows))
            models = {c.name: c.model for c in candidates if c.model is not None}
            runs = {name: _torch_run(m, inputs) for name, m in models.items() if not isinstance(m, OnnxNetwork)}
            _enter(candidates, "torch", rows, latencies(runs, seconds=limit, max_rounds=most))
            advance(1)
            if isinstance(case.model, OnnxNetwork):
                if (call := case.model.one_call(inputs)) is None:
                    continue  # a graph for fewer rows
                inputs = call
            try:
                with _room(case, inputs):
                    runs = {c.name: partial(run_ort, stock(c.onnx), inputs) for c in in_ort}
                    _enter(candidates, "onnxruntime", rows, latencies(runs, seconds=limit, max_rounds=most))
                    ours = [c for c in candidates[1:] if native(c.onnx) is not None]
                    runs = {c.name: partial(run_ort, native(c.onnx), inputs) for c in ours}
                    if ours and in_ort[0] is candidates[0]:
                        runs[candidates[0].name] = partial(run_ort, stock(candidates[0].onnx), inputs)
                    _enter(candidates, NATIVE, rows, latencies(runs, seconds=limit, max_rounds=most))
            except RoomError as error:
                _note(candidates, f"not timed at batch {rows}: {error}")
            advance(1)


def _that_run(
    case: Case, candidates: Sequence[Candidate], session: Callable[[Path], InferenceSession]
) -> Sequence[Candidate]:
    """``candidates`` without the original where onnxruntime does not run its file; the others' files were checked."""
    if isinstance(case.model, OnnxNetwork):
        return candidates
    try:
        run_ort(session(candidates[0].onnx), [x.cpu() for x in case.inputs(1)])
    except CompressorError as error:
        _note(candidates, f"the original is not timed in onnxruntime: {error}")
        return candidates[1:]
    return candidates


def _note(candidates: Sequence[Candidate], text: str) -> None:
    for candidate in candidates:
        candidate.notes.append(text)


def _room(case: Case, inputs: tuple[Tensor, ...]) -> contextlib.AbstractContextManager[None]:
    """Bounded memory for a graph, which may have been written by anybody."""
    return case.model.bounded(inputs) if isinstance(case.model, OnnxNetwork) else contextlib.nullcontext()


def _torch_run(model: nn.Module, inputs: tuple[Tensor, ...]) -> Callable[[], object]:
    return lambda: model(*inputs)


def _enter(candidates: Sequence[Candidate], runtime: str, rows: int, measured: Mapping[str, Latency]) -> None:
    for candidate in candidates:
        if candidate.name in measured:
            found = measured[candidate.name]
            row = LatencyRow(median=found.median_ms, p10=found.p10_ms, p90=found.p90_ms)
            candidate.latency.setdefault(runtime, {})[str(rows)] = row


def side(case: Case, candidate: Candidate, eval_fn: Callable[[nn.Module], float] | None) -> Side:
    """What the report says of one candidate."""
    model = candidate.model
    counts: dict[str, Any] = {"params": None, "dense_params": None, "macs": None}
    if model is not None:
        counts = count(case, model, candidate.fitted)
    return Side(
        **counts,
        **quality(case, candidate, eval_fn),
        size_bytes=candidate.sizes(),
        latency_ms=candidate.latency,
    )


def count(case: Case, model: nn.Module, fitted: Sequence[Fitted] = ()) -> dict[str, Any]:
    """Parameters, parameters in the dense maps or what stands for them, and multiply-adds per example."""
    layers = dict(structured(model))
    gone = {name for result in fitted if result.kept_because is None for name in result.entry.sites}
    dense = sum(site.params for name, site in case.sites.items() if name not in gone)
    one = None if case.example is None else tuple(x[:1].to(device_of(model)) for x in case.example)
    dense += sum(layer.params() for layer in layers.values())
    if isinstance(model, OnnxNetwork):
        return {"params": count_params(model) + model.numbers_outside(), "dense_params": dense,
                "macs": None if case.example is None else _graph_macs(case, model)}  # fmt: skip
    return {
        "params": count_params(model),
        "dense_params": dense,
        "macs": None if one is None else count_macs(model, one),
    }


def _graph_macs(case: Case, model: OnnxNetwork) -> int:
    """Of the graph by the shapes of its values, of the dense maps and what replaced them by their own count."""
    assert case.example is not None
    assert isinstance(case.model, OnnxNetwork)
    total = macs_outside(case.model, case.example)
    for name, site in case.sites.items():
        module = model.get_submodule(name)
        if isinstance(module, StructuredLayer):
            total += round(module.macs() * site.rows)
        elif isinstance(module, nn.Linear):
            total += site.macs
    return total


def check_quality(case: Case, eval_fn: Callable[[nn.Module], float] | None) -> None:
    """CompressorError where the report's figure of quality cannot be had: labels or a metric that do not fit."""
    if eval_fn is not None:
        _own_figure(eval_fn, case.model)
        return
    data, metric = case.eval_data, case.recipe.metric
    if data is None or not data.has_labels:
        if metric is not None:
            found = "there is no data" if data is None else "the data has none"
            raise CompressorError(f"--metric {metric} needs labels, and {found}; name them with --label-key")
        return
    check_evaluation(_torch_runner(case.model), data, metric, case.examples_at_once)


def quality(case: Case, candidate: Candidate, eval_fn: Callable[[nn.Module], float] | None) -> dict[str, Any]:
    """Accuracy, or the named metric, where there are labels; else agreement with the original."""
    if eval_fn is not None and candidate.model is not None:
        return {"metric": "eval_fn", "value": _own_figure(eval_fn, candidate.model)}
    run = _runner(case, candidate)
    data = case.eval_data
    if data is not None and data.has_labels:
        found = evaluate(run, data, case.recipe.metric, case.examples_at_once)
        entry: dict[str, Any] = {
            "metric": found.metric,
            "value": found.value,
            "higher_is_better": found.higher_is_better,
        }
        if found.metric == "accuracy":
            entry |= {"accuracy": found.value, "error": 1 - found.value}
        return entry
    if data is not None:
        return {"fidelity": fidelity(_torch_runner(case.model), run, data, case.examples_at_once)}
    return {}


def _own_figure(eval_fn: Callable[[nn.Module], float], model: nn.Module) -> float:
    value = eval_fn(model)
    try:
        return float(value)
    except (TypeError, ValueError):
        raise CompressorError(f"eval_fn gave {value!r:.80}; write it as f(model) -> float") from None


def _runner(case: Case, candidate: Candidate) -> Callable[[tuple[Tensor, ...]], Tensor]:
    if candidate.model is not None:
        return _torch_runner(candidate.model)
    session = ort_session(candidate.onnx)
    if isinstance(case.model, OnnxNetwork):
        return FileRun(case.model, session)
    with torch.no_grad():
        place = output_place(case.model(*case.inputs(1)))
    return lambda inputs: torch.from_numpy(run_ort(session, inputs)[place])


def _torch_runner(model: nn.Module) -> Callable[[tuple[Tensor, ...]], Tensor]:
    device = device_of(model)
    return lambda inputs: first_output(model(*(x.to(device) for x in inputs))).cpu()
