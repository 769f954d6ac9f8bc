"""What the CUDA kernels' tests share: the emulator, cases, and the formulas with gradients in two precisions."""

from __future__ import annotations

import ctypes
import fcntl
import functools
import hashlib
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from compressor.layers import seeded
from compressor_kernels import build_cuda, cuda, dispatch, reference

ROOT = Path(__file__).resolve().parent.parent
SINGLE = "cuda single-call"
ACDC_SIZES = [2**p for p in range(7, 17)]
HADAMARD_SIZES = [2**p for p in range(6, 15)]
ROUNDING = {torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}


def data(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def assert_in_budget(found: Tensor, plain: Tensor, truth: Tensor) -> None:
    """``found`` errs at most twice as much as ``plain`` torch in the same dtype, plus the rounding of the result."""
    budget = 2 * (plain.double() - truth).norm() + ROUNDING[found.dtype] * truth.norm()
    assert (found.double() - truth).norm() <= budget


def compiler() -> str | None:
    return shutil.which("g++") or shutil.which("c++")


@functools.cache
def emulator() -> cuda.Kernels:
    """The kernels' own code for the host, in ``build/``: compiled once for the same sources, whoever asks first."""
    found = compiler()
    if found is None:
        pytest.skip("no C++ compiler for the emulation of the CUDA kernels")
    folder = build_cuda.sources()
    files = sorted([*folder.iterdir(), *(folder.parent / "include").iterdir()])
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]
    library = ROOT / "build" / f"emulation-{digest}.so"
    library.parent.mkdir(exist_ok=True)
    with library.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not library.exists():
            for old in library.parent.glob("emulation-*.so"):
                old.unlink()
            _compile(found, folder / "emulation.cpp", library)
    return cuda.Kernels(cuda.load(library))


def _compile(compiler: str, source: Path, library: Path) -> None:
    flags = ["-std=c++17", "-O1", "-ffp-contract=fast", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
    probe = subprocess.run([compiler, "-mfma", "-E", "-x", "c++", "/dev/null"], capture_output=True, check=False)
    flags += ["-mfma"] if probe.returncode == 0 else []
    part = library.with_suffix(".part")
    done = subprocess.run(
        [compiler, *flags, "-shared", "-fPIC", "-fvisibility=hidden", str(source), "-o", str(part)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    part.replace(library)


def counts(kernels: cuda.Kernels) -> dict[str, int]:
    """What the emulator counted since it was last asked."""
    found = (ctypes.c_int64 * 4)()
    kernels.library.ck_emulator_counts(found)
    return dict(zip(("races", "unwritten", "passes", "fewest"), found, strict=True))


class Case:
    """Inputs of a function and its gradients, and the function in float64 and in plain torch."""

    def __init__(self, inputs: list[Tensor | None], formula: Callable[..., Tensor], weights_seed: int = 9) -> None:
        self.inputs, self.formula = inputs, formula
        self.truth = self._run(torch.float64)
        self.weights_seed = weights_seed

    def plain(self) -> list[Tensor]:
        """Output and gradients in the inputs' own dtype, by plain torch."""
        return self._run(None)

    def check(self, function: Callable[..., Tensor]) -> None:
        """``function`` and its gradients stay within the error budget."""
        found = self._results(function, [None if t is None else t.detach().clone() for t in self.inputs])
        for name, f, p, t in zip(("y", "x", *"abcd"), found, self.plain(), self.truth, strict=False):
            try:
                assert_in_budget(f, p, t)
            except AssertionError as error:
                raise AssertionError(f"{name}: {error}") from None

    def _run(self, dtype: torch.dtype | None) -> list[Tensor]:
        return self._results(
            self.formula, [None if t is None else t.detach().clone().to(dtype or t.dtype) for t in self.inputs]
        )

    def _results(self, function: Callable[..., Tensor], inputs: list[Tensor | None]) -> list[Tensor]:
        leaves = [t.requires_grad_() for t in inputs if t is not None]
        y = function(*inputs)
        weights = data(*y.shape, seed=9).to(y)
        return [y.detach(), *torch.autograd.grad(y, leaves, weights, materialize_grads=True)]  # no a of one member


def acdc_case(
    n: int,
    depth: int = 1,
    rows: int = 3,
    *,
    columns: tuple[int, int] | None = None,
    bias: bool = True,
    relu: bool = False,
    permuted: bool = False,
    fixed: bool = False,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> tuple[Case, Callable[..., Tensor]]:
    """A cascade, and the function to be tested, which must take the kernel."""
    columns_in, columns_out = columns or (n, n)
    a = 1 + data(depth - fixed, n, seed=1) / 4
    d = 1 + data(depth, n, seed=2) / 4
    beta = data(depth, n, seed=3) if bias else None
    permutation = seeded.permutations(0, 10, depth - 1, n).to(device) if permuted else None
    inputs = [t if t is None else t.to(device, dtype) for t in (data(rows, columns_in), a, d, beta)]

    def formula(x: Tensor, a: Tensor, d: Tensor, beta: Tensor | None) -> Tensor:
        return reference.acdc(x, a, d, beta, permutation, columns_out, relu, False)

    def function(x: Tensor, a: Tensor, d: Tensor, beta: Tensor | None) -> Tensor:
        assert dispatch.path(x, "acdc", n) == SINGLE or not len(x)
        return dispatch.acdc(x, a, d, beta, permutation, columns_out, relu=relu)

    return Case(inputs, formula), function


def fastfood_case(
    n: int, blocks: int = 1, rows: int = 3, *, columns: int | None = None, width: int | None = None,
    features: str = "linear", dtype: torch.dtype = torch.float32, device: str = "cpu",
) -> tuple[Case, Callable[..., Tensor]]:  # fmt: skip
    """Stacked Fastfood blocks, and the function to be tested, which must take the kernel."""
    width = width or blocks * n
    permutation = seeded.permutations(0, 10, blocks, n).to(device)
    shapes = (rows, columns or n), (blocks, n), (blocks, n), (width,)
    scales = (1.0, 1.0, 1.0, 1 / n)
    inputs: list[Tensor | None] = [
        (scale * data(*shape, seed=i)).to(device, dtype)
        for i, (shape, scale) in enumerate(zip(shapes, scales, strict=True))
    ]

    options: dict[str, Any] = {"scale": 1.0, "features": features}

    def formula(x: Tensor, B: Tensor, G: Tensor, S: Tensor) -> Tensor:
        return reference.fastfood(x, B, permutation, G, S, **options)

    def function(x: Tensor, B: Tensor, G: Tensor, S: Tensor) -> Tensor:
        assert dispatch.path(x, "fastfood", n) == SINGLE or not len(x)
        return dispatch.fastfood(x, B, permutation, G, S, **options)

    return Case(inputs, formula), function
