"""How fast a network is, here: calls timed alternately, in torch and in onnxruntime, stock or on the native kernels."""

from __future__ import annotations

import contextlib
import gc
import statistics
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from compressor.errors import CompressorError, reason
from compressor_converters.onnx_session import onnx_session
from compressor_kernels import native, onnx_library_path

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnxruntime import InferenceSession

_TURN_MS = 2.0  # one candidate's turn, before the next one's
_MOST_CALLS = 50  # in a turn


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one call: median, 10th and 90th percentile over all calls timed, in ``rounds`` turns."""

    median_ms: float
    p10_ms: float
    p90_ms: float
    rounds: int


def latencies(
    runs: Mapping[str, Callable[[], object]],
    *,
    seconds: float,
    min_rounds: int = 5,
    max_rounds: int | None = None,
) -> dict[str, Latency]:
    """Time ``runs`` alternately for ``seconds`` all together, so that a disturbance meets all of them.

    In each round every candidate has a turn of about 2 ms: a call that warms the caches again, not timed, then
    timed ones. The order turns from round to round. At least ``min_rounds`` rounds, however slow they are, and
    at most ``max_rounds``.
    """
    if not runs:
        return {}
    calls = {name: _calls_per_turn(run) for name, run in runs.items()}
    samples: dict[str, list[int]] = {name: [] for name in runs}
    names, rounds = list(runs), 0
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        end = time.perf_counter() + seconds
        while rounds < min_rounds or (rounds != max_rounds and time.perf_counter() < end):
            for name in names:
                _turn(runs[name], calls[name], samples[name])
            names.append(names.pop(0))
            rounds += 1
    finally:
        if collecting:
            gc.enable()
    return {name: _summary(samples[name], rounds) for name in runs}


def _calls_per_turn(run: Callable[[], object]) -> int:
    """How many calls make a turn; the calls made to find out are the warm-up."""
    timed: list[int] = []
    _turn(run, 3, timed)
    return max(1, min(_MOST_CALLS, round(_TURN_MS * 1e6 / max(1, min(timed)))))


def _turn(run: Callable[[], object], calls: int, samples: list[int]) -> None:
    if calls > 1:
        run()
    for _ in range(calls):
        start = time.perf_counter_ns()
        run()
        samples.append(time.perf_counter_ns() - start)


def _summary(samples_ns: Sequence[int], rounds: int) -> Latency:
    low, high = (float(np.percentile(samples_ns, q)) / 1e6 for q in (10, 90))
    return Latency(statistics.median(samples_ns) / 1e6, low, high, rounds)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread inside; as it was, afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


_input_names: weakref.WeakKeyDictionary[Any, list[str]] = weakref.WeakKeyDictionary()


def ort_session(
    path: str | Path, threads: int = 1, *, exact: bool = False, library: Path | None = None
) -> InferenceSession:
    """Stock onnxruntime on the CPU with the file ``path``: ``threads`` threads that do not spin.

    No plug-in, unless ``library`` with operators of its own is given. With ``exact`` none of its optimisations that
    change results: it multiplies dequantised weights in 8 bits.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    if exact:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    if library is not None:
        options.register_custom_ops_library(str(library))
    return onnx_session(path, native=False, threads=threads, options=options)


def native_session(path: str | Path, *, exact: bool = False) -> InferenceSession | None:
    """`ort_session` with our operators; None where no node of the file runs on the native kernels."""
    library = onnx_library_path()
    if library is None:
        return None
    before = native.onnx_kernels()
    session = ort_session(path, exact=exact, library=library)
    return session if native.onnx_kernels() > before else None


def run_ort(session: InferenceSession, inputs: Sequence[Tensor]) -> list[NDArray[Any]]:
    """All outputs for ``inputs``, which are given to the session's inputs in order.

    CompressorError in onnxruntime's words where it does not run them.
    """
    names = _input_names.get(session)
    if names is None:
        names = _input_names[session] = [entry.name for entry in session.get_inputs()]
    if len(names) != len(inputs):
        raise ValueError(f"the file has {len(names)} inputs ({', '.join(names)}), {len(inputs)} were given")
    arrays = {name: x.detach().cpu().contiguous().numpy() for name, x in zip(names, inputs, strict=True)}
    try:
        outputs: list[NDArray[Any]] = session.run(None, arrays)
    except Exception as error:  # onnxruntime raises classes of its own, which share no base
        raise CompressorError(f"onnxruntime does not run it: {reason(error)}") from error
    return outputs
