"""Random cascades: the native kernels err at most twice as much as plain torch in the same dtype."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from native_oracle import NUMBERS, assert_in_budget, random_cases, together
from torch import Tensor

from compressor.layers import seeded
from compressor_kernels import native, reference

ROOT = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.skipif(native.library() is None, reason="the native kernels are not built")

ANOTHER = 77  # exit status of a child that runs another instruction set than the one asked for
LENGTHS = [2 * n for n in range(1, 300) if native.can_dct(2 * n)] + [
    1000,
    1024,
    1536,
    2048,
    2250,
    3000,
    4096,
    4608,
    9216,
]


@st.composite
def cascades(draw: st.DrawFn, shortest: int = 2) -> dict[str, object]:
    """A cascade of any shape; the input is a part of a larger matrix, at any distance from an aligned address."""
    n = draw(st.sampled_from([n for n in LENGTHS if n >= shortest]))
    depth = draw(st.integers(1, 4 if n < 1000 else 2))
    ends = st.one_of(st.just(n), st.integers(1, n))
    width, out_features = draw(ends), draw(ends)
    least = -(-NUMBERS // out_features)
    rows = draw(st.integers(least, least + (40 if n < 1000 else 9)))
    shift, seed = draw(st.integers(0, 17)), draw(st.integers(0, 2**31))
    random = torch.Generator().manual_seed(seed)
    around = torch.randn(rows * (width + shift) + shift, generator=random)
    x = around[shift:].as_strided((rows, width), (width + draw(st.integers(0, shift)), 1))
    spread = draw(st.sampled_from([0.0, 0.1, 1.0]))
    a, d = (1 + spread * torch.randn(depth, n, generator=random) for _ in range(2))
    orders = seeded.permutations(seed, 10, depth - 1, n), seeded.block_permutations(seed, 12, depth - 1, n, 8)
    return {
        "x": x,
        "a": a[int(draw(st.booleans())) :],
        "d": d,
        "bias": torch.randn(depth, n, generator=random) if draw(st.booleans()) else None,
        "permutation": draw(st.sampled_from([None, *orders])),
        "out_features": out_features,
        "relu": draw(st.booleans()),
        "separable": draw(st.booleans()) and native.can_cascade(n, separable=True),
    }


def widened(case: dict[str, object]) -> dict[str, object]:
    return {
        name: value.double() if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in case.items()
    }


@settings(random_cases, max_examples=500)
@given(cascades())
def test_a_cascade_errs_at_most_twice_as_much_as_plain_torch(case: dict[str, object]) -> None:
    part = native.acdc(**case)  # type: ignore[arg-type]
    whole = {**case, "out_features": case["d"].shape[1]}  # type: ignore[attr-defined]
    found = native.acdc(**whole)  # type: ignore[arg-type]
    assert_in_budget(found, reference.acdc(**whole), reference.acdc(**widened(whole)))  # type: ignore[arg-type]
    assert torch.equal(part, found[:, : part.shape[1]])


def gradients(case: dict[str, object], grad: Tensor) -> list[Tensor]:
    leaves = {
        name: value.clone().requires_grad_()
        for name, value in case.items()
        if isinstance(value, Tensor) and value.is_floating_point()
    }
    y = reference.acdc(**{**case, **leaves})  # type: ignore[arg-type]
    return list(torch.autograd.grad(y, list(leaves.values()), grad.to(y), materialize_grads=True))


@settings(random_cases, max_examples=150)
@given(cascades(shortest=32))
def test_a_gradient_errs_at_most_twice_as_much_as_plain_torch(case: dict[str, object]) -> None:
    grad = torch.randn(len(case["x"]), case["out_features"], generator=torch.Generator().manual_seed(1))  # type: ignore[arg-type, call-overload]
    arguments = {name: value for name, value in case.items() if name != "out_features"}
    found = [value for value in native.acdc_backward(grad, **arguments) if value is not None]  # type: ignore[arg-type]
    plain, truth = gradients(case, grad), gradients(widened(case), grad)
    assert_in_budget(found[0], plain[0], truth[0])
    assert_in_budget(*(together(tables[1:]) for tables in (found, plain, truth)))


def test_two_threads_at_once_get_what_one_gets_alone() -> None:
    cases = [
        (torch.randn(37, n), *(1 + torch.randn(3, n) / 9 for _ in range(3)), seeded.permutations(0, 10, 2, n))
        for n in (96, 256, 1024)
    ]

    def run(case: tuple[Tensor, ...]) -> list[Tensor]:
        x, *tables = case
        y = native.acdc(x, *tables, out_features=x.shape[1], relu=True, separable=False)
        single = native.acdc(x[:1], *tables, out_features=x.shape[1], relu=True, separable=False)
        back = native.acdc_backward(y, x, *tables, relu=True, separable=False)
        return [y, single, native.dct(x), *(table for table in back if table is not None)]

    alone = [run(case) for case in cases]
    wrong: list[str] = []

    def loop() -> None:
        for number in range(60):
            for found, expected in zip(run(cases[number % 3]), alone[number % 3], strict=True):
                if not torch.equal(found, expected):
                    wrong.append(f"call {number}")

    threads = [threading.Thread(target=loop) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_call_on_two_threads_gives_the_same_result_each_time() -> None:
    x, a, d = torch.randn(100, 64), torch.randn(2, 64), torch.randn(2, 64)

    def run() -> list[Tensor]:
        y = native.acdc(x, a, d, None, None, out_features=64, relu=True, separable=False)
        return [
            y,
            *(t for t in native.acdc_backward(y, x, a, d, None, None, relu=True, separable=False) if t is not None),
        ]

    one = run()
    torch.set_num_threads(2)
    try:
        found = [run() for _ in range(20)]
    finally:
        torch.set_num_threads(1)
    for again in found:
        assert all(torch.equal(ours, first) for ours, first in zip(again, found[0], strict=True))
        torch.testing.assert_close(again, one)


@pytest.mark.parametrize("isa", ["sse4", "avx2", "avx512"])
def test_every_instruction_set_of_this_machine_is_right(isa: str) -> None:
    program = (
        "import sys, pytest; from compressor_kernels import native\n"
        f"sys.exit({ANOTHER} if native.describe('acdc', 64, 8).split()[0] != {isa!r} else pytest.main("
        "['-q', '-p', 'no:cacheprovider', 'tests/test_native.py', '-k', 'formula and not 3000 and not 4608']))"
    )
    roots = os.pathsep.join(str(ROOT / folder) for folder in (".", "kernels", "converters"))
    environment = {**os.environ, "COMPRESSOR_KERNELS_ISA": isa, "PYTHONPATH": roots}
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode == ANOTHER:
        pytest.skip(f"this machine has no {isa}")
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["address,undefined", "thread", "wide", "neon", "clang", "clang-neon"])
def test_random_cases_from_two_threads_are_right_and_clean(kind: str) -> None:
    """Under sanitizers, with the code for AVX-512 on AVX2, as the ARM build under an emulator, and by Clang."""
    needed = {"neon": ("aarch64-linux-gnu-g++", "qemu-aarch64"), "clang": ("clang++",)}
    for program in ("cmake", *(one for part in kind.split("-") for one in needed.get(part, ()))):
        if shutil.which(program) is None:
            pytest.skip(f"needs {program}")
    command = [sys.executable, "kernels/stress.py", "4", kind]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert " 0 wrong" in done.stdout
