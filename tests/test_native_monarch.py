"""Monarch products in native code against the plain ones in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from native_oracle import assert_in_budget, assert_same_bytes_for_same_threads, data, random_cases, rows_in
from torch import Tensor

from compressor.layers.monarch import Monarch
from compressor_kernels import monarch as kernels
from compressor_kernels import native, reference

pytestmark = pytest.mark.skipif(native.library() is None, reason="the native kernels are not built")

Case = dict[str, Any]


@st.composite
def products(draw: st.DrawFn, rows: tuple[int, int] = (0, 31)) -> Case:
    """A product of any size, its input of any stride and alignment."""
    k, p, q = draw(st.integers(1, 35)), draw(st.integers(1, 35)), draw(st.integers(1, 35))
    ends = {"rank": (1, 3), "rows": rows, "gap": (0, 5), "offset": (0, 17)}
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
@settings(random_cases, max_examples=200)
def test_a_native_product_is_the_formula(case: Case) -> None:
    tensors = inputs(case)
    found, plain = kernels.run_monarch(*tensors, case["out"]), reference.monarch(*tensors, case["out"])
    doubles = [t if t is None else t.double() for t in tensors]
    truth = reference.monarch(*doubles, case["out"])
    terms = case["p"] * case["k"] * case["rank"] * found.numel()  # what is added up in each output has variance 1
    assert_in_budget(found, plain, truth, terms=max(float(truth.norm()), terms**0.5))


@given(case=products(rows=(1, 150)))
@settings(random_cases, max_examples=200)
def test_native_gradients_of_a_product_are_those_of_the_formula(case: Case) -> None:
    def gradients(dtype: torch.dtype, how: Callable[..., Tensor]) -> list[Tensor]:
        leaves = [t.to(dtype).requires_grad_() for t in inputs(case) if t is not None]
        x, first, second, *bias = leaves
        y = how(x, first, second, bias[0] if bias else None, case["out"])
        return list(torch.autograd.grad((y * data(*y.shape, seed=9).to(y)).sum(), leaves))

    found = gradients(torch.float32, kernels.monarch)
    plain = gradients(torch.float32, reference.monarch)
    truth = gradients(torch.float64, reference.monarch)
    hidden, rows = case["k"] * case["rank"], case["rows"]
    added = (hidden * case["q"], rows * case["q"], rows * case["p"], rows)  # up, in a number of each gradient
    for mine, theirs, true, count in zip(found, plain, truth, added, strict=False):
        assert_in_budget(mine, theirs, true, terms=max(float(true.norm()), (count * true.numel()) ** 0.5))


def test_the_operators_pass_the_checks_of_torch() -> None:
    *leaves, out = small()
    torch.library.opcheck(kernels.monarch, (*leaves, out))
    grad, tables = data(7, out), [t.detach() for t in leaves[:3]]
    torch.library.opcheck(kernels.monarch_backward, (grad, *tables))


def test_the_gradient_has_a_gradient() -> None:
    *leaves, out = small()
    weights = data(7, out, seed=9)

    def curvature(how: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        slopes = torch.autograd.grad((how(*leaves, out).square() * weights).sum(), leaves[:3], create_graph=True)
        return torch.autograd.grad(sum((slope.square().sum() for slope in slopes), torch.zeros(())), leaves[:3])

    torch.testing.assert_close(curvature(kernels.monarch), curvature(reference.monarch), rtol=1e-4, atol=1e-4)


def small() -> list[Any]:
    """Leaves x, first, second and bias, and the number of outputs."""
    case = {"k": 5, "p": 3, "q": 4, "rank": 2, "rows": 7, "gap": 0, "offset": 0, "columns": 13, "out": 18, "bias": True}
    return [*(t.requires_grad_() for t in inputs(case | {"seed": 1}) if t is not None), 18]


def test_gradients_are_the_same_bytes_for_the_same_threads() -> None:
    x, first, second, grad = data(900, 60), data(6, 12, 10, seed=1), data(6, 11, 12, seed=2), data(900, 66, seed=3)
    assert_same_bytes_for_same_threads(lambda: kernels.run_monarch_backward(grad, x, first, second))


def test_a_layer_takes_the_native_path_with_gradients_too(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = Monarch(13, 20), data(3, 13)

    def results() -> list[Tensor]:
        y = layer(x)
        return [y, *torch.autograd.grad(y.square().sum(), layer.parameters())]

    with monkeypatch.context() as without:
        without.setattr(native, "is_loaded", lambda: False)
        plain = results()
    monkeypatch.setattr(reference, "monarch", None)
    torch.testing.assert_close(results(), plain)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), plain[0])
    with torch.no_grad():
        torch.testing.assert_close(layer(x), plain[0])


def test_an_exported_layer_holds_plain_operators_only() -> None:
    with torch.no_grad():
        program = torch.export.export(Monarch(13, 20), (data(3, 13),))
    assert "compressor" not in str(program.graph)
