"""How well a network does: metrics on labelled data, and likeness to the original where there are no labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from compressor.data import Dataset
from compressor.errors import CompressorError, nearest

Run = Callable[[tuple[Tensor, ...]], Tensor]
Metric = Callable[[Tensor, Tensor], float]  # of all outputs and all labels

IGNORED = -100  # the label of what counts for nothing, such as padding; torch's cross-entropy skips it too


@dataclass(frozen=True)
class Quality:
    """How well a network does on labelled data; which way is better is not known of a metric of the user's own."""

    metric: str
    value: float
    higher_is_better: bool | None
    examples: int


@dataclass(frozen=True)
class Fidelity:
    """How near one network is to another: share of equal argmax (None without classes), ``‖s − t‖ / ‖t‖``."""

    agreement: float | None
    relative_error: float
    examples: int


def first_output(y: object) -> Tensor:
    """The main tensor of what a model returned: itself, ``logits``, else the first that is not a ``loss``."""
    if isinstance(y, Tensor):
        return y
    if isinstance(y, Mapping):
        if isinstance(y.get("logits"), Tensor):
            return first_output(y["logits"])
        y = [value for key, value in y.items() if key != "loss"]
    if isinstance(y, Sequence) and not isinstance(y, str):
        for value in y:
            if isinstance(value, Tensor | Mapping | list | tuple):
                return first_output(value)
    raise CompressorError(f"the model returns a {type(y).__name__} without a tensor in it; let it return a tensor")


def output_place(y: object) -> int:
    """Which of the tensors in ``y`` the main one is: so a file, whose outputs are all of them in a row, numbers it."""
    main = first_output(y)
    tensors = [leaf for leaf in tree_leaves(y) if isinstance(leaf, Tensor)]
    return next((i for i, leaf in enumerate(tensors) if leaf is main), 0)


def difference(one: Tensor, other: Tensor) -> Tensor:
    """``one - other``, 0 where they are equal: infinities too, which a mask writes where nothing is to be said."""
    return torch.where(one == other, 0, one - other)


def _hits(outputs: Tensor, labels: Tensor, most: int = 1) -> Tensor:
    """1 for each label that is among the ``most`` highest outputs, 0 for the others; those that count."""
    axis = _class_axis(outputs, labels)
    if axis is None:
        raise CompressorError(f"{_fit(outputs, labels)} as classes; name another --metric (mse, mae, rmse)")
    scores = outputs.movedim(axis, -1)
    highest = scores.topk(min(most, scores.shape[-1]), dim=-1).indices
    return (highest == labels.unsqueeze(-1)).any(-1).double()[labels != IGNORED]


def _class_axis(outputs: Tensor, labels: Tensor) -> int | None:
    """Where the scores of the classes lie: last, as in ``(rows, classes)``, or second, as in images; None: nowhere."""
    if labels.is_floating_point() or outputs.ndim != labels.ndim + 1:
        return None
    for axis in (outputs.ndim - 1, 1):
        rest = outputs.shape[:axis] + outputs.shape[axis + 1 :]
        if outputs.shape[axis] >= 2 and rest == labels.shape:
            return axis
    return None


def _difference(outputs: Tensor, labels: Tensor) -> Tensor:
    if outputs.numel() != labels.numel():
        are_classes = outputs.ndim == labels.ndim + 1 and bool((labels == labels.round()).all())
        mend = "save class labels as whole numbers (int64)" if are_classes else "name another --metric"
        raise CompressorError(f"{_fit(outputs, labels)} number by number; {mend}")
    return outputs.double() - labels.reshape(outputs.shape).double()


def _fit(outputs: Tensor, labels: Tensor) -> str:
    kind = str(labels.dtype).removeprefix("torch.")
    return f"labels {tuple(labels.shape)} {kind} do not fit the model's outputs {tuple(outputs.shape)}"


@dataclass(frozen=True)
class _BuiltIn:
    """A metric as a mean over all terms, so that nothing need be kept."""

    terms: Callable[[Tensor, Tensor], Tensor]
    higher_is_better: bool
    finish: Callable[[float], float] = lambda mean: mean


_METRICS: dict[str, _BuiltIn] = {
    "accuracy": _BuiltIn(_hits, True),
    "error": _BuiltIn(lambda y, labels: 1 - _hits(y, labels), False),
    "top5": _BuiltIn(lambda y, labels: _hits(y, labels, 5), True),
    "mse": _BuiltIn(lambda y, labels: _difference(y, labels).square(), False),
    "mae": _BuiltIn(lambda y, labels: _difference(y, labels).abs(), False),
    "rmse": _BuiltIn(lambda y, labels: _difference(y, labels).square(), False, math.sqrt),
}


