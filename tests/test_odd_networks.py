"""Networks out of the ordinary: compressed as far as it goes, with reasons, or refused in one line before any work."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import pytest
import torch
from torch import Tensor, nn

import compressor
from compressor import CompressorError
from compressor.case import open_case
from compressor.inspection import inspect
from compressor.pipeline import make_recipe
from compressor.sites import find_sites

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
        return y.float()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_a_layer_of_another_type_is_kept_and_the_others_are_replaced(dtype: torch.dtype) -> None:
    assert kept(Mixed(dtype)) == {"b": f"its weights are {str(dtype)[6:]}, and only float32 ones are replaced"}


def test_a_network_with_a_float64_layer_is_compressed_around_it(tmp_path: Path) -> None:
    result = compressed(Mixed(torch.float64), output=tmp_path / "out")
    assert [row.method for row in result.report.layers] == ["svd", None]
    assert result.model.get_submodule("b").weight.dtype == torch.float64
    with torch.no_grad():
        torch.testing.assert_close(compressor.load(tmp_path / "out")(X), result.model(X))


@pytest.mark.filterwarnings("ignore:Complex modules")
def test_a_network_with_complex_weights_is_refused() -> None:
    with pytest.raises(CompressorError, match="Mixed: has complex weights"):
        compressed(Mixed(torch.complex64))


# --- what a forward pass does -------------------------------------------------------------------


class Reading(Two):
    """It asks for the type of one weight, as T5 does, and adds another's bias."""

    def __init__(self) -> None:
        super().__init__()
        self.c = nn.Linear(24, 24)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.a(x.to(self.a.weight.dtype)))
        y: Tensor = self.c(torch.relu(self.b(h))) + self.c.bias
        return y


def test_a_layer_whose_weight_or_bias_the_network_reads_is_kept(tmp_path: Path) -> None:
    model = Reading()
    why = "the network reads its weight or bias itself, which no other layer has"
    assert kept(model) == {"a": why, "c": why}
    assert {type(module) for module in (model.a, model.b, model.c)} == {nn.Linear}
    result = compressed(model, output=tmp_path / "out")
    assert [row.kept_because for row in result.report.layers] == [why, None, why]
    with torch.no_grad():
        torch.testing.assert_close(compressor.load(tmp_path / "out")(X), result.model(X))


@pytest.mark.parametrize("batch_first", [True, False])
def test_the_maps_of_a_transformer_layer_are_not_taken_for_read(batch_first: bool) -> None:
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(24, 2, 48, batch_first=batch_first), 1)
    assert kept(model, X[:, None]) == {}


def test_layers_are_dense_again_where_the_example_does_not_run() -> None:
    model = Two()
    with pytest.raises(RuntimeError):
        find_sites(model, (X[:, :3],))
    assert type(model.a) is type(model.b) is nn.Linear


class Classes(Two):
    """It gives the class and not its score."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).argmax(1)


def test_a_network_that_gives_whole_numbers_is_refused_before_it_is_fitted_to_be_trained() -> None:
    with pytest.raises(CompressorError, match="gives int64, by which nothing can be trained"):
        compressed(Classes(), progress=_no_work)


def test_a_network_that_gives_whole_numbers_is_compressed_without_training() -> None:
    report = compressed(Classes(), epochs=0).report
    assert [row.method for row in report.layers] == ["svd", "svd"]


def _no_work(title: str, total: int | None = None) -> NoReturn:
    raise AssertionError(f"{title} was begun")


# --- sizes --------------------------------------------------------------------------------------


class Empty(Two):
    """A map to no features, and one from none."""

    def __init__(self) -> None:
        super().__init__()
        self.to_none, self.from_none = nn.Linear(24, 0), nn.Linear(0, 24)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.from_none(self.to_none(x)) + x)


@pytest.mark.filterwarnings("ignore:Initializing zero-element")
def test_maps_without_numbers_are_no_dense_layers() -> None:
    case = open_case(make_recipe(method="svd"), model=Empty(), data=X)
    assert list(case.sites) == ["a", "b"]
    assert [one.name for one in inspect(make_recipe(), model=Empty(), data=X).dense_maps] == ["a", "b"]


class Lazy(Two):
    """A map whose inputs are counted when it is first called."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.LazyLinear(37)


def test_a_lazy_layer_is_refused_until_it_was_called() -> None:
    model = Lazy()
    with pytest.raises(CompressorError, match=r"Lazy: 'a\.weight' has no shape yet"):
        compressed(model)
    model(X)
    assert kept(model) == {}
