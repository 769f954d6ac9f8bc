"""What a network costs and how well it does: numbers stored, multiply-adds, latency, quality, fidelity."""

from __future__ import annotations

import contextlib
import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from compressor.data import Dataset
from compressor.errors import CompressorError, nearest
from compressor.layers import StructuredLayer

if TYPE_CHECKING:
    import onnxruntime

Run = Callable[[tuple[Tensor, ...]], Tensor]  # a network: inputs to its main output, (rows, ...)
Score = Callable[[Tensor, Tensor], float]  # (outputs, labels) of all examples -> a figure

_WARM_UP_ROUNDS = 3
_IGNORED_LABEL = -100  # torch's own mark of a position that does not count
_MAIN_OUTPUTS = ("logits", "last_hidden_state")  # of the outputs that have names, before the first one


# --- size ---------------------------------------------------------------------------------------


def count_params(model: nn.Module) -> int:
    """All numbers stored: parameters (tied ones once), persistent buffers, seeds of structured layers."""
    stored: dict[int, Tensor] = {}
    seeds = 0
    for module in model.modules():
        temporary = module._non_persistent_buffers_set
        buffers = {name: b for name, b in module.named_buffers(recurse=False) if name not in temporary}
        stored |= {id(tensor): tensor for tensor in (*module.parameters(recurse=False), *buffers.values())}
        seeds += module.seeds if isinstance(module, StructuredLayer) else 0
    return sum(tensor.numel() for tensor in stored.values()) + seeds


def count_macs(model: nn.Module, example: tuple[Tensor, ...]) -> int:
    """Multiply-adds per example of convolutions, dense maps and matrix products, all calls together.

    ``example`` are the inputs, one or more rows, on the device of the model; the meta device will do. A
    structured layer counts with the multiply-adds of its fast algorithm, `StructuredLayer.macs`, for each row
    that it maps. Elementwise work, normalisation and pooling are not counted.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    rows: list[tuple[StructuredLayer, int]] = []
    counter = FlopCounterMode(display=False)
    was_training = [module for module in model.modules() if module.training]
    try:
        for module in was_training:
            module.training = False
        with _only_shapes(model, rows), _unfused(), sdpa_kernel(SDPBackend.MATH), torch.no_grad(), counter:
            model(*example)
    finally:
        for module in was_training:
            module.training = True
    structured = sum(layer.macs() * count for layer, count in rows)
    return round((counter.get_total_flops() / 2 + structured) / len(example[0]))


@contextlib.contextmanager
def _unfused() -> Iterator[None]:
    """Within it attention and recurrent networks show their matrix products, instead of one operator for all."""
    onednn: Any = torch.backends.mkldnn
    attention, before = torch.backends.mha.get_fastpath_enabled(), onednn.enabled
    torch.backends.mha.set_fastpath_enabled(False)
    onednn.enabled = False
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(attention)
        onednn.enabled = before


@contextlib.contextmanager
def _only_shapes(model: nn.Module, rows: list[tuple[StructuredLayer, int]]) -> Iterator[None]:
    """Within it structured layers give zeros and enter the rows they were called with."""
    layers = [module for module in model.modules() if isinstance(module, StructuredLayer)]

    def stand_in(layer: StructuredLayer) -> Callable[[Tensor], Tensor]:
        def forward(x: Tensor) -> Tensor:
            rows.append((layer, x.numel() // layer.in_features))
            return x.new_zeros(*x.shape[:-1], layer.out_features)

        return forward

    try:
        for layer in layers:
            layer.__dict__["forward"] = stand_in(layer)
        yield
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)


# --- speed --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Latency:
    """Wall time of one call: median, 10th and 90th percentile, over ``rounds`` calls."""

    median_ms: float
    p10_ms: float
    p90_ms: float
    rounds: int


def latencies(runs: Mapping[str, Callable[[], object]], *, seconds: float, min_rounds: int = 10) -> dict[str, Latency]:
    """Time ``runs`` alternately, one call of each a round, so that a change of the machine hits all alike.

    Goes on for ``seconds`` (all together), and for ``min_rounds`` at least; the first rounds are thrown away.
    The order turns by one each round, so that none always follows the same one. Threads are the caller's:
    see `one_thread`.
    """
    if not runs:
        return {}
    names = list(runs)
    for _ in range(_WARM_UP_ROUNDS):
        for name in names:
            runs[name]()
    taken: dict[str, list[float]] = {name: [] for name in names}
    collecting = gc.isenabled()
    gc.disable()
    try:
        end = time.perf_counter() + seconds
        turn = 0
        while turn < min_rounds or time.perf_counter() < end:
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                start = time.perf_counter()
                runs[name]()
                taken[name].append(1e3 * (time.perf_counter() - start))
            turn += 1
    finally:
        if collecting:
            gc.enable()
    return {name: _latency(times) for name, times in taken.items()}


def _latency(times_ms: Sequence[float]) -> Latency:
    p10, median, p90 = (float(value) for value in np.percentile(times_ms, (10, 50, 90)))
    return Latency(median, p10, p90, len(times_ms))


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Torch with one thread inside; as it was, afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def ort_session(path: str | Path, threads: int = 1) -> onnxruntime.InferenceSession:
    """A session of stock onnxruntime on the CPU, without custom operators and without spinning threads."""
    import onnxruntime

    if not Path(path).is_file():
        raise CompressorError(f"{path}: there is no such ONNX file")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only: warnings would land among the progress bars
    for pool in ("intra_op", "inter_op"):
        options.add_session_config_entry(f"session.{pool}.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run_ort(session: onnxruntime.InferenceSession, inputs: Sequence[Tensor]) -> list[np.ndarray[Any, Any]]:
    """All outputs of ``session`` for ``inputs``, which are given in the order of the file's inputs."""
    names = [entry.name for entry in session.get_inputs()]
    if len(names) != len(inputs):
        raise ValueError(f"the ONNX file takes {len(names)} inputs ({', '.join(names)}), {len(inputs)} were given")
    feed = {name: np.ascontiguousarray(x.detach().cpu().numpy()) for name, x in zip(names, inputs, strict=True)}
    outputs: list[np.ndarray[Any, Any]] = session.run(None, feed)
    return outputs


