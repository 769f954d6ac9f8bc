"""Tables that do not fit a kernel are refused: the library reads and writes as many numbers as it is told."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from native_oracle import data
from torch import Tensor, nn

from compressor.layers import StructuredLayer, method
from compressor_kernels import monarch, native, sparse

pytestmark = pytest.mark.skipif(not native.is_loaded(), reason="the native kernels were not built")

LAYERS = {"acdc": {"depth": 3}, "fastfood": {}, "monarch": {}, "pruned": {}}
TABLES = [
    *(("acdc", name) for name in ("a", "beta")),
    *(("fastfood", name) for name in ("B", "G", "S", "bias")),
    *(("monarch", name) for name in ("second", "bias")),
    *(("pruned", name) for name in ("values", "bias")),
]


CASES = [
    (*table, trains)
    for table in TABLES
    for trains in (False, True)
    if not (trains and table in [("fastfood", "S"), ("fastfood", "bias")])  # torch adds the bias where it trains
]


def layer_of(name: str) -> StructuredLayer:
    return method(name).layer(64, 64, bias=True, **LAYERS[name])


def cut(table: Tensor) -> Tensor:
    return table[..., : table.shape[-1] // 2]


def alone(table: Tensor) -> Tensor:
    return table.reshape(-1)[:1].reshape([1] * table.dim())


@pytest.mark.parametrize("change", [cut, alone])
@pytest.mark.parametrize(("name", "table", "trains"), CASES)
def test_a_table_of_another_shape(name: str, table: str, change: Callable[[Tensor], Tensor], trains: bool) -> None:
    layer = layer_of(name)
    setattr(layer, table, nn.Parameter(change(getattr(layer, table).detach())))
    with torch.set_grad_enabled(trains), pytest.raises(ValueError, match=r"not \(|need as many"):
        layer(data(8, 64))


@pytest.mark.parametrize("trains", [False, True])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int16, torch.uint8])
@pytest.mark.parametrize("name", ["acdc", "fastfood"])
def test_a_permutation_of_another_type(name: str, dtype: torch.dtype, trains: bool) -> None:
    layer = layer_of(name)
    layer.permutation = layer.permutation.to(dtype)
    with torch.set_grad_enabled(trains), pytest.raises(ValueError, match="of uint16 or int32, not torch"):
        layer(data(8, 64))


@pytest.mark.parametrize("trains", [False, True])
@pytest.mark.parametrize("place", [-1, 64, 2**30])
@pytest.mark.parametrize("name", ["acdc", "fastfood"])
def test_a_permutation_that_leads_outside(name: str, place: int, trains: bool) -> None:
    layer = layer_of(name)
    layer.permutation = layer.permutation.to(torch.int32)
    layer.permutation[0, 5] = place
    with torch.set_grad_enabled(trains), pytest.raises(ValueError, match="of 64 numbers names places from"):
        layer(data(8, 64))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_operators_refuse_numbers_of_another_kind(dtype: torch.dtype) -> None:
    x = data(8, 64).to(dtype)
    first, second = (getattr(layer_of("monarch"), name).detach().to(dtype) for name in ("first", "second"))
    with pytest.raises(TypeError, match="takes float32 on the CPU"):
        monarch.monarch(x, first, second, None, 64)
    with pytest.raises(TypeError, match="takes float32 on the CPU"):
        monarch.monarch_backward(x, x, first, second)
    places = torch.zeros(64, dtype=torch.int32), torch.ones(64, dtype=torch.int32)
    with pytest.raises(TypeError, match="takes float32 on the CPU"):
        sparse.csr(x, torch.ones(64, dtype=dtype), *places, None, 64, 1)
    with pytest.raises(TypeError, match="takes float32 on the CPU"):
        sparse.csr_backward(x, x, torch.ones(64, dtype=dtype), *places, 1)
