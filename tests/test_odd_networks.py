"""Networks out of the ordinary: compressed as far as it goes, with reasons, or refused in one line before any work."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import compressor
from compressor import CompressorError
from compressor.case import open_case
from compressor.pipeline import make_recipe

X = torch.randn(40, 24, generator=torch.Generator().manual_seed(0))


class Two(nn.Module):
    """Two dense maps, called plainly."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(24, 37), nn.Linear(37, 24)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.b(torch.relu(self.a(x)))
        return y


def compressed(model: nn.Module, **options: object) -> compressor.Result:
    return compressor.compress(model, "svd", settings={"rank": 3}, **{"epochs": 1, "data": X, **options})  # type: ignore[arg-type]


def kept(model: nn.Module, x: Tensor = X) -> dict[str, str]:
    """The layers that the plan for ``model`` leaves dense, with the reasons."""
    entries = open_case(make_recipe(method="svd"), model=model, data=x).plan("svd", {"rank": 3}).entries
    return {entry.name: entry.kept_because for entry in entries if entry.kept_because is not None}


# --- types of weights ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("data", [True, False])
def test_a_network_without_float32_weights_is_refused_by_their_type(dtype: torch.dtype, data: bool) -> None:
    given = {"data": X.to(dtype)} if data else {"data": None, "input_shape": {"x": (1, 24)}}
    with pytest.raises(CompressorError, match=rf"Two: its weights are {str(dtype)[6:]}, .*\.float\(\)"):
        compressed(Two().to(dtype), **given)


@pytest.mark.slow
def test_an_exported_program_in_float64_is_refused_too(tmp_path: Path) -> None:
    batch = {"x": {0: torch.export.Dim("batch")}}
    torch.export.save(torch.export.export(Two().double(), (X.double(),), dynamic_shapes=batch), tmp_path / "net.pt2")
    with pytest.raises(CompressorError, match=r"net\.pt2: its weights are float64"):
        compressor.compress(tmp_path / "net.pt2", "svd")


class Mixed(Two):
    """The second map computes in a type of its own."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.b.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.b(torch.relu(self.a(x)).to(self.dtype))
        return y.real.float()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.complex64])
def test_a_layer_of_another_type_is_kept_and_the_others_are_replaced(dtype: torch.dtype) -> None:
    assert kept(Mixed(dtype)) == {"b": f"its weights are {str(dtype)[6:]}, and only float32 ones are replaced"}


def test_a_network_with_a_float64_layer_is_compressed_around_it(tmp_path: Path) -> None:
    result = compressed(Mixed(torch.float64), output=tmp_path / "out")
    assert [row.method for row in result.report.layers] == ["svd", None]
    assert result.model.get_submodule("b").weight.dtype == torch.float64
    with torch.no_grad():
        torch.testing.assert_close(compressor.load(tmp_path / "out")(X), result.model(X))
