"""Tensors that torch negates lazily: what lies in their memory has the other sign."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from native_oracle import data
from torch import Tensor

from compressor_kernels import dispatch, native, quick, reference

pytestmark = pytest.mark.skipif(not native.is_loaded(), reason="the native kernels were not built")

N = 16
PERMUTATION = torch.stack([torch.randperm(N, generator=torch.Generator().manual_seed(k)) for k in range(2)]).int()
ROW = PERMUTATION[:1]
COLUMNS, LENGTHS = torch.arange(N).int(), torch.ones(N).int()
COLUMN, LENGTH = COLUMNS[:1], LENGTHS[:1]


def cascade(of: Any, x: Tensor, a: Tensor, d: Tensor, bias: Tensor) -> Tensor:
    result: Tensor = of.acdc(x, a, d, bias, PERMUTATION, N, relu=True, separable=False)
    return result


def fastfood(of: Any, x: Tensor, B: Tensor, G: Tensor, S: Tensor) -> Tensor:
    result: Tensor = of.fastfood(x, B, ROW, G, S, scale=0.5, features="linear")
    return result


def fastfood_and_bias(of: Any, x: Tensor, B: Tensor, G: Tensor, S: Tensor, bias: Tensor) -> Tensor:
    if of is reference:
        return fastfood(of, x, B, G, S) + bias
    result: Tensor = of.fastfood(x, B, ROW, G, S, scale=0.5, bias=bias)
    return result


CALLS: dict[str, tuple[Callable[..., Tensor], list[tuple[int, ...]]]] = {
    "acdc": (cascade, [(5, N), (3, N), (3, N), (3, N)]),
    "dct": (lambda of, x: of.dct(x), [(5, N)]),
    "idct": (lambda of, x: of.idct(x), [(5, N)]),
    "fwht": (lambda of, x: of.fwht(x), [(5, N)]),
    "fastfood": (fastfood, [(5, N), (1, N), (1, N), (N,)]),
    "fastfood and bias": (fastfood_and_bias, [(5, N), (1, N), (1, N), (N,), (N,)]),
    "monarch": (lambda of, x, f, s, bias: of.monarch(x, f, s, bias, N), [(5, N), (4, 4, 4), (4, 4, 4), (N,)]),
    "csr": (lambda of, x, v, bias: of.csr(x, v, COLUMNS, LENGTHS, bias, N, 1), [(5, N), (N,), (N,)]),
    "circulant": (lambda of, x, c, s, bias: of.circulant(x, c, s, bias, N), [(5, N), (2, N), (2, N), (N,)]),
    "toeplitz": (lambda of, x, G, H, bias: of.toeplitz(x, G, H, bias, N), [(5, N), (2, N), (2, N), (N,)]),
    "afdf": (lambda of, x, a, d, bias: of.afdf(x, a, d, bias, N), [(5, N), (2, 2, N), (2, 2, N), (N,)]),
    "one number": (lambda of, x, v, bias: of.csr(x, v, COLUMN, LENGTH, bias, 1, 1), [(1, 4), (1,), (1,)]),
}
PLACES = [(name, place) for name, (_, shapes) in CALLS.items() for place in range(len(shapes))]


def in_order(tensor: Tensor) -> Tensor:
    return torch._neg_view(-tensor)


def part_of_complex(tensor: Tensor) -> Tensor:
    return torch.complex(tensor, -tensor).conj().imag


def tensors_of(name: str) -> list[Tensor]:
    return [data(*shape, seed=seed) for seed, shape in enumerate(CALLS[name][1])]


@pytest.mark.parametrize("negated", [in_order, part_of_complex])
@pytest.mark.parametrize(("name", "place"), PLACES)
def test_a_tensor_that_is_negated_lazily_counts_with_its_sign(
    name: str, place: int, negated: Callable[[Tensor], Tensor]
) -> None:
    run, tensors = CALLS[name][0], tensors_of(name)
    wanted = run(reference, *tensors)
    tensors[place] = negated(tensors[place])
    assert tensors[place].is_neg()
    with torch.no_grad():
        for _ in range(3):
            torch.testing.assert_close(run(dispatch, *tensors), wanted)


@pytest.mark.parametrize("way", ["extension", "python"])
@pytest.mark.parametrize(("name", "place"), PLACES)
def test_a_known_tensor_that_comes_to_be_negated_lazily(
    name: str, place: int, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way == "python":
        monkeypatch.setattr(quick, "call", quick.call_in_python)
        monkeypatch.setattr(quick, "_extension", None)
    elif quick._extension is None:
        pytest.skip("the extension module is not built")
    run, tensors = CALLS[name][0], tensors_of(name)
    with torch.no_grad():
        for _ in range(3):
            wanted = run(dispatch, *tensors)
        tensors[place].neg_()
        tensors[place].data = torch._neg_view(tensors[place])
        for _ in range(3):
            torch.testing.assert_close(run(dispatch, *tensors), wanted)


@pytest.mark.parametrize("negated", [in_order, part_of_complex])
@pytest.mark.parametrize("name", CALLS)
def test_gradients_of_and_by_what_is_negated_lazily(name: str, negated: Callable[[Tensor], Tensor]) -> None:
    run, tensors = CALLS[name][0], tensors_of(name)
    plain = [tensor.requires_grad_() for tensor in tensors]
    y = run(reference, *plain)
    grad = data(*y.shape, seed=9)
    wanted = torch.autograd.grad(y, plain, grad)
    for places in ([0], list(range(1, len(tensors))), []):
        lazy = [negated(t.detach()) if at in places else t.detach() for at, t in enumerate(tensors)]
        lazy = [tensor.requires_grad_() for tensor in lazy]
        found = torch.autograd.grad(run(dispatch, *lazy), lazy, grad if places else negated(grad))
        torch.testing.assert_close(found, wanted)
