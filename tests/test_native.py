"""The native kernels against the plain transforms in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from compressor.layers import seeded
from compressor_kernels import dispatch, native, reference

pytestmark = pytest.mark.skipif(native.library() is None, reason="the native kernels are not built")

SIZES = [1, 2, 3, 4, 6, 8, 10, 12, 14, 16, 24, 30, 32, 48, 56, 63, 64, 71, 96, 137, 256, 800, 1024, 2048, 3000, 4096, 4608]


def data(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def assert_in_budget(found: Tensor, plain: Tensor, truth: Tensor) -> None:
    """``found`` errs at most twice as much as ``plain`` torch in the same dtype, plus one rounding of the result."""
    budget = 2 * (plain.double() - truth).norm() + 1e-7 * truth.norm()
    assert (found.double() - truth).norm() <= budget


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("inverse", [False, True])
def test_native_cosine_transforms_are_the_formula(n: int, inverse: bool) -> None:
    x = data(13, n)
    plain = reference.idct if inverse else reference.dct
    assert_in_budget(native.dct(x, inverse=inverse), plain(x), plain(x.double()))


@pytest.mark.parametrize("n", SIZES)
def test_a_native_cascade_is_the_formula(n: int) -> None:
    x, a, d, bias = data(13, n), 1 + data(3, n, seed=1) / 4, 1 + data(3, n, seed=2) / 4, data(3, n, seed=3)
    permutation = seeded.permutations(0, 10, 2, n)
    truth = reference.acdc(x.double(), a.double(), d.double(), bias.double(), permutation, n, True, False)
    plain = reference.acdc(x, a, d, bias, permutation, n, True, False)
    found = native.acdc(x, a, d, bias, permutation, out_features=n, relu=True, separable=False)
    assert_in_budget(found, plain, truth)
    torch.testing.assert_close(dispatch.acdc(x, a, d, bias, permutation, n, relu=True), found)
