"""The CUDA kernels without a GPU: their own code run thread by thread on the host, and what nvcc says of them."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from cuda_oracle import (
    ACDC_SIZES,
    HADAMARD_SIZES,
    ROOT,
    SINGLE,
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
from torch import Tensor

from compressor.layers import methods, seeded
from compressor_kernels import build_cuda, cuda, dispatch, gpu, hadamard, native, reference

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(compiler() is None, reason="no C++ compiler for the emulation of the CUDA kernels"),
]
HALVES = [torch.float16, torch.bfloat16]


@pytest.fixture(scope="session")
def built() -> cuda.Kernels:
    return emulator()


@pytest.fixture
def kernels(built: cuda.Kernels, monkeypatch: pytest.MonkeyPatch) -> Iterator[cuda.Kernels]:
    """The emulator in the GPU's place, whichever way a call comes.

    Afterwards no two threads may have raced, and nothing have been read before it was written.
    """
    monkeypatch.setattr(gpu, "DEVICE", "cpu")
    monkeypatch.setattr(gpu, "kernels", lambda: built)
    monkeypatch.setattr(native, "takes", lambda *tensors: False)
    counts(built)
    yield built
    found = counts(built)
    assert (found["races"], found["unwritten"]) == (0, 0)


@pytest.mark.parametrize("n", ACDC_SIZES)
def test_a_cascade_and_its_gradients_are_the_formula(n: int, kernels: cuda.Kernels) -> None:
    case, function = acdc_case(n)
    case.check(function)
    case, function = acdc_case(n, 3, 2, relu=True, permuted=True)
    case.check(function)


@pytest.mark.parametrize("n", ACDC_SIZES)
def test_no_access_of_a_transform_meets_a_bank_twice(n: int, kernels: cuda.Kernels) -> None:
    case, function = acdc_case(n)
    function(*case.inputs)
    found = counts(kernels)
    assert (found["races"], found["unwritten"]) == (0, 0)
    assert found["passes"] == found["fewest"] > 0


@pytest.mark.parametrize("n", [*HADAMARD_SIZES, 2**15])
def test_a_walsh_hadamard_transform_is_the_formula(n: int, kernels: cuda.Kernels) -> None:
    x = data(5, n)
    assert dispatch.path(x, "fwht") == SINGLE
    found = dispatch.fwht(x)
    assert_in_budget(found, reference.fwht(x), reference.fwht(x.double()))


@pytest.mark.parametrize("n", [*HADAMARD_SIZES, 2**15])
def test_no_access_of_a_walsh_hadamard_transform_meets_a_bank_twice(n: int, kernels: cuda.Kernels) -> None:
    dispatch.fwht(data(5, n))
    found = counts(kernels)
    assert (found["races"], found["unwritten"]) == (0, 0)
    assert found["passes"] == found["fewest"] > 0


@pytest.mark.parametrize("n", HADAMARD_SIZES)
def test_fastfood_and_its_gradients_are_the_formula(n: int, kernels: cuda.Kernels) -> None:
    case, function = fastfood_case(n)
    case.check(function)
    case, function = fastfood_case(n, 2, 5 if n < 2048 else 2, columns=n - 3, width=2 * n - 5)
    case.check(function)


@pytest.mark.parametrize("make", [acdc_case, fastfood_case])
def test_a_tensor_that_is_negated_lazily_counts_with_its_sign(make: Callable[..., Any], kernels: cuda.Kernels) -> None:
    case, function = make(128)
    for place, tensor in enumerate(case.inputs):
        if tensor is not None and tensor.is_floating_point():
            lazy = [*case.inputs[:place], torch._neg_view(-tensor), *case.inputs[place + 1 :]]
            with torch.no_grad():
                torch.testing.assert_close(function(*lazy), function(*case.inputs))


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
    case, function = acdc_case(n, depth, rows, columns=columns, dtype=dtype, **options)
    case.check(function)


@given(
    n=st.sampled_from(HADAMARD_SIZES[:6]),
    blocks=st.integers(1, 3),
    rows=st.integers(1, 37),
    missing=st.tuples(st.integers(0, 40), st.integers(0, 40)),
    dtype=st.sampled_from([torch.float32, *HALVES]),
)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_fastfood_is_the_formula(n, blocks, rows, missing, dtype, kernels: cuda.Kernels) -> None:
    case, function = fastfood_case(n, blocks, rows, columns=n - missing[0], width=blocks * n - missing[1], dtype=dtype)
    case.check(function)


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
def test_rows_may_lie_anywhere(dtype: torch.dtype, kernels: cuda.Kernels) -> None:
    """Unaligned, at odd distances, in the wrong order, none at all."""
    case, function = acdc_case(128, rows=6, dtype=dtype)
    x, *rest = case.inputs
    assert x is not None
    want = function(x, *rest)
    wide = torch.empty(6, 131, dtype=dtype)
    for view in (wide[:, 1:129], wide[:, 3:131]):
        view.copy_(x)
        torch.testing.assert_close(function(view, *rest), want, rtol=0, atol=0)
    torch.testing.assert_close(function(x.T.contiguous().T, *rest), want, rtol=0, atol=0)
    torch.testing.assert_close(function(x.reshape(2, 3, 128), *rest), want.reshape(2, 3, 128), rtol=0, atol=0)
    assert function(x[:0], *rest).shape == (0, 128)


def test_gradients_of_no_rows_are_zero(kernels: cuda.Kernels) -> None:
    for case, function in (acdc_case(128, 2, 0, permuted=True), fastfood_case(64, 2, 0)):
        leaves = [t.clone().requires_grad_() for t in case.inputs if t is not None]
        function(*leaves).sum().backward()
        assert all(leaf.grad is not None and not leaf.grad.any() for leaf in leaves)


def test_a_nan_stays_in_its_row_and_comes_through(kernels: cuda.Kernels) -> None:
    case, function = acdc_case(128, 2, rows=6, relu=True)
    x, *rest = case.inputs
    assert x is not None
    x[2, 5] = torch.nan
    assert function(x, *rest).isnan().any(1).tolist() == [False, False, True, False, False, False]


def test_a_permutation_may_have_32_bits(kernels: cuda.Kernels) -> None:
    case, _ = acdc_case(128, 2)
    small = seeded.permutations(0, 10, 1, 128)
    results = [dispatch.acdc(*case.inputs, p, 128) for p in (small, small.int(), small.long())]
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_the_same_call_gives_the_same_bytes(kernels: cuda.Kernels) -> None:
    case, function = acdc_case(256, 2, 50, permuted=True)
    first, again = (case._results(function, [t.clone() for t in case.inputs if t is not None]) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("n", [64, 100, 192, 131072])
def test_other_lengths_take_the_multi_call_path_and_the_library_refuses_them(n: int, kernels: cuda.Kernels) -> None:
    case, _ = acdc_case(n)
    assert dispatch.path(data(2, n), "acdc") == "reference (cpu)"
    assert torch.equal(dispatch.acdc(*case.inputs, None, n), case.formula(*case.inputs))
    with pytest.raises(RuntimeError, match="no kernel for this size"):
        kernels.acdc(*case.inputs, None, n, False)


@pytest.mark.parametrize("features", ["relu", "rbf"])
def test_fastfood_features_and_their_gradients_are_the_formula(features: str, kernels: cuda.Kernels) -> None:
    case, function = fastfood_case(128, 2, 5, columns=100, width=200, features=features)
    case.check(function)


def test_a_gradient_has_a_gradient(kernels: cuda.Kernels) -> None:
    case, function = acdc_case(128, 2, permuted=True)

    def curvature(of: Callable[..., Tensor], dtype: torch.dtype) -> Tensor:
        x, *rest = [None if t is None else t.detach().to(dtype) for t in case.inputs]
        x.requires_grad_()
        (slope,) = torch.autograd.grad(of(x, *rest).pow(3).sum(), x, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), x)[0]

    truth = curvature(case.formula, torch.float64)
    assert_in_budget(curvature(function, torch.float32), curvature(case.formula, torch.float32), truth)


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
def test_the_operators_pass_the_checks_of_torch(dtype: torch.dtype, kernels: cuda.Kernels) -> None:
    x, a, d, bias = (t.detach().requires_grad_() for t in acdc_case(128, 2, dtype=dtype)[0].inputs)
    permutation = seeded.permutations(0, 10, 1, 128)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(
        torch.ops.compressor_kernels.acdc.default, (x, a, d, bias, permutation, 100, True, False), test_utils=checks
    )
    x, B, G, S = (t.detach().requires_grad_() for t in fastfood_case(64, 2, dtype=dtype)[0].inputs)
    permutation = seeded.permutations(0, 10, 2, 64)
    torch.library.opcheck(hadamard.fastfood, (x, B, permutation, G, S, 1.0, "rbf"), test_utils=checks)


def test_a_layer_compiles_into_one_graph_with_the_operator_in_it(kernels: cuda.Kernels) -> None:
    acdc = methods()["acdc"].layer
    layer = acdc(128, 128, bias=True, config=acdc.Config(depth=2))
    seen: list[str] = []

    def backend(graph: torch.fx.GraphModule, _: object) -> Callable[..., object]:
        seen.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    x = data(5, 128)
    torch.testing.assert_close(torch.compile(layer, backend=backend, fullgraph=True)(x), layer(x))
    assert any("compressor_kernels.acdc" in target for target in seen)


@pytest.mark.parametrize(("rows", "tables"), [(torch.float16, torch.float32), (torch.float32, torch.bfloat16)])
def test_rows_and_tables_of_two_types_give_what_torch_gives(rows: torch.dtype, tables: torch.dtype, kernels) -> None:
    x, *rest = acdc_case(128, 2)[0].inputs
    x, rest = x.to(rows), [table.to(tables) for table in rest]
    found, plain = dispatch.acdc(x, *rest, None, 128), reference.acdc(x, *rest, None, 128, False, False)
    assert found.dtype == plain.dtype == torch.float32
    torch.testing.assert_close(found, plain)


def test_tensors_on_two_devices_are_not_the_kernels(kernels: cuda.Kernels) -> None:
    x, a, *_ = acdc_case(128)[0].inputs
    assert gpu.takes(x, a)
    assert not gpu.takes(x, a.to("meta"))


def test_a_row_too_long_for_a_small_gpu_takes_the_multi_call_path(
    kernels: cuda.Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "_limits", {torch.device("cpu"): cuda.Limits(99 * 1024, 16384)})
    assert [dispatch.path(data(1, n), "fwht") == SINGLE for n in (16384, 32768)] == [True, False]
    assert [dispatch.path(data(1, n), "acdc") == SINGLE for n in (16384, 32768)] == [True, False]


def test_a_long_cascade_takes_the_multi_call_path_on_a_gpu_without_clusters(
    kernels: cuda.Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, _ = acdc_case(32768, rows=1)
    monkeypatch.setattr(kernels, "_limits", {torch.device("cpu"): cuda.Limits(227 * 1024, 16384)})
    monkeypatch.setattr(kernels, "acdc", None)
    assert torch.equal(dispatch.acdc(*case.inputs, None, 32768), case.formula(*case.inputs))


def test_a_case_notices_a_wrong_gradient(kernels: cuda.Kernels) -> None:
    """The comparison itself: a factor of 1 + 1e-5 in one gradient is seen."""
    case, function = acdc_case(128)

    class Off(torch.autograd.Function):
        @staticmethod
        def forward(ctx, d):
            return d.clone()

        @staticmethod
        def backward(ctx, grad):
            return grad * (1 + 1e-5)

    with pytest.raises(AssertionError, match="b:"):
        case.check(lambda x, a, d, beta: function(x, a, Off.apply(d), beta))


def test_the_benchmark_times_every_op_both_ways(kernels: cuda.Kernels, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the host, each call made once; the clock alone is another."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    kernels_gpu = importlib.import_module("kernels_gpu")
    monkeypatch.setattr(kernels_gpu, "CACHE_BYTES", 1)
    monkeypatch.setattr(kernels_gpu, "DEPTHS", (2,))

    def clock(call: Callable[[], object], repeats: int) -> float:
        call()
        return 2.0

    monkeypatch.setattr(kernels_gpu, "_time", clock)
    rows = list(kernels_gpu.run((64, 128), (3,), ("fp32", "bf16"), rounds=3))
    found = {(row.op, row.n, row.way, row.against) for row in rows}
    dense = {"copy", "dense fp32", "dense bf16"}
    for way in ("forward", "backward"):
        assert {against for *of, against in found if of == ["acdc (multi)", 64, way]} == dense
        for op in ("acdc", "fastfood"):
            assert {against for *of, against in found if of == [op, 128, way]} == dense | {"multi"}
    assert {against for *of, against in found if of == ["fwht", 128, "forward"]} >= {"copy", "multi"}
    assert {row.gigabytes_per_second for row in rows if row.n == 128 and row.dtype == "bf16"} == {0.768, 1.152}


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


def test_an_installed_package_has_its_own_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside it there may be a package of the name of our folder."""
    monkeypatch.setattr(build_cuda, "PACKAGE", tmp_path / "compressor_kernels")
    (tmp_path / "cuda").mkdir()
    with pytest.raises(FileNotFoundError, match="no CUDA sources"):
        build_cuda.sources()
    own = tmp_path / "compressor_kernels" / "sources" / "cuda"
    own.mkdir(parents=True)
    (own / "entries.cu").touch()
    assert build_cuda.sources() == own