def check_metric(metric: str | Metric | None) -> None:
    """Say at once that a metric does not exist, before the work begins."""
    if metric is not None and metric not in _METRICS:
        _own_metric(metric)


def _own_metric(metric: str | Metric) -> tuple[str, Metric]:
    """The name and the function of a metric of the user's own."""
    if not isinstance(metric, str):
        return getattr(metric, "__name__", type(metric).__name__), metric
    if ":" not in metric:
        raise CompressorError(f"there is no metric '{metric}'; {nearest(metric, _METRICS)}, or module:callable")
    from compressor_converters.arch import import_callable

    return metric, import_callable(metric)


def _own_value(name: str, metric: Metric, outputs: Tensor, labels: Tensor) -> float:
    from compressor_converters.arch import said

    try:
        return float(metric(outputs, labels))
    except Exception as error:  # the user's code: any kind
        given = f"outputs {tuple(outputs.shape)} and labels {tuple(labels.shape)}"
        raise CompressorError(
            f"the metric {name} raised {said(error)} for {given}; write it as f(outputs, labels) -> float"
        ) from error


@torch.no_grad()
def evaluate(
    run: Run, data: Dataset, metric: str | Metric | None, batch_size: int = 256, *, batches: int | None = None
) -> Quality:
    """How well ``run`` does on ``data``, by a metric's name, ``module:callable`` or ``f(outputs, labels) -> float``.

    By default the accuracy where labels are whole numbers and outputs scores of classes, else the mean squared
    error. A metric of the user's own gets all outputs and all labels at once, on the CPU: of one shape, then. With
    ``batches`` only so many are looked at.
    """
    name, own = (metric, None) if metric is None or metric in _METRICS else _own_metric(metric)
    total, terms, examples = 0.0, 0, 0
    kept: list[tuple[Tensor, Tensor]] = []
    for batch in islice(data.batches(batch_size), batches):
        if batch.labels is None:
            raise CompressorError(f"the metric {name or 'accuracy'} needs labels, and the data has none")
        outputs, labels = run(batch.inputs).detach().cpu(), batch.labels.cpu()
        examples += len(batch)
        if own is not None:
            kept.append((outputs, labels))
            continue
        if name is None:
            name = "mse" if _class_axis(outputs, labels) is None else "accuracy"
        values = _METRICS[str(name)].terms(outputs, labels)
        total += float(values.sum())
        terms += values.numel()
    if own is not None:
        shapes = sorted({(tuple(outputs.shape[1:]), tuple(labels.shape[1:])) for outputs, labels in kept})
        if len(shapes) > 1:
            raise CompressorError(
                f"the metric {name} gets all outputs and labels at once, and their shapes differ from batch to batch"
                f" ({shapes[0]} and {shapes[-1]} an example); pad the evaluation data to one length"
            )
        outputs, labels = (torch.cat(parts) for parts in zip(*kept, strict=True))
        return Quality(str(name), _own_value(str(name), own, outputs, labels), None, examples)
    chosen = _METRICS[str(name)]
    return Quality(str(name), chosen.finish(total / max(1, terms)), chosen.higher_is_better, examples)


def check_evaluation(run: Run, data: Dataset, metric: str | Metric | None, batch_size: int = 256) -> None:
    """CompressorError where `evaluate` would fail: a first batch tells; of a metric of the user's own, all do."""
    is_own = metric is not None and metric not in _METRICS
    evaluate(run, data, metric, batch_size, batches=None if is_own else 1)


@torch.no_grad()
def fidelity(teacher: Run, student: Run, data: Dataset, batch_size: int = 256) -> Fidelity:
    """How near ``student`` comes to ``teacher`` on ``data``; agreement where outputs are ``(rows, classes)``."""
    same, examples, off, size = 0, 0, 0.0, 0.0
    classes = True
    for batch in data.batches(batch_size):
        aim, got = (run(batch.inputs).detach().cpu().double() for run in (teacher, student))
        classes = classes and aim.ndim == 2 and aim.shape[1] >= 2
        if classes:
            same += int((aim.argmax(1) == got.argmax(1)).sum())
        off += float(difference(got, aim).square().sum())
        size += float(aim[aim.isfinite()].square().sum())
        examples += len(batch)
    relative = math.sqrt(off / size) if size else (math.inf if off else 0.0)
    return Fidelity(same / max(1, examples) if classes else None, relative, examples)
