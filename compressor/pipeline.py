"""The main job: load, find, plan, fit, distill, export, verify, report."""

from __future__ import annotations

import contextlib
import copy
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compressor.baselines import INT8, quantize_int8
from compressor.candidate import (
    Candidate,
    check_quality,
    count,
    export,
    export_original,
    side,
    temporary_folder,
    time_all,
)
from compressor.case import Case, open_case, processor, threads, versions
from compressor.checkpoint import checkpoint_of, forget
from compressor.distill import distill, obstacle
from compressor.errors import CompressorError
from compressor.fit import Fitted, fit
from compressor.layers import replace
from compressor.plan import Plan, layer_for
from compressor.progress import Progress, silent
from compressor.recipe import Recipe
from compressor.refusals import (
    baseline_plan,
    check_baselines,
    check_case,
    check_device,
    check_names,
    check_replayed,
    refuse_empty,
)
from compressor.report import Baseline, LayerRow, Report, Side, Stand, write_reports
from compressor.report.pictures import write_pictures
from compressor.sites import structured
from compressor.train.noise import saturating
from compressor.verify import verify
from compressor_converters.folder import check_free, output_folder

_CHECK_ROWS = 64


@dataclass
class Result:
    """A finished compression: the network, what was measured, and the files, already verified."""

    model: nn.Module
    report: Report
    folder: Path
    _keep: object = None

    def save(self, path: str | Path, *, force: bool = False) -> Path:
        """Copy the verified files to the folder ``path``, all at once or not at all."""
        with output_folder(Path(path), force=force) as staging:
            shutil.copytree(self.folder, staging, dirs_exist_ok=True)
        return Path(path)


def compress(
    model: str | Path | nn.Module,
    method: str = "acdc",
    *,
    data: object = None,
    eval_data: object = None,
    eval_fn: Callable[[nn.Module], float] | None = None,
    output: str | Path | None = None,
    force: bool = False,
    unsafe_load: bool = False,
    progress: Progress = silent,
    stop: Callable[[], bool] = lambda: False,
    **options: Any,
) -> Result:
    """Replace the dense layers of ``model`` by ``method`` and make the result behave like the original.

    ``model`` is a module, a file, or ``"module:callable"``; ``data`` and ``eval_data`` are anything that
    `compressor.data.as_dataset` takes. ``eval_fn(model)`` gives a figure of your own for the report.
    ``options`` are the fields of `compressor.recipe.Recipe` (``settings``, ``target``, ``epochs``, ``seed`` …).
    With ``output`` the files are written there; without, `Result.save` does it. ``stop()`` is asked often:
    when it says True, the best network so far is exported and reported.
    """
    live = model if isinstance(model, nn.Module) else None
    recipe = make_recipe(model=None if live is not None else str(model), method=method, **options)
    named, data = (data, None) if isinstance(data, str | Path) else (None, data)
    named_eval, eval_data = (eval_data, None) if isinstance(eval_data, str | Path) else (None, eval_data)
    recipe = recipe.model_copy(
        update={
            "data": str(named) if named is not None else recipe.data,
            "eval_data": str(named_eval) if named_eval is not None else recipe.eval_data,
        }
    )
    return run(
        recipe, model=live, data=data, eval_data=eval_data, eval_fn=eval_fn, output=output, force=force,
        unsafe_load=unsafe_load, progress=progress, stop=stop,
    )  # fmt: skip


