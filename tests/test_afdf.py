"""What is particular to AFDF: its transform, its counts, its ONNX body."""

from __future__ import annotations

import cmath
import math

import numpy as np
import pytest
import torch
from test_onnx_bodies import check
from torch import Tensor, nn

from compressor.layers import Metric, method
from compressor.layers.onnx_fourier import afdf_functions
from compressor_kernels import reference

Layer = method("afdf").layer


def data(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def fourier_matrix(n: int) -> Tensor:
    rows = [[cmath.exp(-2j * math.pi * m * k / n) / math.sqrt(n) for k in range(n)] for m in range(n)]
    return torch.tensor(rows, dtype=torch.complex128)


@pytest.mark.parametrize("n", [1, 2, 7, 64, 65, 66, 97, 128])
def test_fourier_transform_is_its_matrix_and_its_inverse_the_way_back(n: int) -> None:
    re, im = data(2, 3, n)
    wanted = torch.complex(re, im) @ fourier_matrix(n)
    torch.testing.assert_close(torch.complex(*reference.fourier(re, im)), wanted)
    torch.testing.assert_close(reference.inverse_fourier(*reference.fourier(re, im)), (re, im))
    assert reference.fourier(re[:0], im[:0])[1].shape == (0, n)
    half = reference.fourier(re.half(), im.half())[1]
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.double(), wanted.imag, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(("depth", "size"), [(1, 10), (3, 10), (2, 66)])
def test_afdf_is_the_real_part_of_its_formula(depth: int, size: int) -> None:
    layer = Layer(9, 4, depth=depth, size=size, sigma=0.5, bias=False).double()
    f, x = fourier_matrix(size), data(5, 9)
    h = nn.functional.pad(x, (0, size - 9)).to(torch.complex128)
    for a, d in zip(layer.a, layer.d, strict=True):
        h = ((h * torch.complex(*a)) @ f * torch.complex(*d)) @ f.conj().T
    torch.testing.assert_close(layer(x), h.real[:, :4])


def test_afdf_starts_near_the_identity_and_finds_a_map_of_its_own_kind() -> None:
    own = Layer(12, 12, depth=1, sigma=0.2, seed=3, bias=False).double()
    exact = Layer(12, 12, sigma=0.0, bias=False).double()
    torch.testing.assert_close(exact(data(4, 12)), data(4, 12))
    with torch.no_grad():
        weight = own.dense()[0]
        start = Layer(12, 12, depth=1, bias=False).double().dense()[0]
        again = Layer.from_dense(weight, None, method("afdf").config({"depth": 1}), Metric.identity(12)).dense()[0]
    plain = Metric.identity(12)
    assert plain.relative_error(weight, again) < 1e-3 < plain.relative_error(weight, start)


def test_afdf_stores_4nk_and_counts_two_complex_transforms_a_member() -> None:
    with torch.device("meta"):
        layer = Layer(1024, 1000, depth=3)
    assert layer.params() == 4 * 1024 * 3 + 1000
    assert layer.macs() == 3 * (5 * 1024 * 10 + 8 * 1024)


CASES = [  # in, out, N, K, rank
    (1, 1, 1, 1, 2),
    (7, 10, 10, 2, 3),
    (48, 33, 48, 1, 2),
    (90, 97, 97, 2, 2),
    (315, 20, 315, 3, 3),
    (800, 500, 800, 2, 2),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_afdf_body_is_the_formula_on_stock_runtimes(case: tuple[int, int, int, int, int]) -> None:
    in_features, out, n, depth, rank = case
    rng = np.random.default_rng(0)
    a, d = (rng.standard_normal((depth, 2, n)).astype(np.float32) for _ in range(2))
    f = fourier_matrix(n).numpy()

    def formula(x: np.ndarray) -> np.ndarray:
        h = np.zeros((*x.shape[:-1], n), dtype=complex)
        h[..., :in_features] = x
        for k in range(depth):
            h = ((h * (a[k, 0] + 1j * a[k, 1])) @ f * (d[k, 0] + 1j * d[k, 1])) @ f.conj().T
        return h.real[..., :out]

    [function] = afdf_functions(in_features, out, size=n, depth=depth)
    check(function, {"a": a, "d": d}, formula, in_features, out, rank)
