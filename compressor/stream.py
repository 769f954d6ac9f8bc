"""The job for models that hardly fit in memory: weights only, layer by layer, from safetensors to safetensors.

(From ONNX to ONNX: `compressor.stream_graph`.)

The network is built without numbers; each dense map is read, fitted in the space of weights, written and forgotten.
Nothing is run as a whole, so there are no figures of quality or speed, and no ONNX file. What was written is read back,
layer by layer: a structured layer must give what it gave in memory, a kept tensor must be the source's.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compressor.case import processor, threads, versions
from compressor.errors import CompressorError
from compressor.layers import Metric, StructuredLayer, build, method, replace
from compressor.plan import Entry, Plan, layer_for, make_plan
from compressor.progress import Progress, silent
from compressor.recipe import Recipe
from compressor.report import Check, LayerRow, Report, Side, write_reports
from compressor.sites import Site, check_types, find_sites
from compressor_converters.folder import check_free, output_folder
from compressor_converters.hugging_face.config import CONFIG, is_folder, safetensors_files
from compressor_converters.hugging_face.reading import skeleton_of
from compressor_converters.hugging_face.writing import write_config
from compressor_converters.load import build_network
from compressor_converters.manifest import LayerEntry, describe
from compressor_converters.safetensors_file import METADATA_KEY, read_manifest
from compressor_converters.tensor_stream import Source, Writer

_ROWS = 4
TOLERANCE = 1e-5


@dataclass
class _Stream:
    """One streamed job under way."""

    recipe: Recipe
    skeleton: nn.Module  # on the meta device
    source: Source
    sites: dict[str, Site]
    writer: Writer
    written: dict[str, Tensor] = field(default_factory=dict)  # by layer: what it gave for the probe
    rows: list[LayerRow] = field(default_factory=list)


def stream(recipe: Recipe, output: str | Path, *, force: bool = False, progress: Progress = silent) -> Report:
    """Compress the safetensors file, Hugging Face folder or ONNX file of ``recipe`` into the folder ``output``.

    In memory at any time: one layer with what its fit needs, never the model.
    """
    started, output = time.monotonic(), Path(output)
    check_free(output, force=force)
    given = [name for name in ("data", "eval_data", "baselines", "epochs", "time_limit") if getattr(recipe, name)]
    if given:
        raise CompressorError(f"--stream fits weights only, layer by layer: leave {' and '.join(given)} out")
    if Path(recipe.model or "").suffix == ".onnx":
        from compressor.stream_graph import stream_graph  # which needs this module

        return stream_graph(recipe, output, force=force, progress=progress)
    skeleton, files, folder = _skeleton(recipe)
    check_types(skeleton, recipe.arch or str(recipe.model))
    source = Source(files)
    tied = _check_names(recipe, skeleton, source)
    sites = {site.name: site for site in find_sites(skeleton, None)}
    plan = make_plan(
        list(sites.values()), None, recipe.method, recipe.settings, target=recipe.target, ignore=recipe.ignore,
        window="off", seed=recipe.seed,
    )  # fmt: skip
    check_plan(plan, sites, recipe.method)
    with threads(recipe.threads), torch.no_grad(), output_folder(output, force=force) as staging:
        job = _Stream(recipe, skeleton, source, sites, Writer(staging / "model.safetensors"))
        before = sum(value.numel() for value in skeleton.parameters())
        _layers(job, plan, progress)
        _rest(job)
        manifest = describe(skeleton, arch=recipe.arch).model_copy(update={"shared": tied})
        job.writer.close({METADATA_KEY: manifest.model_dump_json()})
        checks = _read_back(job, staging / "model.safetensors", progress)
        if folder is not None:
            write_config(skeleton, staging, source=folder)
        report = _report(job, before, staging, checks, started)
        (staging / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
        write_reports(report, staging)
    return report


def _skeleton(recipe: Recipe) -> tuple[nn.Module, list[Path], Path | None]:
    """The network without numbers, the files with them, and the folder of a Hugging Face model."""
    path = Path(recipe.model or "")
    if is_folder(path):
        files = safetensors_files(path)
        return skeleton_of(path).eval(), files, path
    if path.suffix == ".safetensors" and path.is_file():
        if recipe.arch is None:
            raise CompressorError(f"{path}: is a state dict; name the code that makes the network: --arch")
        return build_network(recipe.arch, meta=True).eval(), [path], None
    raise CompressorError(
        f"--stream reads a .safetensors file, a Hugging Face folder or an .onnx file, not {recipe.model}"
    )


def _check_names(recipe: Recipe, skeleton: nn.Module, source: Source) -> dict[str, str]:
    """Names in the network whose tensor the files have under another name; CompressorError where the two differ."""
    own = skeleton.state_dict(keep_vars=True)
    stored: dict[int, str] = {id(own[name]): name for name in source.shapes if name in own}
    tied = {name: stored[id(value)] for name, value in own.items() if name not in source.shapes and id(value) in stored}
    missing = [name for name in own if name not in source.shapes and name not in tied]
    unknown = [name for name in source.shapes if name not in own]
    other = [name for name, shape in source.shapes.items() if name in own and tuple(own[name].shape) != shape]
    if missing or unknown or other:
        raise CompressorError(
            f"{recipe.model}: its tensors are not those of the network by name and shape ({len(missing)} missing,"
            f" {len(unknown)} unknown, {len(other)} of another shape: {[*missing, *unknown, *other][0]});"
            " leave --stream out, so that it is loaded as a whole"
        )
    return tied


def check_plan(plan: Plan, sites: dict[str, Site], name: str) -> None:
    """CompressorError where nothing is replaced, or the method needs more than weights."""
    if not plan.replaced:
        raise CompressorError(f"{name} replaces none of the {len(sites)} dense layers")
    if not layer_for(plan.replaced[0], sites).is_linear:
        raise CompressorError(f"{name} with these settings is fitted to samples, which --stream does not make")


def _layers(job: _Stream, plan: Plan, progress: Progress) -> None:
    with progress("fit", len(plan.entries)) as advance:
        for entry in plan.entries:
            row = _kept(job, entry) if entry.method is None else _layer(job, entry)
            job.rows.append(row)
            advance(1, entry.name)


def _kept(job: _Stream, entry: Entry, error: float | None = None, because: str | None = None) -> LayerRow:
    return layer_row(job.sites[entry.name], None, error, because or entry.kept_because)


def _layer(job: _Stream, entry: Entry) -> LayerRow:
    """Fit one layer, write it, and leave its shape in the skeleton."""
    site = job.sites[entry.name]
    weight = job.source.tensor(f"{entry.name}.weight").float()
    bias = job.source.tensor(f"{entry.name}.bias").float() if site.bias else None
    layer = fitted(entry, site, weight, bias, job.recipe.seed)
    if layer.params() >= site.params:
        return _kept(job, entry, because=f"{entry.method} would not be smaller")
    error = weight_error(layer, weight)
    for name, value in layer.state_dict().items():
        job.writer.add(f"{entry.name}.{name}", value)
    job.written[entry.name] = layer(_probe(site.in_features))
    row = layer_row(site, layer, error, None)
    replace(job.skeleton, entry.name, layer.to("meta"))
    return row


def fitted(entry: Entry, site: Site, weight: Tensor, bias: Tensor | None, seed: int) -> StructuredLayer:
    """The layer nearest to ``weight`` and ``bias`` in the space of weights."""
    assert entry.method is not None
    if not all(torch.isfinite(part).all() for part in (weight, bias) if part is not None):
        raise CompressorError(f"'{entry.name}' holds numbers that are NaN or infinite; mend it, or --ignore it")
    chosen = method(entry.method)
    torch.manual_seed(seed)
    layer = chosen.layer.from_dense(weight, bias, chosen.config(entry.config), Metric.identity(site.in_features))
    return layer.finished()


def weight_error(layer: StructuredLayer, weight: Tensor) -> float:
    """``‖W − Ŵ‖ / ‖W‖``, a few columns at a time."""
    total = lost = 0.0
    zero = layer(torch.zeros(1, layer.in_features))
    for start in range(0, layer.in_features, 256):
        part = weight[:, start : start + 256]
        unit = torch.zeros(part.shape[1], layer.in_features)
        unit[range(part.shape[1]), range(start, start + part.shape[1])] = 1
        total += float(part.double().square().sum())
        lost += float((part - (layer(unit) - zero).T).double().square().sum())
    return (lost / total) ** 0.5 if total else 0.0


def _probe(features: int) -> Tensor:
    return torch.randn(_ROWS, features, generator=torch.Generator().manual_seed(0))


def _rest(job: _Stream) -> None:
    """Copy every tensor that no structured layer stands for."""
    for name in job.source.shapes:
        if not _is_replaced(job, name):
            job.writer.add(name, job.source.tensor(name))


def _is_replaced(job: _Stream, name: str) -> bool:
    return name.rpartition(".")[0] in job.written


def _read_back(job: _Stream, path: Path, progress: Progress) -> list[Check]:
    """Run every structured layer of the file, and compare every other tensor with the source's."""
    back, manifest = Source([path]), read_manifest(path)
    worst = largest = 0.0
    with progress("verify", len(back.shapes)) as advance:
        for name, entry in manifest.layers.items():
            layer = _rebuilt(back, name, entry)
            expected = job.written[name]
            worst = max(worst, float((layer(_probe(entry.in_features)) - expected).abs().max()))
            largest = max(largest, float(expected.abs().max()))
            advance(1, name)
        for name in job.source.shapes:
            if not _is_replaced(job, name):
                if not torch.equal(back.tensor(name), job.source.tensor(name)):
                    raise CompressorError(
                        f"model.safetensors: '{name}' is not what the original has; nothing was written"
                    )
                advance(1, name)
    relative = worst / largest if largest else worst
    if not relative <= TOLERANCE:
        raise CompressorError(
            f"model.safetensors: its layers differ from those in memory by {relative:.2e}, over {TOLERANCE:g};"
            " nothing was written"
        )
    return [
        Check(
            file="model.safetensors", against="each layer in memory, each kept tensor of the original",
            max_abs=worst, max_rel=relative, tolerance=TOLERANCE, rows=_ROWS,
        )
    ]  # fmt: skip


