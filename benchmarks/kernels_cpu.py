"""How many times as quick as the dense layer the native kernels are, on one core.

    python benchmarks/kernels_cpu.py [--quick] [--json] [--only OP ...] [--kind KIND ...] [--variant TEXT ...] [--keep]

Dense is the quicker of torch and onnxruntime at the same size and batch. Both sides of a ratio take turns in the same
rounds; a figure is the median over the rounds of this thread's CPU time, its spread half the distance of the quartiles.
"ours" is the kernel called from C types, an empty call subtracted; "python" rows are whole modules, `layer(x)` against
`nn.Linear`, nothing subtracted. "cold" rows: 96 MB are streamed through the caches before every call, on both sides;
before ours, an empty call fetches what does the calling.
"train" rows: forward and backward, against the same layer in plain torch. `fma`: the operations of the usual count,
2·5/2·N·log2 N a transform, against this core's measured peak. `memory`: ``torch.clone`` of the input against the call.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import click
import torch
from facts import RESULTS, facts, keep
from kernel_layers import fastfood_jobs, fourier_jobs, fwht_jobs, monarch_jobs, sparse_jobs
from kernel_timing import Call, Job, Row, dense, run
from torch import Tensor, nn

from compressor.layers import method, seeded
from compressor.layers.acdc import BLOCK
from compressor_kernels import dispatch, native, reference

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
    def random(cls, n: int, k: int, batch: int, *, blocks: bool = True) -> Tables:
        """Random numbers, and permutations by blocks, the layer's default, or all at random."""
        a, d, bias = (1 + torch.randn(k, n) / 10 for _ in range(3))
        drawn = seeded.block_permutations(0, 12, k - 1, n, BLOCK) if blocks else seeded.permutations(0, 10, k - 1, n)
        return cls(torch.randn(batch, n), a, d, bias, drawn if k > 1 else None)


def acdc_call(t: Tables) -> Call:
    """The C function with everything bound."""
    library, n, batch = native.library(), t.d.shape[1], len(t.x)
    assert library is not None
    cascade, kept = native.describe_cascade(n, t.a, t.d, t.bias, t.permutation, n, True, False)
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
    cascade, kept = native.describe_cascade(4, t.a, t.d, t.bias, None, 4, True, False)
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
    for n, batch in ((1024, 1), (1024, 128), (4096, 1)):
        t = Tables.random(n, 12, batch, blocks=False)
        yield Job(
            "acdc", n, 12, batch, "warm", dense(n, batch), acdc_call(t), empty_call(), variant="permutation=random"
        )
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
        with torch.enable_grad():
            y = cascade(*leaves, t.permutation, t.x.shape[1], relu=True, separable=False)
            torch.autograd.grad(y, leaves, grad)

    return call


JOBS: dict[str, Callable[[bool], Iterator[Job]]] = {
    "acdc": acdc_jobs,
    "fwht": fwht_jobs,
    "fastfood": fastfood_jobs,
    "monarch": monarch_jobs,
    "csr": sparse_jobs,
    "circulant": partial(fourier_jobs, "circulant"),
    "toeplitz": partial(fourier_jobs, "toeplitz"),
    "afdf": partial(fourier_jobs, "afdf"),
}

_WHICH = ("op", "n", "k", "batch", "kind", "variant")


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="Fewer sizes and rounds.")
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON.")
@click.option("--only", multiple=True, type=click.Choice(sorted(JOBS)), help="Only this op.")
@click.option("--kind", multiple=True, help="Only this kind: warm, cold, python, train.")
@click.option("--variant", multiple=True, help="Only rows with this remark, such as block=16.")
@click.option("--note", default="", help="Kept with the results, for the README: what else the machine did.")
@click.option(
    "--keep", "kept", is_flag=True, help="Write benchmarks/results/kernels_cpu.json, or only these rows of it."
)
def main(
    quick: bool,
    as_json: bool,
    only: tuple[str, ...],
    kind: tuple[str, ...],
    variant: tuple[str, ...],
    note: str,
    kept: bool,
) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if native.library() is None:
        raise click.ClickException("the native kernels are not built")
    rounds, budget_us = (7, 1e4) if quick else (15, 2e4)
    rows = []
    with torch.no_grad():
        for op in only or JOBS:
            for job in JOBS[op](quick):
                if (kind and job.kind not in kind) or (variant and job.variant not in variant):
                    continue
                row = run(job, rounds * 3 if job.kind == "cold" else rounds, budget_us)
                rows.append(row)
                if not as_json:
                    print_row(row)
    isa = native.describe("acdc", 1024, 1).split()[0]
    result = {**facts(0), "isa": isa, "note": note, "rows": [asdict(row) for row in rows]}
    if as_json:
        print(json.dumps(result, indent=1))
    if kept:
        keep("kernels_cpu", with_others(result) if only or kind or variant else result)


def with_others(result: dict[str, Any]) -> dict[str, Any]:
    """What was kept, with the rows of ``result`` in the places of the same ones; of the same machine and versions."""
    before = json.loads((RESULTS / "kernels_cpu.json").read_text())
    for fact in ("machine", "versions", "isa"):
        if before[fact] != result[fact]:
            raise click.ClickException(f"rows were kept of another {fact}: {before[fact]}; measure all of them again")
    new = {tuple(row[key] for key in _WHICH): row for row in result["rows"]}
    rows = [new.pop(tuple(row[key] for key in _WHICH), row) for row in before["rows"]]
    return {**before, "rows": rows + list(new.values())}


def print_row(row: Row) -> None:
    floors = f"  fma {row.fma:.0%}  memory {row.memory:.0%}" if row.fma is not None and row.memory is not None else ""
    print(
        f"{row.op:9} N={row.n:<5} K={row.k:<2} B={row.batch:<4} {row.kind:6} {row.dense_by:11} {row.dense_us:10.1f} us"
        f"  ours {row.ours_us:10.2f} us  ×{row.ratio:.1f} ± {row.spread:.1f}{floors}  {row.path}  {row.variant}",
        flush=True,
    )


if __name__ == "__main__":
    main()
