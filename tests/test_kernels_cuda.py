"""The CUDA kernels without a GPU: their own code run thread by thread on the host, and what nvcc says of them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from cuda_oracle import (
    ACDC_SIZES,
    HADAMARD_SIZES,
    acdc_case,
    assert_in_budget,
    compiler,
    counts,
    data,
    emulator,
    fastfood_case,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compressor.layers import seeded
from compressor_kernels import build_cuda, cuda, reference

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C++ compiler for the emulation of the CUDA kernels")
HALVES = [torch.float16, torch.bfloat16]


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> cuda.Kernels:
    return emulator(tmp_path_factory.mktemp("emulation"))


@pytest.fixture
def kernels(built: cuda.Kernels) -> Iterator[cuda.Kernels]:
    """The emulator; afterwards no two threads may have raced, and nothing may have been read before it was written."""
    counts(built)
    yield built
    found = counts(built)
    assert (found["races"], found["unwritten"]) == (0, 0)


@pytest.mark.parametrize("n", ACDC_SIZES)
def test_a_cascade_and_its_gradients_are_the_formula(n: int, kernels: cuda.Kernels) -> None:
    case, of = acdc_case(n)
    case.check(of(kernels))
    case, of = acdc_case(n, 3, 2, relu=True, permuted=True)
    case.check(of(kernels))


@pytest.mark.parametrize("n", ACDC_SIZES)
def test_no_access_of_a_transform_meets_a_bank_twice(n: int, kernels: cuda.Kernels) -> None:
    case, of = acdc_case(n)
    of(kernels)(*case.inputs)
    found = counts(kernels)
    assert (found["races"], found["unwritten"]) == (0, 0)
    assert found["passes"] == found["fewest"] > 0


@pytest.mark.parametrize("n", [*HADAMARD_SIZES, 2**15])
def test_a_walsh_hadamard_transform_is_the_formula(n: int, kernels: cuda.Kernels) -> None:
    x = data(5, n)
    found = cuda.fwht(x, kernels)
    assert_in_budget(found, reference.fwht(x), reference.fwht(x.double()))


@pytest.mark.parametrize("n", [*HADAMARD_SIZES, 2**15])
def test_no_access_of_a_walsh_hadamard_transform_meets_a_bank_twice(n: int, kernels: cuda.Kernels) -> None:
    cuda.fwht(data(5, n), kernels)
    found = counts(kernels)
    assert (found["races"], found["unwritten"]) == (0, 0)
    assert found["passes"] == found["fewest"] > 0


@pytest.mark.parametrize("n", HADAMARD_SIZES)
def test_fastfood_and_its_gradients_are_the_formula(n: int, kernels: cuda.Kernels) -> None:
    case, of = fastfood_case(n)
    case.check(of(kernels))
    case, of = fastfood_case(n, 2, 5, columns=n - 3, width=2 * n - 5)
    case.check(of(kernels))


@given(
    n=st.sampled_from(ACDC_SIZES[:5]),
    depth=st.integers(1, 3),
    rows=st.integers(1, 37),
    missing=st.tuples(st.integers(0, 100), st.integers(0, 100)),
    flags=st.tuples(*[st.booleans()] * 4),
    dtype=st.sampled_from([torch.float32, *HALVES]),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_cascade_is_the_formula(n, depth, rows, missing, flags, dtype, kernels: cuda.Kernels) -> None:
    bias, relu, permuted, fixed = flags
    columns = (n - missing[0], n - missing[1])
    options = {"bias": bias, "relu": relu and dtype == torch.float32, "permuted": permuted, "fixed": fixed}
    case, of = acdc_case(n, depth, rows, columns=columns, dtype=dtype, **options)
    case.check(of(kernels))


@given(
    n=st.sampled_from(HADAMARD_SIZES[:6]),
    blocks=st.integers(1, 3),
    rows=st.integers(1, 37),
    missing=st.tuples(st.integers(0, 40), st.integers(0, 40)),
    dtype=st.sampled_from([torch.float32, *HALVES]),
)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_fastfood_is_the_formula(n, blocks, rows, missing, dtype, kernels: cuda.Kernels) -> None:
    case, of = fastfood_case(n, blocks, rows, columns=n - missing[0], width=blocks * n - missing[1], dtype=dtype)
    case.check(of(kernels))


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
def test_rows_may_lie_anywhere(dtype: torch.dtype, kernels: cuda.Kernels) -> None:
    """Unaligned, at odd distances, in the wrong order, none at all."""
    case, of = acdc_case(128, rows=6, dtype=dtype)
    x, *rest = case.inputs
    assert x is not None
    want = of(kernels)(x, *rest)
    wide = torch.empty(6, 131, dtype=dtype)
    for view in (wide[:, 1:129], wide[:, 3:131]):
        view.copy_(x)
        torch.testing.assert_close(of(kernels)(view, *rest), want, rtol=0, atol=0)
    torch.testing.assert_close(of(kernels)(x.T.contiguous().T, *rest), want, rtol=0, atol=0)
    torch.testing.assert_close(of(kernels)(x.reshape(2, 3, 128), *rest), want.reshape(2, 3, 128), rtol=0, atol=0)
    assert of(kernels)(x[:0], *rest).shape == (0, 128)


def test_gradients_of_no_rows_are_zero(kernels: cuda.Kernels) -> None:
    for case, of in (acdc_case(128, 2, 0, permuted=True), fastfood_case(64, 2, 0)):
        leaves = [t.clone().requires_grad_() for t in case.inputs if t is not None]
        of(kernels)(*leaves).sum().backward()
        assert all(leaf.grad is not None and not leaf.grad.any() for leaf in leaves)


def test_a_nan_stays_in_its_row_and_comes_through(kernels: cuda.Kernels) -> None:
    case, of = acdc_case(128, 2, rows=6, relu=True)
    x, *rest = case.inputs
    assert x is not None
    x[2, 5] = torch.nan
    assert of(kernels)(x, *rest).isnan().any(1).tolist() == [False, False, True, False, False, False]


def test_a_permutation_may_have_32_bits(kernels: cuda.Kernels) -> None:
    case, _ = acdc_case(128, 2)
    small = seeded.permutations(0, 10, 1, 128)
    results = [cuda.acdc(*case.inputs, p, 128, False, kernels) for p in (small, small.int(), small.long())]
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_the_same_call_gives_the_same_bytes(kernels: cuda.Kernels) -> None:
    case, of = acdc_case(256, 2, 50, permuted=True)
    first, again = (case._results(of(kernels), [t.clone() for t in case.inputs if t is not None]) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("n", [64, 100, 192, 32768])
def test_other_lengths_are_refused_with_a_reason(n: int, kernels: cuda.Kernels) -> None:
    case, of = acdc_case(n)
    with pytest.raises(RuntimeError, match="no kernel for this size"):
        of(kernels)(*case.inputs)


def test_a_case_notices_a_wrong_gradient(kernels: cuda.Kernels) -> None:
    """The comparison itself: a factor of 1 + 1e-5 in one gradient is seen."""
    case, of = acdc_case(128)

    class Off(torch.autograd.Function):
        @staticmethod
        def forward(ctx, d):
            return d.clone()

        @staticmethod
        def backward(ctx, grad):
            return grad * (1 + 1e-5)

    with pytest.raises(AssertionError, match="b:"):
        case.check(lambda x, a, d, beta: of(kernels)(x, a, Off.apply(d), beta))


REPORT = """
ptxas info    : Compiling entry function '_ZN2ck19acdc_forward_kernelINS_8AcdcPlanILi1024EEEEEv' for 'sm_90'
ptxas info    : Function properties for _ZN2ck19acdc_forward_kernelINS_8AcdcPlanILi1024EEEEEv
    88 bytes stack frame, 100 bytes spill stores, 88 bytes spill loads