# --- quality ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Quality:
    """A figure over a data set."""

    metric: str
    value: float
    higher_is_better: bool
    examples: int


@dataclass(frozen=True)
class Fidelity:
    """How near one network's outputs are to another's.

    ``agreement``: share of rows with the same largest output, None where the outputs are not rows of two or
    more classes. ``relative_error``: ``‖s − t‖ / ‖t‖`` over all outputs.
    """

    agreement: float | None
    relative_error: float
    examples: int


def first_output(y: object) -> Tensor:
    """The main tensor of what a model returned: of a tensor, tuple, list, dict or Hugging Face's ModelOutput."""
    if isinstance(y, Tensor):
        return y
    if isinstance(y, Mapping):
        for name in _MAIN_OUTPUTS:
            if isinstance(y.get(name), Tensor):
                found: Tensor = y[name]
                return found
        y = [value for name, value in y.items() if name != "loss"]
    if isinstance(y, list | tuple):
        for value in y:
            if isinstance(value, Tensor):
                return value
            if isinstance(value, list | tuple | Mapping):
                return first_output(value)
    raise CompressorError(f"the model returns {type(y).__name__}, in which there is no tensor; wrap it in a module")


@dataclass(frozen=True)
class _Metric:
    """A built-in metric: a sum over counted entries, and what is made of the mean."""

    total: Callable[[Tensor, Tensor], tuple[float, int]]
    higher_is_better: bool
    finish: Callable[[float], float] = float


def evaluate(run: Run, data: Dataset, metric: str | Score | None = None, batch_size: int = 256) -> Quality:
    """The figure ``metric`` of the network ``run`` over the labelled ``data``.

    ``metric``: one of `METRICS`, ``module:callable`` or a callable ``f(outputs, labels) -> float`` on all
    outputs put together (higher counts as better unless it has an attribute ``higher_is_better = False``).
    None: accuracy where labels are integers and outputs scores of classes, else the mean squared error.
    """
    if not data.has_labels:
        raise CompressorError("a metric needs labels, and the data has none; give an array named 'labels'")
    if isinstance(metric, str) and ":" in metric:
        from compressor_converters.arch import import_callable

        return _evaluate_custom(run, data, import_callable(metric), metric, batch_size)
    if callable(metric):
        return _evaluate_custom(run, data, metric, getattr(metric, "__name__", type(metric).__name__), batch_size)
    if metric is not None and metric not in METRICS:
        raise CompressorError(f"there is no metric '{metric}'; {nearest(metric, METRICS)} (or give module:callable)")
    total, count, examples = 0.0, 0, 0
    for output, labels in _outputs(run, data, batch_size):
        if metric is None:
            metric = "accuracy" if _is_classification(output, labels) else "mse"
        part, entries = METRICS[metric].total(output, labels)
        total, count, examples = total + part, count + entries, examples + len(output)
    if metric is None or count == 0:
        raise CompressorError("the evaluation data has no labelled example, so there is nothing to measure")
    chosen = METRICS[metric]
    return Quality(metric, chosen.finish(total / count), chosen.higher_is_better, examples)


def _evaluate_custom(run: Run, data: Dataset, score: Callable[..., Any], name: str, batch_size: int) -> Quality:
    pairs = list(_outputs(run, data, batch_size))
    outputs, labels = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    returned = score(outputs, labels)
    try:
        value = float(returned)
    except (TypeError, ValueError, RuntimeError):
        raise CompressorError(f"metric {name} returned {type(returned).__name__}; it must return one number") from None
    if not math.isfinite(value):
        raise CompressorError(f"metric {name} returned {value}; it must return a finite number")
    return Quality(name, value, bool(getattr(score, "higher_is_better", True)), len(outputs))


