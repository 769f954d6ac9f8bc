"""The layers between Fourier transforms in native code against the plain ones in float64."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from native_oracle import assert_in_budget, data, random_cases, rows_in
from torch import Tensor

from compressor.layers import build
from compressor_kernels import dispatch, fourier, native, reference

pytestmark = pytest.mark.skipif(native.library() is None, reason="the native kernels are not built")

KINDS = ("circulant", "learned circulant", "toeplitz", "afdf")
EVEN = [2, 4, 6, 10, 12, 14, 16, 24, 30, 56, 64, 70, 96, 128, 250, 512, 800, 1024, 3000, 4096]
ODD = [1, 3, 5, 7, 15, 63, 105, 225]  # for complex transforms
ACROSS = [128, 256, 288, 320, 448, 480, 512, 640, 672, 800, 1024, 1120, 2304, 4096, 9216]  # few rows: across the lanes


def native_of(kind: str) -> Callable[..., Tensor]:
    return partial(fourier.run, kind.split()[-1])


def plain_of(kind: str) -> Callable[..., Tensor]:
    found: Callable[..., Tensor] = getattr(reference, kind.split()[-1])
    return found


def tables(kind: str, n: int, members: int, columns: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """As large as they are in layers: each map keeps the size of what it is given."""
    if kind == "afdf":
        a, d = (1 + data(members, 2, n, seed=seed + i) / 10 for i in (1, 2))
        return a, d
    first = data(members, n, seed=seed + 1) / (members * n) ** 0.5
    if kind == "circulant":
        return first, torch.where(data(members, columns, seed=seed + 2) > 0, 1, -1).to(torch.int8)
    if kind == "learned circulant":
        return first, data(members, columns, seed=seed + 2)
    return first, data(members, n, seed=seed + 2) / n**0.5


@st.composite
def cases(draw: st.DrawFn, kind: str, *, across: bool = False) -> dict[str, Any]:
    n = draw(st.sampled_from(ACROSS if across else [*EVEN, *ODD] if kind == "afdf" else EVEN))
    return {
        "kind": kind, "n": n, "members": draw(st.sampled_from([1, 2, 3, 9, 17])),
        "columns": draw(st.integers(1, n)), "out": draw(st.integers(1, n)),
        "rows": draw(st.integers(1, 4 if across else 40)),
        "gap": draw(st.integers(0, 5)), "offset": draw(st.integers(0, 17)), "seed": draw(st.integers(0, 99)),
    }  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@given(given_=st.data())
@random_cases
def test_random_layers_stay_in_the_error_budget(kind: str, given_: st.DataObject) -> None:
    check_budget(given_.draw(cases(kind)))


@pytest.mark.parametrize("kind", KINDS)
@given(given_=st.data())
@random_cases
def test_random_rows_across_the_lanes_stay_in_the_error_budget(kind: str, given_: st.DataObject) -> None:
    check_budget(given_.draw(cases(kind, across=True)))


def check_budget(case: dict[str, Any]) -> None:
    kind, n = case["kind"], case["n"]
    x = rows_in(case["rows"], case["columns"], case["gap"], case["offset"], case["seed"])
    made = tables(kind, n, case["members"], case["columns"], case["seed"])
    bias = data(case["out"], seed=case["seed"] + 3)
    truth = plain_of(kind)(
        x.double(), *(t if t.dtype == torch.int8 else t.double() for t in made), bias.double(), case["out"]
    )
    plain, found = plain_of(kind)(x, *made, bias, case["out"]), native_of(kind)(x, *made, bias, case["out"])
    # A result of few numbers may be small by chance. A complex diagonal of the tables makes a row √2 times as long.
    size = float(x.norm()) * 2 ** (case["members"] if kind == "afdf" else 0)
    assert_in_budget(found, plain, truth, terms=max(size, float(truth.norm())))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "rows", "bad"), [(30, 19, (3, 17)), (64, 19, (3, 17)), (1024, 4, (0, 2))])
def test_a_row_is_alone_with_what_is_no_number(kind: str, n: int, rows: int, bad: tuple[int, int]) -> None:
    # M odd, and even; on lanes, and across them
    x = data(rows, n)
    made = tables(kind, n, 2, n)
    clean = native_of(kind)(x, *made, None, n)
    spoilt = x.clone()
    spoilt[bad[0], 5], spoilt[bad[1], 0] = torch.inf, torch.nan
    found = native_of(kind)(spoilt, *made, None, n)
    assert not found[list(bad)].isfinite().all(-1).any()
    kept = [row for row in range(rows) if row not in bad]
    torch.testing.assert_close(found[kept], clean[kept], rtol=0, atol=0)


def test_a_few_rows_go_across_the_lanes() -> None:
    for op in ("circulant", "toeplitz", "afdf"):
        for rows, way in ((1, "a row across lanes"), (64, "rows on lanes")):
            assert dispatch.path(torch.zeros(rows, 4096), op).endswith(way)


@pytest.mark.parametrize("kind", KINDS)
def test_threads_and_leading_axes_change_nothing(kind: str) -> None:
    x, made = data(3, 11, 90), tables(kind, 96, 3, 90)
    was, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(native_of(kind)(x, *made, None, 71))
    finally:
        torch.set_num_threads(was)
    assert torch.equal(*found)
    assert torch.equal(found[0].reshape(33, 71), native_of(kind)(x.reshape(33, 90), *made, None, 71))


@pytest.mark.parametrize(
    ("method", "settings"),
    [("circulant", {}), ("circulant", {"signs": "learned", "terms": 2}), ("toeplitz", {}), ("afdf", {})],
    ids=str,
)
def test_a_layer_goes_natively_where_nothing_is_recorded(
    method: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, x = build(method, 300, 260, bias=True, config=settings), data(5, 300)
    recorded = layer(x)
    assert recorded.requires_grad
    with torch.no_grad():
        assert dispatch.path(x, method, 300).startswith(native.describe("fwht", 64, 1).split()[0])
        assert layer(x[:0]).shape == (0, 260)
        monkeypatch.setattr(reference, method, None)
        torch.testing.assert_close(layer(x), recorded)
        assert torch.equal(layer(x), layer(x.clone()))  # the second time by the quick path
        with pytest.raises(TypeError):
            layer(x.double())  # to plain torch, which is not there


def test_lengths_without_a_transform_go_to_plain_torch() -> None:
    x = data(4, 22)
    assert not fourier.has_length("toeplitz", 22)
    assert dispatch.path(x, "toeplitz") == "reference (cpu)"
    assert not fourier.has_length("afdf", 22)
    assert fourier.has_length("afdf", 105)
    c, s = tables("circulant", 22, 2, 22)
    assert torch.equal(dispatch.circulant(x, c, s, None, 22), reference.circulant(x, c, s, None, 22))
    with pytest.raises(RuntimeError, match="not supported by this build"):
        fourier.run("circulant", x, c, s, None, 22)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x": data(2, 65)}, "out of range"),
        ({"out": 65}, "out of range"),
        ({"second": data(2, 63)}, "is \\(2, 63\\)"),
        ({"second": data(2, 64).double()}, "float64"),
        ({"bias": data(63)}, "is \\(63,\\)"),
    ],
    ids=["columns", "outputs", "shape", "type", "bias"],
)
@pytest.mark.parametrize("kind", ["learned circulant", "toeplitz"])
def test_what_does_not_fit_is_refused(kind: str, change: dict[str, Any], words: str) -> None:
    columns = change.get("x", data(2, 64)).shape[1] if kind == "learned circulant" else 64
    given = {"x": data(2, 64), "first": data(2, 64), "second": data(2, columns), "bias": None, "out": 64} | change
    with pytest.raises((RuntimeError, ValueError, TypeError), match=words):
        native_of(kind)(*(given[name] for name in ("x", "first", "second", "bias", "out")))
