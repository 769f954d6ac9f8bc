"""Fit a structured layer that has no closed form: L-BFGS on the whitened loss, Adam on samples.

Deterministic, and bounded by work (floating-point operations), never by the clock.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from compressor.layers import lbfgs
from compressor.layers.base import Metric, StructuredLayer
from compressor.layers.rates import parameter_groups
from compressor.layers.truncation import leading

_COLUMNS = 512  # of the root of Σ that the loss is taken on
_ENERGY = 0.999  # of Σ that they must hold; else half of them sketch the rest
_WORK = 6e9  # multiply-adds for one layer: some 10 s on one core
_STARTS = 4
_SAMPLE_ROWS = 16384
_BATCH = 256
_MEASURED_ROWS = 4096
_EPOCHS = 20
_STEPS = 500  # at least, where there are few rows
_RATE = 1e-3  # of dense parameters


@torch.no_grad()
def wanted_offset(layer: StructuredLayer, weight: Tensor, bias: Tensor | None, metric: Metric) -> Tensor:
    """What a linear layer must give for a zero input so that the mean is mapped right: ``b + (W − Ŵ) μ``, ``(out,)``.

    ``weight`` and ``bias`` are the aim; zero where there is no bias.
    """
    if bias is None:
        return weight.new_zeros(len(weight))
    missed = weight.double() - layer.dense()[0].to(weight.device).double()
    return (bias.double() + missed @ metric.mean.double()).to(weight.dtype)


def fit_linear(layer: StructuredLayer, weight: Tensor, metric: Metric, *, order: int | None) -> None:
    """Minimise ``‖(W − Ŵ) Σ^½‖`` over all that ``layer`` trains but its biases, in place; never worse than zero.

    ``weight (out, in)`` is W; ``order`` is the degree of Ŵ in those parameters together (scaling them all by t
    scales Ŵ by t^order), None where it has none: then the start must be of the right size, and is all that bounds the
    error.
    """
    names = [name for name, _ in layer.named_parameters() if layer.kind(name) != "bias"]
    scaled = [parameter for name, parameter in layer.named_parameters() if name in names]
    dtype = torch.float64 if max(weight.shape) <= 512 else torch.float32
    original = weight.dtype
    layer.to(dtype)
    like = scaled[0]
    probes, aim = _whitened(weight, metric, like)
    total = aim.square().sum()
    if float(total) > 0:
        if order is not None:
            with torch.no_grad():
                now = _linear_part(layer, probes).square().sum()
                _scale(scaled, float((total / now.clamp_min(1e-30)).sqrt()), order)
        affordable = int(_WORK / _cost(layer, len(probes)))
        evaluations = max(lbfgs.LEAST_EVALUATIONS, min(lbfgs.MOST_EVALUATIONS, affordable))
        _search(
            layer,
            scaled,
            (probes, aim),
            lambda: _whitened(weight, Metric.identity(weight.shape[1]), like),
            evaluations,
        )
    if order is not None:
        with torch.no_grad():
            _scale(scaled, _best_gain(layer, weight, metric), order)
    layer.to(original)


def refine_linear(layer: StructuredLayer, weight: Tensor, metric: Metric, *, order: int) -> None:
    """`fit_linear` from a start that is good already, and stands where the end is not nearer to ``weight``.

    The end can miss where the metric is too wide for the columns that the loss is taken on.
    """
    before = missed_energy(layer, weight, metric)
    start = copy.deepcopy(layer.state_dict())
    fit_linear(layer, weight, metric, order=order)
    if missed_energy(layer, weight, metric) > before:
        layer.load_state_dict(start)


@torch.no_grad()
def missed_energy(layer: StructuredLayer, weight: Tensor, metric: Metric) -> float:
    """``‖(W − Ŵ) Σ^½‖²``."""
    missed = (weight - layer.dense()[0]).double()
    return float(((missed @ metric.covariance.double()) * missed).sum())


def _search(
    layer: StructuredLayer,
    scaled: list[torch.nn.Parameter],
    wanted: tuple[Tensor, Tensor],
    plain: Callable[[], tuple[Tensor, Tensor]],
    evaluations: int,
) -> None:
    """L-BFGS on ``wanted`` (probes, aim) from several starts for a while, then on from the best of them.

    The starts: the layer as it is, its fit to ``plain`` (the weights alone), and the layer with its parameters
    disturbed. The loss has local minima, most at small depths.
    """

    def loss_of(probes: Tensor, aim: Tensor) -> Callable[[], Tensor]:
        total = aim.square().sum()
        return lambda: (_linear_part(layer, probes) - aim).square().sum() / total

    loss = loss_of(*wanted)
    trial = evaluations // (2 * _STARTS)
    if trial < lbfgs.LEAST_EVALUATIONS // 2:
        lbfgs.minimise(scaled, loss, evaluations)
        return
    first = [parameter.detach().clone() for parameter in scaled]
    generator = torch.Generator().manual_seed(0)
    ends: list[tuple[float, list[Tensor]]] = []
    for start in range(_STARTS):
        with torch.no_grad():
            for parameter, values in zip(scaled, first, strict=True):
                noise = torch.randn(values.shape, generator=generator).to(values)
                parameter.copy_(values * (1 + noise) if start > 1 else values)
        if start == 1:
            lbfgs.minimise(scaled, loss_of(*plain()), trial)
        lbfgs.minimise(scaled, loss, trial)
        with torch.no_grad():
            ends.append((float(loss()), [parameter.detach().clone() for parameter in scaled]))
    with torch.no_grad():
        for parameter, values in zip(scaled, min(ends, key=lambda end: end[0])[1], strict=True):
            parameter.copy_(values)
    lbfgs.minimise(scaled, loss, evaluations // 2)


def _whitened(weight: Tensor, metric: Metric, like: Tensor) -> tuple[Tensor, Tensor]:
    """Probes ``(columns, in)`` of the metric and what ``weight`` makes of them, ``(columns, out)``."""
    probes = _probes(metric).to(like)
    return probes, probes @ weight.detach().to(like).T


def fit_to_samples(layer: StructuredLayer, x: Tensor, y: Tensor) -> float:
    """Train ``layer`` on ``x (rows, in) -> y (rows, out)``: Adam, diagonals quicker, then L-BFGS; the best is kept.

    Returns ``‖layer(x) − y‖ / ‖y − mean‖`` over the rows used (at most 16,384); without biases the plain norm of y.
    """
    x, y = x[:_SAMPLE_ROWS].detach(), y[:_SAMPLE_ROWS].detach()
    scale = float((y - y.mean(0) if layer.has_bias else y).square().mean()) or 1.0

    def loss_on(rows: slice | Tensor) -> Tensor:
        missed: Tensor = layer(x[rows]) - y[rows]
        return missed.square().mean() / scale

    @torch.no_grad()
    def loss_on_all() -> float:
        starts = range(0, len(x), _MEASURED_ROWS)
        parts = [slice(start, min(start + _MEASURED_ROWS, len(x))) for start in starts]
        return math.fsum(float(loss_on(part)) * (part.stop - part.start) for part in parts) / len(x)

    best, best_state = loss_on_all(), copy.deepcopy(layer.state_dict())
    work = _cost(layer, len(x))
    for _ in _adam(layer, loss_on, len(x), work):
        now = loss_on_all()
        if now < best:
            best, best_state = now, copy.deepcopy(layer.state_dict())
    layer.load_state_dict(best_state)
    if work * lbfgs.LEAST_EVALUATIONS <= _WORK:  # full batches are cheap
        evaluations = min(lbfgs.MOST_EVALUATIONS, int(_WORK / work))
        lbfgs.minimise(list(layer.parameters()), lambda: loss_on(slice(None)), evaluations)
        best = loss_on_all()
    return math.sqrt(best)


def linear_aim(x: Tensor, y: Tensor, *, has_bias: bool) -> tuple[Tensor, Tensor | None, Metric]:
    """The affine map nearest to ``x (rows, in) -> y (rows, out)``, as weight and bias, and the metric of x."""
    x64, y64 = x.detach().cpu().double(), y.detach().cpu().double()
    mean, aim_mean = x64.mean(0), y64.mean(0)
    if not has_bias:
        mean, aim_mean = torch.zeros_like(mean), torch.zeros_like(aim_mean)
    weight = ridge(x64 - mean, y64 - aim_mean).T
    metric = Metric((x64 - mean).T @ (x64 - mean) / len(x64), mean)
    bias = (aim_mean - weight @ mean).to(x.dtype) if has_bias else None
    return weight.to(x.dtype), bias, metric


def ridge(features: Tensor, y: Tensor, *, damping: float = 1e-4) -> Tensor:
    """``A (features, out)`` that minimises ``‖F A − Y‖² + λ‖A‖²``, λ = damping × the mean of F's squared columns.

    The smaller of the two normal systems is solved, in float64: ``(rows, features)`` is cheap while either is small.
    """
    f, aim = features.double(), y.double()
    wide = f.shape[1] > f.shape[0]
    gram = f @ f.T if wide else f.T @ f
    ridge_by = damping * float(f.square().sum()) / f.shape[1] + 1e-12
    gram.diagonal().add_(ridge_by)
    factor = torch.linalg.cholesky(gram)
    if wide:
        return f.T @ torch.cholesky_solve(aim, factor)
    return torch.cholesky_solve(f.T @ aim, factor)


def _probes(metric: Metric) -> Tensor:
    """Rows ``R (columns, in)`` with ``RᵀR ≈ Σ``: its leading eigenvectors, and a sketch of the rest where it counts."""
    sigma = metric.covariance.double()
    values, vectors = leading(sigma, _COLUMNS)
    rows = (vectors * values.sqrt()).T  # most energy first
    total, held = float(sigma.trace()), values.cumsum(0)
    needed = int((held < _ENERGY * total).sum()) + 1
    if needed <= len(rows) or len(rows) == len(sigma):
        return rows[:needed]
    half = _COLUMNS // 2
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(_COLUMNS - half, len(sigma), generator=generator, dtype=rows.dtype)
    mix -= mix @ vectors[:, :half] @ vectors[:, :half].T  # the rest is taken to be the same in all directions
    spread = (total - float(held[half - 1])) / (len(sigma) - half)
    return torch.cat((rows[:half], mix * math.sqrt(max(spread, 0.0) / (_COLUMNS - half))))


def _linear_part(layer: StructuredLayer, rows: Tensor) -> Tensor:
    """``rows Ŵᵀ``: the layer without what it gives for a zero input."""
    given = layer.transform(F.pad(rows, (0, 0, 0, 1)))  # one row of zeros below
    return torch.sub(given[:-1], given[-1:]) if layer.has_bias else given[:-1]


def _scale(parameters: list[torch.nn.Parameter], gain: float, order: int) -> None:
    for parameter in parameters:
        parameter.mul_(gain ** (1 / order))


def _best_gain(layer: StructuredLayer, weight: Tensor, metric: Metric) -> float:
    """The g ≥ 0 that minimises ``‖(W − g Ŵ) Σ^½‖``; 0 where Ŵ has no part of W."""
    sigma, approximation = metric.covariance.double(), layer.dense()[0].to(metric.covariance.device).double()
    seen = approximation @ sigma
    own = float((seen * approximation).sum())
    common = float((seen * weight.double()).sum())
    return max(0.0, common / own) if math.isfinite(own) and own > 0 else 0.0


def _cost(layer: StructuredLayer, rows: int) -> int:
    """Operations of one forward and backward pass; those of matmuls count less, for they run quicker."""
    return 6 * rows * min(layer.macs(), 8 * layer.trained_params())


def _adam(layer: StructuredLayer, loss_on: Callable[[Tensor], Tensor], count: int, work: int) -> Iterator[int]:
    """Epochs over ``count`` rows in an order of its own, each costing ``work``; yields after each."""
    optimizer = torch.optim.AdamW(parameter_groups(layer, _RATE, 0.0))
    batches = math.ceil(count / _BATCH)
    epochs = max(1, min(max(_EPOCHS, _STEPS // batches), int(4 * _WORK / work)))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * batches)
    generator = torch.Generator().manual_seed(0)
    for epoch in range(epochs):
        for rows in torch.split(torch.randperm(count, generator=generator), _BATCH):
            optimizer.zero_grad()
            loss_on(rows).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
        yield epoch
