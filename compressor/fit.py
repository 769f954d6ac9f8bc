"""Put a structured block at every planned place, fitted in the metric of what it really sees there.

Sites are walked in the order of the calls: each is fitted on the inputs that the *compressed* prefix
produces, towards what the *original* network gives, so errors made before are compensated.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

import torch
from torch import Tensor, nn

from compressor.calibrate import moments
from compressor.data import Dataset
from compressor.imitate import imitate
from compressor.layers import Metric, StructuredLayer, method, replace
from compressor.measure import low_rank_errors
from compressor.plan import Entry, Plan, layer_for
from compressor.prefix import Prefix
from compressor.progress import Limit, Progress
from compressor.sites import Run, Site, activation_after, device_of, examples_at_once, extract

CALIBRATION_EXAMPLES = 8192
CALIBRATION_ROWS = 1 << 17
_SAMPLE_BYTES = 64 * 2**20  # of the inputs kept to train one block on


@dataclass(frozen=True)
class Fitted:
    """What became of an entry: its relative error in the metric of the data, or why it was kept dense."""

    entry: Entry
    error: float | None = None
    kept_because: str | None = None
    low_rank: list[tuple[int, float]] = field(default_factory=list)  # (rank, error) of the best maps of that rank


def fit(
    student: nn.Module,
    teacher: nn.Module,
    plan: Plan,
    sites: Mapping[str, Site],
    runs: Sequence[Run] | None,
    data: Dataset | None,
    *,
    seed: int,
    limit: Limit,
    progress: Progress,
) -> list[Fitted]:
    """Replace the windows of ``plan`` in ``student``, in place; ``teacher`` stays the original.

    Without data every site is fitted on Σ = I, in the space of weights. After the limit is reached the rest
    is still fitted, but not trained block by block.
    """
    walk = _Walk(Prefix(student), Prefix(teacher), sites, runs, data, seed, limit)
    if data is not None:
        walk.batch = examples_at_once(sites.values(), data.head(1).inputs)
    results: list[Fitted] = []
    with progress("fit", len(plan.entries)) as advance:
        for entry in plan.entries:
            results.append(
                Fitted(entry, kept_because=entry.kept_because) if entry.method is None else walk.replaced(entry)
            )
            advance(1, entry.name)
    return results


def put(student: nn.Module, entry: Entry, layer: nn.Module) -> None:
    """Set ``layer`` at the place of the window and identities at the rest of it."""
    replace(student, entry.name, layer)
    for name in (*entry.sites[1:], *entry.passed):
        replace(student, name, nn.Identity())


@dataclass
class _Walk:
    """One walk over the sites, in the order of their calls."""

    student: Prefix
    teacher: Prefix
    sites: Mapping[str, Site]
    runs: Sequence[Run] | None
    data: Dataset | None
    seed: int
    limit: Limit
    batch: int = 1  # examples that are run together
    changed: bool = False  # whether something before the next site was replaced

    def replaced(self, entry: Entry) -> Fitted:
        """Fit a layer for the window of ``entry`` and put it there, unless it is not worth it."""
        student, template = self.student.model, layer_for(entry, self.sites)
        low_rank: list[tuple[int, float]] = []
        samples: tuple[Tensor, Tensor] | None = None
        if template.is_linear and len(entry.sites) == 1:
            layer, error, low_rank = self.linear(entry)
            before, after = self.sites[entry.name].params, layer.finished().params()
            if after >= before:
                why = f"{entry.method} would not be smaller ({after:,} against {before:,})"
                return Fitted(entry, kept_because=why)
        else:
            torch.manual_seed(self.seed)
            layer = layer_for(entry, self.sites, device=str(device_of(student)))
            samples = self.samples(entry)
            error = layer.fit_samples(*samples)
        if not math.isfinite(error):
            return Fitted(entry, kept_because=f"the fit of {entry.method} did not stay finite")
        layer = layer.to(device_of(student))
        activation = activation_after(self.runs, entry.sites[-1])
        for parameter in layer.parameters():
            parameter.requires_grad_(True)
        if self.data is not None and self.limit.reason is None and activation is not None:
            x, y = samples or self.samples(entry)
            imitate(layer, activation, x, y, seed=self.seed, limit=self.limit)
        put(student, entry, layer)
        self.changed = True
        return Fitted(entry, error=error, low_rank=low_rank)

    def linear(self, entry: Entry) -> tuple[StructuredLayer, float, list[tuple[int, float]]]:
        """The layer fitted to one dense map, its error, and the spectrum of what it was fitted to."""
        assert entry.method is not None
        dense = self.teacher.model.get_submodule(entry.name)
        assert isinstance(dense, nn.Linear)
        weight = dense.weight.detach().cpu()
        bias: Tensor | None = None if dense.bias is None else dense.bias.detach().cpu()
        if self.data is None:
            metric = Metric.identity(dense.in_features)
        else:
            site = self.sites[entry.name]
            batches = self.inputs(self.data, site)
            same, every = not self.changed, site.is_repeated
            seen = moments(entry.name, self.teacher, self.student, batches, same_prefix=same, every=every)
            weight, bias, metric = seen.target(weight, bias)
        chosen = method(entry.method)
        layer = chosen.layer.from_dense(weight, bias, chosen.config(entry.config), metric)
        with torch.no_grad():
            error = metric.relative_error(weight, layer.dense()[0])
        return layer, error, low_rank_errors(weight, metric)

    def inputs(self, data: Dataset, site: Site) -> Iterator[tuple[Tensor, ...]]:
        """Batches of model inputs: enough examples, or enough rows where ``site`` sees many of one (tokens)."""
        device = device_of(self.student.model)
        examples = min(CALIBRATION_EXAMPLES, CALIBRATION_ROWS / max(1.0, site.rows))
        for batch in islice(data.batches(self.batch, seed=self.seed), math.ceil(examples / self.batch)):
            yield tuple(x.to(device) for x in batch.inputs)

    def samples(self, entry: Entry) -> tuple[Tensor, Tensor]:
        """Rows that enter the window in the compressed network, and what the original window gives for them."""
        site, teacher = self.sites[entry.name], self.teacher.model
        width = site.in_features
        most = max(2048, _SAMPLE_BYTES // (4 * width))
        if self.data is None:
            generator = torch.Generator().manual_seed(self.seed)
            x = torch.randn(min(most, 4 * width), width, generator=generator).to(device_of(self.student.model))
            with torch.no_grad():
                return x, extract(teacher, _modules_of(entry, teacher))(x)
        xs, ys, rows, every = [], [], 0, site.is_repeated
        seeing = self.student if self.changed else self.teacher
        for number, inputs in enumerate(self.inputs(self.data, site)):
            xs.append(seeing.rows_at(entry.name, inputs, number, every=every))
            ys.append(self.teacher.rows_at(entry.sites[-1], inputs, number, output=True, every=every))
            rows += len(xs[-1])
            if rows >= most:
                break
        return torch.cat(xs)[:most], torch.cat(ys)[:most]


def _modules_of(entry: Entry, model: nn.Module) -> tuple[str, ...]:
    wanted = {*entry.sites, *entry.passed}
    return tuple(name for name, _ in model.named_modules() if name in wanted)
