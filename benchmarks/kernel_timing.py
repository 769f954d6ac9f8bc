"""Two sides of a ratio timed in turns, and the dense layer that most of them are held against."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import onnxruntime as ort
import torch
from onnx import TensorProto, helper
from torch import nn

from compressor_kernels import native

Call = Callable[[], object]
EVICTED_BYTES = 96 * 2**20


@dataclass(frozen=True)
class Row:
    """One cell of the table; times in microseconds."""

    op: str
    n: int
    k: int
    batch: int
    kind: str  # warm, cold, python, train
    dense_us: float
    dense_by: str
    ours_us: float
    spread: float
    ratio: float
    fma: float | None = None
    memory: float | None = None
    path: str = ""
    variant: str = ""


@dataclass(frozen=True)
class Job:
    """What is timed in one cell: rivals by name, ours, and what an empty call of ours costs."""

    op: str
    n: int
    k: int
    batch: int
    kind: str
    rivals: dict[str, Call]
    ours: Call
    empty: Call | None = None
    flops: float | None = None
    copy: Call | None = None
    variant: str = ""


def thread_us() -> float:
    return time.thread_time_ns() / 1e3


def warm(call: Call, budget_us: float) -> float:
    """Microseconds a call, over about ``budget_us``."""
    start = thread_us()
    call()
    repeats = max(1, int(budget_us / max(thread_us() - start, 0.5)))
    start = thread_us()
    for _ in range(repeats):
        call()
    return (thread_us() - start) / repeats


_stream = np.zeros(EVICTED_BYTES // 8)


def cold(call: Call, empty: Call | None) -> float:
    """Microseconds of one call after everything has left the caches; ``empty`` fetches what calls it alone again."""
    _stream.sum()
    if empty is not None:
        empty()
    start = thread_us()
    call()
    return thread_us() - start


def run(job: Job, rounds: int, budget_us: float) -> Row:
    """Time all sides of a cell in turns."""
    calls: dict[str, Call] = {**job.rivals, "ours": job.ours}
    if job.empty is not None:
        calls["empty"] = job.empty
    if job.copy is not None:
        calls["copy"] = job.copy
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            if job.kind == "cold" and name != "empty":
                times[name].append(cold(call, job.empty if name == "ours" else None))
            else:
                times[name].append(warm(call, budget_us))
    medians = {name: float(np.median(found)) for name, found in times.items()}
    best = min(job.rivals, key=lambda name: medians[name])
    ours_us = max(medians["ours"] - medians.get("empty", 0.0), 1e-3)
    ours = np.maximum(np.array(times["ours"]) - medians.get("empty", 0.0), 1e-3)
    low, high = np.percentile(np.array(times[best]) / ours, [25, 75])
    return Row(
        op=job.op,
        n=job.n,
        k=job.k,
        batch=job.batch,
        kind=job.kind,
        dense_us=round(medians[best], 2),
        dense_by=best,
        ours_us=round(ours_us, 3),
        spread=round(float(high - low) / 2, 2),
        ratio=round(medians[best] / ours_us, 2),
        fma=None if job.flops is None else round(job.flops / (ours_us * 1e-6) / fma_peak(), 3),
        memory=None if "copy" not in medians else round(medians["copy"] / ours_us, 3),
        path=native.describe(job.op, job.n, job.batch),
        variant=job.variant,
    )


# --- the dense layer ------------------------------------------------------------------------------


def dense(n: int, batch: int) -> dict[str, Call]:
    """The dense layer in torch and in onnxruntime, one thread."""
    layer, x = nn.Linear(n, n), torch.randn(batch, n)
    session = gemm(layer)
    binding = session.io_binding()
    binding.bind_cpu_input("x", x.numpy())
    binding.bind_output("y")
    return {"torch": lambda: layer(x), "onnxruntime": lambda: session.run_with_iobinding(binding)}


def gemm(layer: nn.Linear) -> ort.InferenceSession:
    """``layer`` as a model of one Gemm."""
    weights = [
        helper.make_tensor(name, TensorProto.FLOAT, list(value.shape), value.detach().numpy().tobytes(), raw=True)
        for name, value in (("w", layer.weight), ("b", layer.bias))
    ]
    sides = {"x": layer.in_features, "y": layer.out_features}
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", side]) for name, side in sides.items()]
    node = helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1)
    graph = helper.make_graph([node], "dense", values[:1], values[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


@cache
def fma_peak() -> float:
    """Floating-point operations a second that this core reaches with nothing but FMAs."""
    library = native.library()
    assert library is not None
    count = 200_000
    best = min(warm(lambda: library.ck_fma_f32(count), 5e3) for _ in range(10))
    return library.ck_fma_f32(0) * count / (best * 1e-6)
