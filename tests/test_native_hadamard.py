"""Walsh–Hadamard transforms and Fastfood stacks in native code against the plain ones in float64."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from native_oracle import NUMBERS, assert_in_budget, data, random_cases, rows_in
from torch import Tensor

from compressor.layers import seeded
from compressor.layers.fastfood import Fastfood
from compressor_kernels import dispatch, hadamard, native, reference

pytestmark = pytest.mark.skipif(native.library() is None, reason="the native kernels are not built")

Case = dict[str, Any]


@st.composite
def stacks(draw: st.DrawFn) -> Case:
    """A Fastfood stack of any size, its input of any stride and alignment."""
    d = 2 ** draw(st.integers(0, 11))
    blocks = draw(st.integers(1, 3))
    return {
        "d": d,
        "blocks": blocks,
        "columns": draw(st.integers(1, d)),
        "width": (blocks - 1) * d + draw(st.integers(1, d)),
        "rows": draw(st.integers(0, 13)),
        "gap": draw(st.integers(0, 5)),
        "offset": draw(st.integers(0, 17)),
        "features": draw(st.sampled_from(["linear", "relu", "rbf"])),
        "scale": draw(st.sampled_from([1.0, 0.125, 40.0])),
        "bias": draw(st.booleans()),
        "seed": draw(st.integers(0, 2**16)),
    }


def inputs(case: Case) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    d, blocks, seed = case["d"], case["blocks"], case["seed"]
    x = rows_in(case["rows"], case["columns"], case["gap"], case["offset"], seed)
    permutation = seeded.permutations(seed, 21, blocks, d)
    scale = 1 / d**0.5
    return x, data(blocks, d, seed=seed + 1), permutation, data(blocks, d, seed=seed + 2) * scale, data(
        case["width"], seed=seed + 3
    )  # fmt: skip


@given(bits=st.integers(0, 13), rows=st.integers(0, 9), gap=st.integers(0, 5), offset=st.integers(0, 17))
@settings(random_cases)
def test_a_native_walsh_hadamard_transform_is_the_formula(bits: int, rows: int, gap: int, offset: int) -> None:
    x = rows_in(rows, 2**bits, gap, offset, bits)
    assert_in_budget(hadamard.run_fwht(x), reference.fwht(x), reference.fwht(x.double()))


def doubled(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [t.double() if t.is_floating_point() else t for t in tensors]


@given(case=stacks())
@settings(random_cases, max_examples=300)
def test_a_native_stack_is_the_formula(case: Case) -> None:
    tensors = inputs(case)
    how = {"scale": case["scale"], "features": case["features"]}
    truth = reference.fastfood(*doubled(tensors), **how)
    uncut = reference.fastfood(*doubled(inputs(case | {"width": case["blocks"] * case["d"]})), **how)
    bias = data(case["width"], seed=case["seed"] + 4) if case["bias"] and case["features"] == "linear" else None
    found, plain = hadamard.run_fastfood(*tensors, **how, bias=bias), reference.fastfood(*tensors, **how)
    if bias is not None:
        truth, plain = truth + bias.double(), plain + bias
    assert_in_budget(found, plain, truth, terms=uncut.norm())


def test_only_linear_features_take_a_bias() -> None:
    case = {"d": 16, "blocks": 1, "columns": 16, "width": 16, "rows": 2, "gap": 0, "offset": 0, "seed": 1}
    with pytest.raises(RuntimeError, match="an argument is out of range"):
        hadamard.run_fastfood(*inputs(case), scale=1.0, features="relu", bias=data(16))


def gradients(case: Case, row: slice, dtype: torch.dtype, is_native: bool = False) -> list[Tensor]:
    """Of a loss of the rows ``row``, by x, B, G and S."""
    leaves = [t.to(dtype).detach().requires_grad_() if t.is_floating_point() else t for t in inputs(case)]
    scale, features = case["scale"], case["features"]
    if is_native:
        y = hadamard.fastfood(*leaves, scale, features)
    else:
        y = reference.fastfood(*leaves, scale=scale, features=features)
    weights = data(*y.shape, seed=99).to(y)
    return list(torch.autograd.grad((y * weights)[row].sum(), [leaf for leaf in leaves if leaf.requires_grad]))


@given(case=stacks())
@settings(random_cases)
def test_native_gradients_of_a_stack_are_those_of_the_formula(case: Case) -> None:
    case["scale"] = min(case["scale"], 1.0)  # beyond, cosines are noise in plain torch too
    d = case["d"]
    case["columns"] = max(case["columns"], d // 2)  # one number of many is small by chance
    case["width"] = max(case["width"], case["blocks"] * d - d // 2)
    case["rows"] += -(-NUMBERS // min(case["columns"], case["width"]))
    everything = slice(None)
    truth = gradients(case, everything, torch.float64)
    plain = gradients(case, everything, torch.float32)
    found = gradients(case, everything, torch.float32, is_native=True)
    rows = [gradients(case, slice(r, r + 1), torch.float64) for r in range(case["rows"])]
    for i, true in enumerate(truth):
        if case["features"] == "relu" and (plain[i].double() - true).norm() > 1e-5 * true.norm():
            continue  # a product next to zero, on one side in one precision and on the other in the other
        assert_in_budget(found[i], plain[i], true, terms=sum(float(row[i].norm()) for row in rows))


def test_the_same_threads_give_the_same_bytes_and_other_threads_the_same_numbers() -> None:
    case = {"d": 256, "blocks": 2, "columns": 200, "width": 400, "rows": 137, "gap": 0, "offset": 0, "seed": 3}
    tensors = inputs(case)
    grad = data(137, 400, seed=8)
    was = torch.get_num_threads()
    try:
        found = {}
        for threads in (1, 2, 2, 3):
            torch.set_num_threads(threads)
            forward = hadamard.run_fastfood(*tensors, scale=1.0, features="linear")
            backward = hadamard.fastfood_backward(grad, *tensors, 1.0, "linear")
            for old, new in zip(found.get(threads, []), (forward, *backward), strict=False):
                assert torch.equal(old, new)
            found[threads] = [forward, *backward]
        for one, three in zip(found[1], found[3], strict=True):
            assert (one - three).norm() <= 1e-6 * one.norm()
    finally:
        torch.set_num_threads(was)


def test_large_products_and_those_that_are_no_numbers_have_their_cosine() -> None:
    sizes = [3e4, 1e30, 8191.5, torch.nan, torch.inf]
    x = torch.zeros(5, 16)
    x[:, 0] = torch.tensor(sizes)
    ones, order = torch.ones(1, 16), torch.arange(16, dtype=torch.int32)[None]
    found = hadamard.run_fastfood(x, ones, order, ones, ones[0], scale=1 / 16, features="rbf")
    for row in range(3):
        truth = torch.tensor([math.cos(float(x[row, 0])), math.sin(float(x[row, 0]))]) / 4
        torch.testing.assert_close(found[row, [0, 16]], truth)
    assert found[3:, [0, 16]].isnan().all()


def test_a_transform_of_another_length_than_a_power_of_two_is_refused() -> None:
    with pytest.raises(ValueError, match="a power of two, not 12"):
        hadamard.run_fwht(torch.zeros(2, 12))


@pytest.mark.parametrize("features", ["linear", "relu", "rbf"])
def test_the_operators_of_stacks_pass_the_checks_of_torch(features: str) -> None:
    case = {"d": 16, "blocks": 2, "columns": 13, "width": 27, "rows": 5, "gap": 0, "offset": 0, "seed": 1}
    x, b, permutation, g, s = inputs(case)
    permutation = permutation.to(torch.int32)
    leaves = [t.requires_grad_() for t in (x, b, g, s)]
    torch.library.opcheck(hadamard.fastfood, (leaves[0], leaves[1], permutation, *leaves[2:], 0.5, features))
    torch.library.opcheck(hadamard.fwht, (data(3, 16).requires_grad_(),))
    grad = data(5, 54 if features == "rbf" else 27)
    detached = [t.detach() for t in (x, b, permutation, g, s)]
    torch.library.opcheck(hadamard.fastfood_backward, (grad, *detached, 0.5, features))
    compiled = torch.compile(
        lambda v: dispatch.fastfood(v, b, permutation, g, s, scale=0.5, features=features),
        backend="aot_eager",
        fullgraph=True,
    )
    torch.testing.assert_close(compiled(x), reference.fastfood(x, b, permutation, g, s, scale=0.5, features=features))


def test_an_exported_fastfood_layer_holds_plain_operators_only() -> None:
    layer = Fastfood(13, 20)
    program = torch.export.export(layer, (data(3, 13),))
    assert "compressor" not in str(program.graph)
    torch.testing.assert_close(program.module()(data(3, 13)), layer(data(3, 13)))


def test_a_layer_takes_the_native_path_in_float32_and_the_reference_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = Fastfood(13, 20, terms=2)
    x = data(3, 13)
    plain = layer.double()(x.double())
    layer.float()
    monkeypatch.setattr(reference, "fastfood", None)
    torch.testing.assert_close(layer(x), plain.float())
    with torch.no_grad():
        torch.testing.assert_close(layer(x), plain.float())


def test_what_no_kernel_takes_the_operators_compute_by_plain_torch() -> None:
    case = {"d": 16, "blocks": 2, "columns": 13, "width": 27, "rows": 5, "gap": 0, "offset": 0, "seed": 1}
    x, b, permutation, g, s = (t.double() if t.is_floating_point() else t for t in inputs(case))
    leaves = [t.requires_grad_() for t in (x, b, g, s)]
    want = reference.fastfood(x, b, permutation, g, s, scale=0.5, features="rbf")
    found = hadamard.fastfood(x, b, permutation, g, s, 0.5, "rbf")
    torch.testing.assert_close(found, want)
    torch.testing.assert_close(
        torch.autograd.grad(found.pow(2).sum(), leaves), torch.autograd.grad(want.pow(2).sum(), leaves)
    )
    torch.testing.assert_close(hadamard.fwht(x[:, :8].detach()), reference.fwht(x[:, :8].detach()))