@pytest.fixture
def compiled() -> Path:
    """The library that `make cuda` built, of the sources as they are."""
    library = cuda.library_path()
    sources = [*build_cuda.sources().iterdir(), *(build_cuda.sources().parent / "include").iterdir()]
    if not library.exists() or library.stat().st_mtime < max(file.stat().st_mtime for file in sources):
        pytest.skip("the CUDA kernels are not compiled: `make cuda`, where there is nvcc")
    return library


def test_no_compiled_kernel_spills_a_register(compiled: Path) -> None:
    lines = [line.split() for line in Path(f"{compiled}.txt").read_text().splitlines()[1:]]
    found = {(" ".join(names), arch): int(spilled) for *names, arch, _, spilled, _ in lines}
    sizes = {"acdc_forward": ACDC_SIZES, "acdc_backward": ACDC_SIZES, "fwht": [*HADAMARD_SIZES, 2**15]}
    sizes |= {"fastfood_forward": HADAMARD_SIZES, "fastfood_backward": HADAMARD_SIZES}
    names = [f"{name}_kernel {n}" for name, lengths in sizes.items() for n in lengths]
    names += ["reduce_kernel", "bend_kernel"]
    expected = {(name, f"sm_{arch}"): 0 for name in names for arch in build_cuda.ARCHITECTURES}
    assert found == expected


def test_the_compiled_library_loads_and_says_in_words_that_there_is_no_gpu(compiled: Path, built: cuda.Kernels) -> None:
    kernels = cuda.Kernels(cuda.load(compiled))
    device = torch.device("cpu")
    assert torch.equal(kernels.table(1024, device), built.table(1024, device))
    if not torch.cuda.is_available():
        with pytest.warns(RuntimeWarning, match="no CUDA kernels, plain torch runs on the GPU instead"):
            assert kernels.limits(device) == (0, 0)