ptxas info    : Used 80 registers, used 0 barriers, 88 bytes cumulative stack size
ptxas info    : Compile time = 1094.123 ms
"""


def test_the_resource_report_is_read() -> None:
    assert build_cuda.parse(REPORT) == [build_cuda.Resources("acdc_forward_kernel 1024", "90", 80, 188, 88)]
    with pytest.raises(ValueError, match="does not read"):
        build_cuda.parse(REPORT.replace("spill stores", "spilled"))


@pytest.mark.parametrize(("spills", "says"), [(0, ""), (8, "acdc_forward_kernel 1024 .*sm_90 .* 16 ")])
def test_a_build_fails_where_a_kernel_spills(
    spills: int, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stand-in for nvcc that reports one kernel and writes an empty file."""
    report = re.sub(r"\d+ bytes spill", f"{spills} bytes spill", REPORT)
    (tmp_path / "bin").mkdir()
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.write_text(f'#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done; : > "$2"\ncat <<END{report}END\n')
    nvcc.chmod(0o755)
    monkeypatch.setenv("PATH", f"{nvcc.parent}:{os.environ['PATH']}")
    if spills:
        with pytest.raises(RuntimeError, match=says):
            build_cuda.build(tmp_path)
        assert not (tmp_path / build_cuda.LIBRARY).exists()
    else:
        assert build_cuda.build(tmp_path)
        assert (tmp_path / build_cuda.LIBRARY).exists()
