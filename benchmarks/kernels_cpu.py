"""How many times as quick as the dense layer the native kernels are, on one core.

    python benchmarks/kernels_cpu.py [--quick] [--json] [--only OP ...] [--keep]

Dense is the quicker of torch and onnxruntime at the same size and batch. Both sides of a ratio take turns in the same
rounds; a figure is the median over the rounds of this thread's CPU time, its spread half the distance of the quartiles.
"ours" is the kernel called from C types, an empty call subtracted; "python" rows are whole modules, `layer(x)` against
`nn.Linear`, nothing subtracted. "cold" rows: 96 MB are streamed through the caches before every call, on both sides.
"train" rows: forward and backward, against the same layer in plain torch. `fma`: the operations of the usual count,
2·5/2·N·log2 N a transform, against this core's measured peak. `memory`: ``torch.clone`` of the input against the call.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import click
import numpy as np
import onnxruntime as ort
import torch
from facts import facts, keep
from onnx import TensorProto, helper
from torch import Tensor, nn

from compressor.layers import method, seeded
from compressor_kernels import dispatch, native, reference

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


def cold(call: Call, _: float) -> float:
    """Microseconds of one call after everything has left the caches."""
    _stream.sum()
    start = thread_us()
    call()
    return thread_us() - start


def run(job: Job, rounds: int, budget_us: float) -> Row:
    """Time all sides of a cell in turns."""
    timed = cold if job.kind == "cold" else warm
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
            times[name].append(timed(call, budget_us))
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


# --- ACDC -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tables:
    """A cascade and its input."""

    x: Tensor
    a: Tensor
    d: Tensor
    bias: Tensor
    permutation: Tensor | None

    @classmethod
    def random(cls, n: int, k: int, batch: int) -> Tables:
        a, d, bias = (1 + torch.randn(k, n) / 10 for _ in range(3))
        return cls(torch.randn(batch, n), a, d, bias, seeded.permutations(0, 10, k - 1, n) if k > 1 else None)


def acdc_call(t: Tables) -> Call:
    """The C function with everything bound."""
    library, (k, n), batch = native.library(), t.d.shape, len(t.x)
    assert library is not None
    cascade, kept = native._cascade(n, t.a, t.d, t.bias, t.permutation, n, True, False)
    y = torch.empty(batch, n)
    arguments = [ctypes.addressof(cascade), t.x.data_ptr(), y.data_ptr(), batch, n, n, 1, None]

    def call(_: Any = (cascade, kept, t, y)) -> None:
        library.ck_acdc_forward_f32(*arguments)

    return call


def empty_call() -> Call:
    """The same function for no rows: what a call costs that does nothing."""
    t = Tables.random(4, 1, 1)
    library = native.library()
    assert library is not None
    cascade, kept = native._cascade(4, t.a, t.d, t.bias, None, 4, True, False)
    arguments = [ctypes.addressof(cascade), t.x.data_ptr(), t.x.data_ptr(), 0, 4, 4, 1, None]

    def call(_: Any = (cascade, kept, t)) -> None:
        library.ck_acdc_forward_f32(*arguments)

    return call


def transform_flops(n: int) -> float:
    return 2.5 * n * math.log2(n)


def acdc_jobs(quick: bool) -> Iterator[Job]:
    """Warm, cold, from Python, and training."""
    cells = [(n, k, batch) for n in (1024, 4096) for k in (1, 12) for batch in (1, 128)]
    if not quick:
        cells += [(n, k, batch) for n in (512, 2048, 8192) for k in (1, 12) for batch in (1, 128)]
        cells += [(n, k, batch) for n in (1024, 4096) for k in (1, 12) for batch in (8, 32)]
    cells += [(9216, 1, 1), (9216, 1, 128)]
    for n, k, batch in cells:
        t = Tables.random(n, k, batch)
        flops = batch * k * (2 * transform_flops(n) + 3 * n)
        yield Job("acdc", n, k, batch, "warm", dense(n, batch), acdc_call(t), empty_call(), flops, t.x.clone)
    for n, k in ((1024, 1), (1024, 12), (4096, 1), (4096, 12)):
        yield Job("acdc", n, k, 1, "cold", dense(n, 1), acdc_call(Tables.random(n, k, 1)), empty_call())
    for n, k in ((1024, 1), (1024, 12)):
        layer = method("acdc").layer(n, n, bias=True, depth=k, relu=True)
        x, linear = torch.randn(1, n), nn.Linear(n, n)
        yield Job("acdc", n, k, 1, "python", {"torch": lambda m=linear, x=x: m(x)}, lambda m=layer, x=x: m(x))
    for n, k in ((1024, 1), (1024, 12)) if quick else ((1024, 1), (1024, 12), (4096, 1), (4096, 12)):
        t = Tables.random(n, k, 128)
        yield Job("acdc", n, k, 128, "train", {"plain torch": step(t, reference.acdc)}, step(t, dispatch.acdc))


def step(t: Tables, cascade: Callable[..., Tensor]) -> Call:
    """Forward and backward of one cascade."""
    leaves = [table.clone().requires_grad_() for table in (t.x, t.a, t.d, t.bias)]
    grad = torch.randn_like(t.x)

    def call() -> None:
        with torch.inference_mode(False), torch.enable_grad():
            y = cascade(*leaves, t.permutation, t.x.shape[1], relu=True, separable=False)
            torch.autograd.grad(y, leaves, grad)

    return call


JOBS: dict[str, Callable[[bool], Iterator[Job]]] = {"acdc": acdc_jobs}


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="Fewer sizes and rounds.")
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON.")
@click.option("--only", multiple=True, type=click.Choice(sorted(JOBS)), help="Only this op.")
@click.option("--kind", multiple=True, help="Only this kind: warm, cold, python, train.")
@click.option("--keep", "kept", is_flag=True, help="Write benchmarks/results/kernels_cpu.json.")
def main(quick: bool, as_json: bool, only: tuple[str, ...], kind: tuple[str, ...], kept: bool) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if native.library() is None:
        raise click.ClickException("the native kernels are not built")
    rounds, budget_us = (7, 4e3) if quick else (15, 2e4)
    rows = []
    with torch.inference_mode():
        for op in only or JOBS:
            for job in JOBS[op](quick):
                if kind and job.kind not in kind:
                    continue
                row = run(job, rounds * 3 if job.kind == "cold" else rounds, budget_us)
                rows.append(row)
                if not as_json:
                    print_row(row)
    result = {**facts(0), "rows": [asdict(row) for row in rows]}
    if as_json:
        print(json.dumps(result, indent=1))
    if kept:
        keep("kernels_cpu", result)


def print_row(row: Row) -> None:
    floors = f"  fma {row.fma:.0%}  memory {row.memory:.0%}" if row.fma is not None and row.memory is not None else ""
    print(
        f"{row.op:9} N={row.n:<5} K={row.k:<2} B={row.batch:<4} {row.kind:6} {row.dense_by:11} {row.dense_us:10.1f} us"
        f"  ours {row.ours_us:10.2f} us  ×{row.ratio:.1f} ± {row.spread:.1f}{floors}  {row.path}",
        flush=True,
    )


if __name__ == "__main__":
    main()
