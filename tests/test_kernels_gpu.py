"""The CUDA kernels on a GPU, against the formulas in float64. Skipped where there is no GPU or no built library."""

from __future__ import annotations

import pytest
import torch
from cuda_oracle import ACDC_SIZES, HADAMARD_SIZES, SINGLE, acdc_case, assert_in_budget, data, fastfood_case

from compressor.layers import methods
from compressor_kernels import cuda, dispatch, reference

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"),
    pytest.mark.skipif(
        torch.cuda.is_available() and not cuda.library_path().exists(),
        reason="a GPU, but no CUDA kernels: run `python -m compressor_kernels.build_cuda`",
    ),
]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", ACDC_SIZES)
def test_a_cascade_and_its_gradients_are_the_formula(n: int, dtype: torch.dtype) -> None:
    case, function = acdc_case(n, rows=133, dtype=dtype, device="cuda")
    case.check(function)
    case, function = acdc_case(n, 3, 133, columns=(n - 3, n - 5), permuted=True, fixed=True, dtype=dtype, device="cuda")
    case.check(function)


@pytest.mark.parametrize("n", ACDC_SIZES)
def test_a_cascade_with_relus_is_the_formula(n: int) -> None:
    case, function = acdc_case(n, 12, 40, relu=True, permuted=True, device="cuda")
    found = function(*case.inputs)
    assert_in_budget(found, case.formula(*case.inputs), case.truth[0])


@pytest.mark.parametrize("rows", [1, 2, 3, 5000, 20000])
def test_any_number_of_rows_is_served(rows: int) -> None:
    for n in (128, 1024, 4096)[: 2 if rows == 20000 else 3]:
        case, function = acdc_case(n, 1, rows, device="cuda")
        case.check(function)


@pytest.mark.parametrize(
    ("n", "dtype"),
    # float16 overflows in plain torch where H is not normalised and n is large: no error budget to compare with
    [(n, dtype) for n in HADAMARD_SIZES for dtype in DTYPES if n <= 4096 or dtype is not torch.float16],
)
def test_fastfood_and_its_gradients_are_the_formula(n: int, dtype: torch.dtype) -> None:
    case, function = fastfood_case(n, 2, 133, columns=n - 3, width=2 * n - 5, dtype=dtype, device="cuda")
    case.check(function)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [*HADAMARD_SIZES, 2**15])
def test_a_walsh_hadamard_transform_is_the_formula(n: int, dtype: torch.dtype) -> None:
    x = data(133, n).to("cuda", dtype)
    assert dispatch.path(x, "fwht") == SINGLE
    assert_in_budget(dispatch.fwht(x), reference.fwht(x), reference.fwht(x.double()))


def test_the_same_call_gives_the_same_bytes() -> None:
    case, function = acdc_case(1024, 2, 3000, permuted=True, device="cuda")
    first, again = (case._results(function, [t.clone() for t in case.inputs if t is not None]) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_a_call_works_on_the_current_stream_and_is_captured_in_a_graph() -> None:
    case, function = acdc_case(1024, 2, 64, permuted=True, device="cuda")
    x, *rest = case.inputs
    assert x is not None
    want = function(x, *rest)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        function(x, *rest)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph):
        found = function(x, *rest)
    found.zero_()
    graph.replay()
    assert torch.equal(found, want)


@pytest.mark.parametrize("size", [1000, 1024, 32768])
def test_a_layer_takes_the_single_call_where_there_is_one(size: int) -> None:
    torch.manual_seed(0)
    acdc = methods()["acdc"].layer
    layer = acdc(size, size, bias=True, config=acdc.Config(depth=2, size=size)).cuda()
    x = torch.randn(5, size, device="cuda")
    assert dispatch.path(x, "acdc") == (SINGLE if size == 1024 else "reference (cuda multi-call)")
    want = layer.double()(x.double())
    torch.testing.assert_close(layer.float()(x), want.float(), rtol=1e-4, atol=1e-4)


def test_a_layer_compiles_into_one_graph_with_the_operator_in_it() -> None:
    acdc = methods()["acdc"].layer
    layer = acdc(1024, 1024, bias=True, config=acdc.Config(depth=2)).cuda()
    x = torch.randn(5, 1024, device="cuda", requires_grad=True)
    y = torch.compile(layer, fullgraph=True, backend="aot_eager")(x)
    torch.testing.assert_close(y, layer(x))
    (found,) = torch.autograd.grad(y.square().sum(), x)
    (want,) = torch.autograd.grad(layer(x).square().sum(), x)
    torch.testing.assert_close(found, want)