def _outputs(run: Run, data: Dataset, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    with torch.no_grad():
        for batch in data.batches(batch_size):
            assert batch.labels is not None  # has_labels says so
            output = run(batch.inputs)
            if len(output) != len(batch.labels):
                raise CompressorError(
                    f"the model gives {len(output)} rows for {len(batch.labels)} labels; labels are one to an example"
                )
            yield output.detach().cpu(), batch.labels.cpu()


def _class_axis(output: Tensor, labels: Tensor) -> int | None:
    """The axis of the class scores in ``output`` for the class numbers ``labels``; None where there is none."""
    if output.ndim < 2:
        return None
    if labels.shape == output.shape[:-1]:
        return output.ndim - 1
    return 1 if labels.shape == output.shape[:1] + output.shape[2:] else None


def _is_integer(x: Tensor) -> bool:
    return not x.is_floating_point() and not x.is_complex()


def _flat(output: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Scores ``(entries, classes)`` and class numbers ``(entries,)`` of what counts."""
    axis = _class_axis(output, labels)
    if axis is None or output.shape[axis] < 2 or not _is_integer(labels):
        kind = str(labels.dtype).removeprefix("torch.")
        raise CompressorError(
            f"accuracy needs one class number to a row of scores; the model gives {tuple(output.shape)} and the labels"
            f" are {tuple(labels.shape)} {kind}: choose another --metric (mse, mae, rmse, module:callable)"
        )
    scores = output.movedim(axis, -1).reshape(-1, output.shape[axis])
    numbers = labels.reshape(-1).long()
    counted = numbers != _IGNORED_LABEL
    if bool(((numbers < 0) | (numbers >= scores.shape[1]))[counted].any()):
        low, high = int(numbers[counted].min()), int(numbers[counted].max())
        raise CompressorError(f"the labels go from {low} to {high}; the model knows classes 0 to {scores.shape[1] - 1}")
    return scores[counted], numbers[counted]


def _is_classification(output: Tensor, labels: Tensor) -> bool:
    axis = _class_axis(output, labels)
    return axis is not None and output.shape[axis] >= 2 and _is_integer(labels)


def _hits(k: int) -> Callable[[Tensor, Tensor], tuple[float, int]]:
    def total(output: Tensor, labels: Tensor) -> tuple[float, int]:
        scores, numbers = _flat(output, labels)
        best = scores.topk(min(k, scores.shape[1]), dim=1).indices if k > 1 else scores.argmax(1, keepdim=True)
        return float((best == numbers[:, None]).any(1).sum()), len(numbers)

    return total


def _differences(of: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], tuple[float, int]]:
    def total(output: Tensor, labels: Tensor) -> tuple[float, int]:
        if output.shape != labels.shape:
            if output.numel() != labels.numel():
                raise CompressorError(
                    f"the model gives {tuple(output.shape)} and the labels are {tuple(labels.shape)}: they cannot be"
                    " compared number by number; choose another --metric"
                )
            labels = labels.reshape(output.shape)  # (rows,) against (rows, 1)
        return float(of(output.double() - labels.double()).sum()), output.numel()

    return total


METRICS: dict[str, _Metric] = {
    "accuracy": _Metric(_hits(1), True),
    "error": _Metric(_hits(1), False, lambda mean: 1 - mean),
    "top5": _Metric(_hits(5), True),
    "mse": _Metric(_differences(torch.square), False),
    "rmse": _Metric(_differences(torch.square), False, math.sqrt),
    "mae": _Metric(_differences(torch.abs), False),
}


def fidelity(teacher: Run, student: Run, data: Dataset, batch_size: int = 256) -> Fidelity:
    """How near ``student`` is to ``teacher`` over the inputs of ``data``; labels are not looked at."""
    same, wrong, energy, examples = 0, 0.0, 0.0, 0
    has_classes = True
    with torch.no_grad():
        for batch in data.batches(batch_size):
            t, s = teacher(batch.inputs).detach().cpu(), student(batch.inputs).detach().cpu()
            if t.shape != s.shape:
                raise ValueError(f"the networks give {tuple(t.shape)} and {tuple(s.shape)} for the same input")
            has_classes = has_classes and t.ndim == 2 and t.shape[1] >= 2
            if has_classes:
                same += int((t.argmax(1) == s.argmax(1)).sum())
            wrong += float((s.double() - t.double()).square().sum())
            energy += float(t.double().square().sum())
            examples += len(t)
    if not examples:
        raise CompressorError("the evaluation data has no example, so there is nothing to compare")
    nothing = 0.0 if wrong == 0 else math.inf  # against outputs that are all zero
    relative = math.sqrt(wrong / energy) if energy > 0 else nothing
    return Fidelity(same / examples if has_classes else None, relative, examples)