def make_recipe(**fields: Any) -> Recipe:
    """A recipe from plain options; a wrong one is said in one line."""
    from pydantic import ValidationError

    try:
        return Recipe.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        raise CompressorError(f"option {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def run(
    recipe: Recipe,
    *,
    model: nn.Module | None = None,
    data: object = None,
    eval_data: object = None,
    eval_fn: Callable[[nn.Module], float] | None = None,
    output: str | Path | None = None,
    force: bool = False,
    unsafe_load: bool = False,
    progress: Progress = silent,
    stop: Callable[[], bool] = lambda: False,
) -> Result:
    """Do what ``recipe`` asks. Arguments as for `compress`."""
    started = time.monotonic()
    if recipe.stream:
        raise CompressorError("a streamed job gives no network in memory: call compressor.stream.stream")
    check_names(recipe)
    check_device(recipe.device)
    if output is not None:
        check_free(Path(output), force=force)
    with threads(recipe.threads), _deterministic(recipe.seed), torch.inference_mode(False):  # with gradients
        case = open_case(
            recipe, model=model, data=data, eval_data=eval_data, unsafe=unsafe_load, progress=progress, stop=stop
        )
        check_case(case)
        check_quality(case, eval_fn)
        recipe = case.recipe
        plan = _plan(case)
        refuse_empty(case, plan, recipe.method)
        check_baselines(case, plan)
        checkpoint = checkpoint_of(output, recipe.model_copy(update={"plan": plan}))
        with _destination(output, force) as (folder, keep):
            original = export_original(case)
            int8 = _int8(case, original) if INT8 in recipe.baselines else None
            main = _build(case, recipe.method, plan, folder, checkpoint)
            _draw(case, main)
            others = [int8 if int8 and name == INT8 else _baseline(case, name, main) for name in recipe.baselines]
            report = _finish(case, main, original, others, eval_fn, started)
            recipe = recipe.model_copy(update={"plan": _resolved(main.fitted)})
            (folder / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
            write_reports(report, folder)
        if checkpoint is not None:
            forget(checkpoint)
    assert main.model is not None
    return Result(main.model, report, Path(output) if output is not None else folder, keep)


def plan_only(
    recipe: Recipe, *, model: nn.Module | None = None, data: object = None, unsafe_load: bool = False
) -> Report:
    """What `run` would do, counted from shapes alone; a model made by code is built without weights."""
    started = time.monotonic()
    check_names(recipe)
    case = open_case(recipe, model=model, data=data, meta=True, unsafe=unsafe_load)
    plan = _plan(case)
    student = case.copy().to("meta")
    fitted = [Fitted(entry, kept_because=entry.kept_because) for entry in plan.entries]
    from compressor.fit import put

    for entry in plan.replaced:
        put(student, entry, layer_for(entry, case.sites))
    case.close(student)
    if any(not layer.is_sized for _, layer in structured(student)):
        case.notes.append("sizes that depend on the weights are counted at their largest")
    before = Side(**count(case, copy.deepcopy(case.model).to("meta")))
    after = Side(**count(case, student, fitted))
    return _report(case, "dry run", before, after, _rows(case, fitted, student), [], [], started)


def compare(recipe: Recipe, methods: Sequence[str], **arguments: Any) -> Result:
    """The same job for several methods; a plain method name gets the size of the first, a preset keeps its own."""
    first, *rest = methods
    return run(recipe.model_copy(update={"method": first, "baselines": tuple(rest)}), **arguments)


def _plan(case: Case) -> Plan:
    """The recipe's own plan, where it brings one, else one made for this network."""
    recipe = case.recipe
    if recipe.plan is None:
        return case.plan(recipe.method, recipe.settings)
    check_replayed(case, recipe.plan)
    return recipe.plan


@contextlib.contextmanager
def _destination(output: str | Path | None, force: bool) -> Iterator[tuple[Path, object]]:
    if output is None:
        keep = tempfile.TemporaryDirectory(prefix="compress-")
        yield Path(keep.name), keep
    else:
        with output_folder(Path(output), force=force) as staging:
            yield staging, None


@contextlib.contextmanager
def _deterministic(seed: int) -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before)


def _build(case: Case, name: str, plan: Plan, folder: Path, checkpoint: Path | None) -> Candidate:
    """Fit and distill one method."""
    recipe = case.recipe
    how = recipe.how()
    if case.data is not None and how.epochs and how.noise is not None:
        saturating(case.opened)  # refused before the fit, which takes long
    student = case.copy().to(recipe.device)
    teacher = case.opened.to(recipe.device)
    fitted = fit(
        student, teacher, plan, case.sites, case.runs, case.data, seed=recipe.seed, limit=case.limit,
        progress=case.progress,
    )  # fmt: skip
    candidate = Candidate(name, student, folder, fitted)
    entries = [result.entry for result in fitted if result.kept_because is None]
    if case.data is not None and entries and how.epochs and (why := obstacle(student, case.data)) is not None:
        candidate.notes.append(f"not trained as a whole, only layer by layer: {why}")
    elif case.data is not None and entries and how.epochs and case.limit.reason is None:
        candidate.distilled = distill(
            student, teacher, entries, case.data, how, seed=recipe.seed, limit=case.limit, progress=case.progress,
            checkpoint=checkpoint,
        )  # fmt: skip
        candidate.notes += candidate.distilled.notes
    for where, layer in list(structured(student)):
        if (lean := layer.finished()) is not layer:
            replace(student, where, lean)
    case.close(student)
    packed = [size for _, layer in structured(student) if (size := layer.packed_bytes()) is not None]
    if packed:
        candidate.notes.append(f"entropy-coded, the {len(packed)} {name} layers take {sum(packed):,} bytes")
    return candidate


