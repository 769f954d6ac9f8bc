"""ONNX files of models with awkward names or another precision than float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from compressor.layers import build
from compressor_converters.onnx_file import save_onnx


def run(path: Path, **inputs: Tensor) -> list[Tensor]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return [torch.from_numpy(y) for y in session.run(None, {name: x.numpy() for name, x in inputs.items()})]


class Named(nn.Module):
    """Has parameters called as inputs and outputs may be, and a layer of ours."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a = nn.Parameter(torch.randn(7))
        self.output = nn.Parameter(torch.randn(7))
        self.layer = build("acdc", 7, 5, bias=True, config={})

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x * self.a + self.output)


@pytest.mark.parametrize("name", ["x", "a", "layer.a", "output", "output_of_model"])
def test_an_input_is_never_taken_for_a_parameter_of_the_same_name(name: str, tmp_path: Path) -> None:
    model, x = Named().eval(), torch.randn(3, 7)
    assert save_onnx(model, (x[:2],), tmp_path / "model.onnx", input_names=[name]) is None
    with torch.no_grad():
        [found] = run(tmp_path / "model.onnx", **{name: x})
        torch.testing.assert_close(found, model(x))


class Swapped(nn.Module):
    """Two inputs; one comes out twice."""

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return y, x + 1, y


def test_inputs_take_the_names_asked_for_in_their_order(tmp_path: Path) -> None:
    x, y = torch.randn(3, 7), torch.randn(3, 7)
    save_onnx(Swapped(), (x[:2], y[:2]), tmp_path / "model.onnx", input_names=["y", "x"])
    for found, expected in zip(run(tmp_path / "model.onnx", y=x, x=y), (y, x + 1, y), strict=True):
        torch.testing.assert_close(found, expected)


PRECISIONS: list[tuple[str, dict[str, Any]]] = [
    ("acdc", {"size": 300, "depth": 3, "relu": True}),
    ("acdc", {"size": 63}),
    ("acdc", {"basis": "dct2d"}),
    ("fastfood", {"terms": 2}),
    ("fastfood", {"features": "rbf", "width": 33}),
]


@pytest.mark.parametrize(("dtype", "budget"), [(torch.float64, 1e-6), (torch.float16, 1e-2)], ids=str)
@pytest.mark.parametrize(("method", "config"), PRECISIONS, ids=str)
def test_a_model_of_another_precision_is_written_in_it(
    method: str, config: dict[str, Any], dtype: torch.dtype, budget: float, tmp_path: Path
) -> None:
    """The tables of a body are computed in float32, whatever the model's type: the budget in float64 is theirs."""
    torch.manual_seed(0)
    model = nn.Sequential(build(method, 63, 33, bias=True, config=config), nn.ReLU(), nn.Linear(33, 3)).eval().to(dtype)
    x = torch.randn(5, 63, dtype=dtype)
    save_onnx(model, (x[:2],), tmp_path / "model.onnx", input_names=["x"])
    with torch.no_grad():
        [found], expected = run(tmp_path / "model.onnx", x=x), model.double()(x.double())
    assert found.dtype == dtype
    assert (found.double() - expected).abs().max() <= budget * expected.abs().max()
