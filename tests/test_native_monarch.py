"""Monarch products in native code against the plain ones in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from native_oracle import assert_in_budget, data, rows_in
from torch import Tensor

from compressor.layers.monarch import Monarch
from compressor_kernels import monarch as kernels
from compressor_kernels import native, reference

pytestmark = pytest.mark.skipif(native.library() is None, reason="the native kernels are not built")

Case = dict[str, Any]


@st.composite
def products(draw: st.DrawFn) -> Case:
    """A product of any size, its input of any stride and alignment."""
    k, p, q = draw(st.integers(1, 35)), draw(st.integers(1, 35)), draw(st.integers(1, 35))
    ends = {"rank": (1, 3), "rows": (0, 31), "gap": (0, 5), "offset": (0, 17)}
    return {
        "k": k, "p": p, "q": q, "bias": draw(st.booleans()), "seed": draw(st.integers(0, 2**16)),
        "columns": draw(st.integers(1, k * p)), "out": draw(st.integers(max(1, k * q // 2), k * q)),
        **{name: draw(st.integers(*end)) for name, end in ends.items()},
    }  # fmt: skip


def inputs(case: Case) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    k, hidden, seed = case["k"], case["k"] * case["rank"], case["seed"]
    return (
        rows_in(case["rows"], case["columns"], case["gap"], case["offset"], seed),
        data(k, hidden, case["p"], seed=seed + 1),
        data(k, case["q"], hidden, seed=seed + 2),
        data(case["out"], seed=seed + 3) if case["bias"] else None,
    )


@given(case=products())
@settings(max_examples=500, deadline=None)
def test_a_native_product_is_the_formula(case: Case) -> None:
    tensors = inputs(case)
    found, plain = kernels.run_monarch(*tensors, case["out"]), reference.monarch(*tensors, case["out"])
    doubles = [t if t is None else t.double() for t in tensors]
    truth = reference.monarch(*doubles, case["out"])
    terms = case["p"] * case["k"] * case["rank"] * found.numel()  # what is added up in each output has variance 1
    assert_in_budget(found, plain, truth, terms=max(float(truth.norm()), terms**0.5))


def test_the_operator_passes_the_checks_of_torch_and_has_the_gradient_of_the_formula() -> None:
    case = {"k": 5, "p": 3, "q": 4, "rank": 2, "rows": 7, "gap": 0, "offset": 0, "columns": 13, "out": 18, "bias": True}
    leaves = [t.requires_grad_() for t in inputs(case | {"seed": 1}) if t is not None]
    torch.library.opcheck(kernels.monarch, (*leaves, 18))
    weights = data(7, 18, seed=9)
    found = torch.autograd.grad((kernels.monarch(*leaves, 18) * weights).sum(), leaves)
    x, first, second, bias = leaves
    plain = torch.autograd.grad((reference.monarch(x, first, second, bias, 18) * weights).sum(), leaves)
    torch.testing.assert_close(found, plain)


def test_a_layer_takes_the_native_path_without_gradients_only(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = Monarch(13, 20), data(3, 13)
    plain = layer(x)
    assert plain.requires_grad
    monkeypatch.setattr(reference, "monarch", None)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), plain)
        compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), plain)


def test_an_exported_layer_holds_plain_operators_only() -> None:
    with torch.no_grad():
        program = torch.export.export(Monarch(13, 20), (data(3, 13),))
    assert "compressor" not in str(program.graph)