def _rebuilt(back: Source, name: str, entry: LayerEntry) -> StructuredLayer:
    with torch.random.fork_rng(devices=[]):
        layer = build(entry.method, entry.in_features, entry.out_features, bias=entry.bias, config=entry.config)
    layer.load_state_dict({own: back.tensor(f"{name}.{own}") for own in layer.state_dict()})
    return layer.eval()


def layer_row(site: Site, layer: StructuredLayer | None, error: float | None, kept: str | None) -> LayerRow:
    """What became of ``site``: ``layer`` at an error of fit, or kept because of ``kept``."""
    return LayerRow(
        name=site.name, sites=[site.name], in_features=site.in_features, out_features=site.out_features,
        method=None if layer is None else layer.method,
        config={} if layer is None else layer.config.model_dump(mode="json"),
        params_before=site.params, params_after=site.params if layer is None else layer.params(),
        macs_before=site.macs, macs_after=site.macs if layer is None else layer.macs(),
        fit_error=error, kept_because=kept,
    )  # fmt: skip


def _report(job: _Stream, before: int, staging: Path, checks: list[Check], started: float) -> Report:
    size = {
        name: (staging / name).stat().st_size for name in ("model.safetensors", CONFIG) if (staging / name).exists()
    }
    stored = {"model.safetensors": sum(job.source.nbytes.values())}
    return stream_report(job.recipe, job.rows, before, (stored, size), checks, started)


def stream_report(
    recipe: Recipe, rows: list[LayerRow], before: int, sizes: tuple[dict[str, int], dict[str, int]],
    checks: list[Check], started: float,
) -> Report:  # fmt: skip
    """The report of a streamed job on a model of ``before`` parameters; ``sizes``: of the files, before and after."""
    dense = [sum(getattr(row, which) for row in rows) for which in ("params_before", "params_after")]
    facts: dict[str, Any] = {"seed": recipe.seed, "threads": torch.get_num_threads(), "versions": versions()}
    return Report(
        model=str(recipe.model), method=recipe.method, status="complete",
        before=Side(params=before, dense_params=dense[0], size_bytes=sizes[0]),
        after=Side(params=before - dense[0] + dense[1], dense_params=dense[1], size_bytes=sizes[1]),
        layers=rows, verification=checks,
        notes=["streamed: fitted in the space of weights (Σ = I), layer by layer; the original was not run"],
        wall_time_s=time.monotonic() - started, machine={"processor": processor()}, **facts,
    )  # fmt: skip
