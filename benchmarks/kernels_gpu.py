"""The CUDA kernels against a memory copy, dense layers, plain torch on the GPU, and fast-hadamard-transform.

Both sides of every ratio are timed in turns in one run, by CUDA events around calls enough to fill a millisecond, each
on the next of several inputs that together exceed the L2 cache; medians and the middle half of the spread. ``copy`` is
`torch.clone` of the input: a cascade that reads x and writes y, and nothing else, takes as long. ``multi`` is the plain
torch reference (torch.fft). Backward: both gradients' calls, without the forward. ``--keep`` writes
``results/kernels_gpu.json``; ``--json`` prints it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from facts import facts, keep
from torch import Tensor
from torch.nn import functional as F

from compressor.layers import seeded
from compressor_kernels import gpu, reference

SIZES = tuple(2**p for p in range(8, 16))
BATCHES = (128, 16384)
DEPTHS = (1, 12)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
CACHE_BYTES = 256 * 2**20  # inputs together at least this: more than any L2 of today
Call = Callable[[], Any]


@dataclass(frozen=True)
class Row:
    """One op at one size against one other thing: times in µs, medians, and the quartiles of both."""

    op: str
    n: int
    k: int
    batch: int
    dtype: str
    way: str
    against: str
    us: float
    us_quartiles: tuple[float, float]
    other_us: float
    other_us_quartiles: tuple[float, float]
    ratio: float  # other_us / us
    gigabytes_per_second: float  # of x and y (and both gradients backward), had nothing else moved


def measure(calls: dict[str, Call], rounds: int) -> dict[str, list[float]]:
    """µs a call, ``rounds`` times each, in turns."""
    repeats = {name: _repeats(call) for name, call in calls.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(_time(call, repeats[name]))
    return times


def _repeats(call: Call) -> int:
    for _ in range(3):
        call()
    return max(1, min(200, int(1000 / max(_time(call, 3), 1))))


def _time(call: Call, repeats: int) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    for _ in range(repeats):
        call()
    end.record()
    end.synchronize()
    return 1000 * start.elapsed_time(end) / repeats


def over(inputs: list[Tensor], function: Callable[[Tensor], Any]) -> Call:
    """``function`` of the next of the inputs at each call."""
    place = [0]

    def call() -> Any:
        place[0] = (place[0] + 1) % len(inputs)
        return function(inputs[place[0]])

    return call


def inputs_of(n: int, batch: int, dtype: torch.dtype) -> list[Tensor]:
    """Rows enough that none is in the cache when its turn comes."""
    size = batch * n * dtype.itemsize
    return [torch.randn(batch, n, device=gpu.DEVICE).to(dtype) for _ in range(max(2, min(64, CACHE_BYTES // size + 1)))]


def dense_calls(n: int, inputs: list[Tensor], *, backward: bool) -> dict[str, Call]:
    """Dense layers of the same sides, forward, or the two products of their backward."""
    calls = {}
    for name in ("fp32", "bf16"):
        weight = torch.randn(n, n, device=gpu.DEVICE).to(DTYPES[name])
        xs = [x.to(DTYPES[name]) for x in inputs[:4]]
        if backward:
            calls[f"dense {name}"] = over(xs, lambda x, w=weight: (x @ w, x.T @ x))
        else:
            calls[f"dense {name}"] = over(xs, lambda x, w=weight: F.linear(x, w))
    return calls


def acdc_calls(n: int, k: int, inputs: list[Tensor], *, backward: bool) -> dict[str, Call]:
    """The cascade with bias, ReLU and permutation, by one call and by plain torch."""
    dtype = inputs[0].dtype
    a, d = (torch.randn(k, n, device=gpu.DEVICE, dtype=dtype) * 0.1 + 1 for _ in range(2))
    bias = torch.randn(k, n, device=gpu.DEVICE, dtype=dtype) * 0.1
    permutation = seeded.permutations(0, 10, k - 1, n).to(gpu.DEVICE) if k > 1 else None
    relu = k > 1

    def plain(x: Tensor) -> Tensor:
        return reference.acdc(x, a, d, bias, permutation, n, relu, False)

    kernels = gpu.kernels() if gpu.takes_cascade(n, inputs[0]) else None
    if not backward:
        calls = {"multi": over(inputs, plain)}
        if kernels is not None:
            calls["single"] = over(inputs, lambda x: kernels.acdc(x, a, d, bias, permutation, n, relu))
        return calls
    calls = {"multi": _gradients(plain, inputs, [a, d, bias])}
    if kernels is not None:
        calls["single"] = over(inputs, lambda x: kernels.acdc_backward(x, a, d, bias, permutation, relu, inputs[0]))
    return calls


def fwht_calls(inputs: list[Tensor]) -> dict[str, Call]:
    """Walsh–Hadamard by one call, by plain torch, and by fast-hadamard-transform where it is installed."""
    calls = {"multi": over(inputs, reference.fwht)}
    kernels = gpu.kernels() if gpu.can_fwht(inputs[0].shape[-1]) and gpu.takes(inputs[0]) else None
    if kernels is not None:
        calls["single"] = over(inputs, kernels.fwht)
    if importlib.util.find_spec("fast_hadamard_transform") is not None:
        from fast_hadamard_transform import hadamard_transform

        calls["fast-hadamard-transform"] = over(inputs, hadamard_transform)
    return calls


def fastfood_calls(n: int, inputs: list[Tensor], *, backward: bool) -> dict[str, Call]:
    """One block, by one call and by plain torch."""
    dtype = inputs[0].dtype
    B, G, S = (torch.randn(*shape, device=gpu.DEVICE, dtype=dtype) for shape in ((1, n), (1, n), (n,)))
    S = S / n
    permutation = seeded.permutations(0, 10, 1, n).to(gpu.DEVICE)
    index = permutation[0].long()

    def plain(x: Tensor) -> Tensor:
        return reference.fwht(reference.fwht(x * B[0]).index_select(-1, index) * G[0]) * S

    kernels = gpu.kernels() if gpu.can_fastfood(n) and gpu.takes(inputs[0]) else None
    if not backward:
        calls = {"multi": over(inputs, plain)}
        if kernels is not None:
            calls["single"] = over(inputs, lambda x: kernels.fastfood(x, B, G, S, permutation))
        return calls
    calls = {"multi": _gradients(plain, inputs, [B, G, S])}
    if kernels is not None:
        calls["single"] = over(inputs, lambda x: kernels.fastfood_backward(x, B, G, S, permutation, inputs[0]))
    return calls


def _gradients(plain: Callable[[Tensor], Tensor], inputs: list[Tensor], parameters: list[Tensor]) -> Call:
    """The backward half of plain torch, on a graph that was built once."""
    x = inputs[0].clone().requires_grad_()
    leaves = [x, *(parameter.requires_grad_() for parameter in parameters)]
    y = plain(x)
    return over(inputs, lambda grad: torch.autograd.grad(y, leaves, grad, retain_graph=True))


def rows_of(
    op: str, n: int, k: int, batch: int, dtype: str, way: str, calls: dict[str, Call], rounds: int
) -> list[Row]:
    """Our quickest path against everything else; ``multi`` where there is no single call."""
    times = measure(calls, rounds)
    ours = "single" if "single" in times else "multi"
    moved = (2 if way == "forward" else 3) * batch * n * DTYPES[dtype].itemsize
    us, quartiles = _summary(times[ours])
    found = []
    for name, others in times.items():
        if name == ours:
            continue
        other_us, other_quartiles = _summary(others)
        row = (us, quartiles, other_us, other_quartiles, other_us / us, moved / us / 1000)
        found.append(Row(op if ours == "single" else f"{op} (multi)", n, k, batch, dtype, way, name, *row))
    return found


def _summary(times: list[float]) -> tuple[float, tuple[float, float]]:
    low, _, high = statistics.quantiles(times, n=4)
    return statistics.median(times), (low, high)


def run(sizes: tuple[int, ...], batches: tuple[int, ...], dtypes: tuple[str, ...], rounds: int) -> Iterator[Row]:
    """Every op at every size."""
    for n in sizes:
        for batch in batches:
            for dtype in dtypes:
                inputs = inputs_of(n, batch, DTYPES[dtype])
                for backward in (False, True):
                    way = "backward" if backward else "forward"
                    shared = {"copy": over(inputs, torch.clone), **dense_calls(n, inputs, backward=backward)}
                    for k in DEPTHS:
                        calls = shared | acdc_calls(n, k, inputs, backward=backward)
                        yield from rows_of("acdc", n, k, batch, dtype, way, calls, rounds)
                    calls = shared | fastfood_calls(n, inputs, backward=backward)
                    yield from rows_of("fastfood", n, 1, batch, dtype, way, calls, rounds)
                calls = {"copy": over(inputs, torch.clone)} | fwht_calls(inputs)
                yield from rows_of("fwht", n, 1, batch, dtype, "forward", calls, rounds)
                torch.cuda.empty_cache()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="three sizes, float32 and bfloat16, fewer rounds")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--keep", action="store_true", help="write results/kernels_gpu.json")
    asked = parser.parse_args()
    if not torch.cuda.is_available():
        print("skipped: no GPU", file=sys.stderr)
        return 0
    torch.manual_seed(0)
    sizes, dtypes = ((1024, 4096, 16384), ("fp32", "bf16")) if asked.quick else (SIZES, tuple(DTYPES))
    found = []
    for row in run(sizes, BATCHES, dtypes, rounds=9 if asked.quick else 21):
        found.append(asdict(row))
        if not asked.json:
            print(
                f"{row.op:12s} N={row.n:<6d} K={row.k:<3d} batch={row.batch:<6d} {row.dtype} {row.way:8s} "
                f"{row.us:9.1f} µs  {row.gigabytes_per_second:7.0f} GB/s  {row.ratio:8.2f}x of {row.against}",
                flush=True,
            )
    result = {**facts(0), "gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda, "rows": found}
    if asked.json:
        print(json.dumps(result, indent=1))
    if asked.keep:
        keep("kernels_gpu", result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
