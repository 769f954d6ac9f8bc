"""Sparse products in native code against the plain ones in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from native_oracle import NUMBERS, assert_in_budget, assert_same_bytes_for_same_threads, data, random_cases, rows_in
from torch import Tensor

from compressor.layers.positions import Positions, block_rows
from compressor.layers.pruned import Pruned
from compressor_kernels import native, reference, sparse

pytestmark = pytest.mark.skipif(native.library() is None, reason="the native kernels are not built")

Case = dict[str, Any]


@st.composite
def products(draw: st.DrawFn) -> Case:
    """A sparse matrix of any size, block and density, its input of any stride and alignment."""
    ends = {"rows": (0, 70), "gap": (0, 5), "offset": (0, 17), "seed": (0, 2**16), "out": (1, 60)}
    columns = draw(st.one_of(st.integers(1, 60), st.integers(257, 300)))
    case = {name: draw(st.integers(*end)) for name, end in ends.items()}
    case["block"] = draw(st.one_of(st.just(1), st.sampled_from([4, 8, 16, 32]), st.integers(2, 80)))
    return case | {"columns": columns, "density": draw(st.floats(0, 1)), "bias": draw(st.booleans())}


def inputs(case: Case) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None, int, int]:
    seed, out, block = case["seed"], case["out"], case["block"]
    count = round(case["density"] * case["columns"] * block_rows(out, block))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        places = Positions(case["columns"], out, count, block)
    return (
        rows_in(case["rows"], case["columns"], case["gap"], case["offset"], seed),
        data(count * block, seed=seed + 1),
        places.columns,
        places.lengths,
        data(out, seed=seed + 2) if case["bias"] else None,
        out,
        block,
    )


@given(case=products())
@settings(random_cases, max_examples=200)
def test_a_native_sparse_product_is_the_formula(case: Case) -> None:
    x, values, columns, lengths, bias, *sizes = inputs(case)
    wide = None if bias is None else bias.double()
    truth = reference.csr(x.double(), values.double(), columns, lengths, wide, *sizes)
    plain = reference.csr(x, values, columns, lengths, bias, *sizes)
    terms = (len(values) + case["out"]) * len(x)  # what is added up has variance 1
    if truth.numel() < NUMBERS:
        terms = float(reference.csr(x.abs(), values.abs(), columns, lengths, None, *sizes).norm()) ** 2
    found = sparse.run_csr(x, values, columns, lengths, bias, *sizes)
    assert_in_budget(found, plain, truth, terms=max(float(truth.norm()), terms**0.5))


@given(case=products())
@settings(random_cases)
def test_native_gradients_of_a_sparse_product_are_those_of_the_formula(case: Case) -> None:
    def gradients(dtype: torch.dtype, is_native: bool) -> list[Tensor]:
        x, values, columns, lengths, bias, *sizes = inputs(case)
        leaves = [t.to(dtype).requires_grad_() for t in (x, values, bias) if t is not None]
        tables = leaves[0], leaves[1], columns, lengths, leaves[2] if bias is not None else None
        y = (sparse.csr if is_native else reference.csr)(*tables, *sizes)
        return list(torch.autograd.grad((y * data(*y.shape, seed=9).to(y)).sum(), leaves))

    found, plain, truth = (
        gradients(torch.float32, True),
        gradients(torch.float32, False),
        gradients(torch.float64, False),
    )
    terms = ((truth[1].numel() + case["out"]) * case["rows"]) ** 0.5
    for mine, theirs, true in zip(found, plain, truth, strict=True):
        assert_in_budget(mine, theirs, true, terms=max(float(true.norm()), terms))


@pytest.mark.parametrize("rows", [1, 2, 3, 13, 128])
@pytest.mark.parametrize(("out", "block"), [(1, 1), (10, 10), (32, 16), (45, 16), (45, 12), (200, 64), (137, 128)])
def test_vectors_give_what_the_same_entries_one_by_one_give(out: int, block: int, rows: int) -> None:
    layer, x = Pruned(70, out, density=0.3, block=block), data(rows, 70).requires_grad_()
    assert layer.positions.block == block
    same = Pruned.from_sparse(layer.positions.scatter(layer.values), layer.bias)
    found, wanted = layer(x), same(x)
    torch.testing.assert_close(found, wanted)
    grad, grads = data(rows, out, seed=3), []
    for y, one in ((found, layer), (wanted, same)):
        by_x, by_values = torch.autograd.grad(y, [x, one.values], grad)
        grads.append((by_x, one.positions.scatter(by_values)))
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("block", [1, 4])
def test_the_operator_of_sparse_products_passes_the_checks_of_torch(block: int) -> None:
    case = {"rows": 7, "gap": 0, "offset": 0, "seed": 1, "out": 11, "columns": 13, "density": 0.3, "bias": True}
    x, values, columns, lengths, bias, *sizes = inputs(case | {"block": block})
    assert bias is not None
    leaves = x.requires_grad_(), values.requires_grad_(), columns, lengths, bias.requires_grad_()
    torch.library.opcheck(sparse.csr, (*leaves, *sizes))
    grad, tables = data(7, 11), (x.detach(), values.detach(), columns, lengths)
    torch.library.opcheck(sparse.csr_backward, (grad, *tables, block))


def test_a_column_that_is_not_there_is_refused() -> None:
    values, lengths = torch.ones(2), torch.tensor([2, 0], dtype=torch.uint8)
    for columns in (torch.tensor([0, 5], dtype=torch.uint8), torch.tensor([0, -1], dtype=torch.int32)):
        with pytest.raises(RuntimeError, match="an argument is out of range"):
            sparse.run_csr(torch.ones(1, 5), values, columns, lengths, None, 2, 1)


def test_lengths_that_are_not_those_of_the_entries_are_refused() -> None:
    columns = torch.zeros(2, dtype=torch.uint8)
    with pytest.raises(RuntimeError, match="an argument is out of range"):
        sparse.run_csr(torch.ones(1, 5), torch.ones(2), columns, torch.tensor([2, 1], dtype=torch.uint8), None, 2, 1)


@pytest.mark.parametrize("block", [0, 2, 7])
def test_vectors_that_are_not_those_of_the_sizes_are_refused(block: int) -> None:
    columns, lengths = torch.zeros(3, dtype=torch.uint8), torch.tensor([2, 1], dtype=torch.uint8)
    with pytest.raises(ValueError, match=f"vectors of {block} need"):
        sparse.run_csr(torch.ones(1, 5), torch.ones(12), columns, lengths, None, 9, block)
    with pytest.raises(ValueError, match="the lengths"):
        sparse.run_csr(torch.ones(1, 5), torch.ones(12), columns, lengths, None, 9, 4)


@pytest.mark.parametrize("block", [1, 16])
def test_gradients_are_the_same_bytes_for_the_same_threads(block: int) -> None:
    case = {"rows": 300, "gap": 0, "offset": 0, "seed": 1, "out": 90, "columns": 70, "density": 0.3, "bias": False}
    x, values, columns, lengths, *_ = inputs(case | {"block": block})
    grad = data(300, 90, seed=2)
    assert_same_bytes_for_same_threads(lambda: sparse.csr_backward(grad, x, values, columns, lengths, block))


@pytest.mark.parametrize("block", [1, 8])
def test_a_pruned_layer_takes_the_native_path_with_gradients_too(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = Pruned(13, 20, density=0.3, block=block), data(3, 13)
    plain = layer.double()(x.double()).float()
    layer.float()
    monkeypatch.setattr(reference, "csr", None)
    torch.testing.assert_close(layer(x), plain)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), plain)


def test_an_exported_pruned_layer_holds_plain_operators_only() -> None:
    program = torch.export.export(Pruned(13, 20, density=0.3), (data(3, 13),))
    assert "compressor" not in str(program.graph)