def _draw(case: Case, candidate: Candidate) -> None:
    """Pictures of the layers that know where their inputs lie, beside the report."""
    assert candidate.model is not None
    files = write_pictures(structured(candidate.model), candidate.folder)
    if files:
        case.notes.append(f"pictures of the weights: {', '.join(files)}")


def _baseline(case: Case, name: str, main: Candidate) -> Candidate:
    plan = baseline_plan(case, name, _sizes(main))
    return _build(case, name, plan, temporary_folder(case, name), None)


def _int8(case: Case, original: Candidate) -> Candidate:
    """The original in 8 bits, before the training too."""
    candidate = Candidate(INT8, None, temporary_folder(case, INT8))
    quantize_int8(original.onnx, candidate.onnx)
    return candidate


def _sizes(main: Candidate) -> dict[str, int]:
    assert main.model is not None
    return {name: layer.params() for name, layer in structured(main.model)}


def _finish(
    case: Case,
    main: Candidate,
    original: Candidate,
    others: Sequence[Candidate],
    eval_fn: Callable[[nn.Module], float] | None,
    started: float,
) -> Report:
    """Export the candidates, verify and measure all of them; the report."""
    case.model.cpu()
    case.opened.cpu()  # what a rebuilt graph is copied from
    for candidate in (main, *(c for c in others if c.model is not None)):
        export(case, candidate)
    assert main.model is not None
    inputs = tuple(x.cpu() for x in case.inputs(max(2, min(_CHECK_ROWS, case.examples_at_once))))
    checks = verify(
        main.folder, main.model, inputs, rebuild=case.rebuild, original=case.model, free=case.loaded.free_axes
    )
    time_all(case, [original, main, *others])
    before, after = (side(case, candidate, eval_fn) for candidate in (original, main))
    baselines = [Baseline(name=c.name, side=side(case, c, eval_fn), note="; ".join(c.notes)) for c in others]
    reason = case.limit.reason
    status = "complete" if reason is None else f"stopped early: {reason}"
    case.notes.extend(main.notes)
    return _report(
        case, status, before, after, _rows(case, main.fitted, main.model, [main, *others]), baselines, checks, started
    )


def _rows(
    case: Case, fitted: Sequence[Fitted], model: nn.Module, candidates: Sequence[Candidate] = ()
) -> list[LayerRow]:
    """One row an entry of the plan; ``candidates`` stand beside each other in it."""
    layers = dict(structured(model))
    rows = []
    for result in fitted:
        sites = [case.sites[name] for name in result.entry.sites]
        layer = layers.get(result.entry.name)
        before, macs = sum(site.params for site in sites), sum(site.macs for site in sites)
        rows.append(
            LayerRow(
                name=result.entry.name,
                sites=list(result.entry.sites),
                in_features=sites[0].in_features,
                out_features=sites[-1].out_features,
                calls=sites[0].calls,
                method=None if layer is None else layer.method,
                config={} if layer is None else layer.config.model_dump(mode="json"),
                params_before=before,
                params_after=before if layer is None else layer.params(),
                macs_before=macs,
                macs_after=macs if layer is None else round(layer.macs() * sites[0].rows),
                fit_error=result.error,
                kept_because=result.kept_because,
                low_rank=result.low_rank,
                stands=_stands(result, candidates),
            )
        )
    return rows


def _stands(result: Fitted, candidates: Sequence[Candidate]) -> list[Stand]:
    """Where each candidate that put one block in the same place stands."""
    return [
        Stand(method=candidate.name, params=layer.params(), error=other.error)
        for candidate in candidates
        if candidate.model is not None
        for other in candidate.fitted
        if other.entry.sites == result.entry.sites and other.error is not None
        for where, layer in structured(candidate.model)
        if where == other.entry.name
    ]


def _resolved(fitted: Sequence[Fitted]) -> Plan:
    """The plan as it was carried out."""
    entries = []
    for result in fitted:
        entry = result.entry
        if result.kept_because is not None:
            entry = entry.model_copy(update={"method": None, "config": {}, "kept_because": result.kept_because})
        entries.append(entry)
    return Plan(entries=tuple(entries))


def _report(
    case: Case,
    status: str,
    before: Side,
    after: Side,
    layers: list[LayerRow],
    baselines: list[Baseline],
    checks: list[Any],
    started: float,
) -> Report:
    return Report(
        model=case.loaded.source,
        method=case.recipe.method,
        status=status,
        before=before,
        after=after,
        layers=layers,
        baselines=baselines,
        verification=checks,
        notes=case.notes,
        wall_time_s=time.monotonic() - started,
        versions=versions(),
        machine={"processor": processor(), "cores": os.cpu_count()},
        seed=case.recipe.seed,
        threads=torch.get_num_threads(),
    )
