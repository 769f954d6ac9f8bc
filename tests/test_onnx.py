"""Whole models written as ONNX: stock onnxruntime gives what torch gives, and the file keeps its promises."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from compressor.errors import CompressorError
from compressor.layers import StructuredLayer, build, methods
from compressor_converters.onnx_file import _name_sizes, save_onnx

ROOT = Path(__file__).resolve().parent.parent

LAYERS: dict[str, tuple[str, dict[str, Any]]] = {
    ", ".join([name, *(f"{key}={value}" for key, value in example.items())]): (name, example)
    for name, entry in methods().items()
    if name == entry.layer.method
    for example in entry.layer.examples()
}


def lenet(name: str, *, bias: bool = True) -> nn.Module:
    """Convolution, pooling, one structured layer 48 -> 33 of a method, a dense read-out."""
    torch.manual_seed(0)
    method, config = LAYERS[name]
    layer = build(method, 48, 33, bias=bias, config=config)
    with torch.no_grad():
        for parameter_name, parameter in layer.named_parameters():
            if "beta" in parameter_name or parameter_name.endswith("bias"):
                parameter.normal_()
    return nn.Sequential(
        nn.Conv2d(1, 3, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), layer, nn.ReLU(), nn.Linear(33, 10)
    ).eval()


def image(rows: int) -> Tensor:
    return torch.randn(rows, 1, 12, 12, generator=torch.Generator().manual_seed(rows))


def run(path: Path, **inputs: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {name: x.numpy() for name, x in inputs.items()})[0])


FIRST = {next(name for name, (other, _) in LAYERS.items() if other == method) for method, _ in LAYERS.values()}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in FIRST else [pytest.mark.slow]) for name in LAYERS]
)
def test_stock_onnxruntime_gives_what_torch_gives_at_any_batch(name: str, tmp_path: Path) -> None:
    model, path = lenet(name), tmp_path / "model.onnx"
    assert save_onnx(model, (image(1),), path, input_names=["image"]) is None
    for rows in (1, 3, 32):
        with torch.no_grad():
            expected = model(image(rows))
        torch.testing.assert_close(run(path, image=image(rows)), expected)

    written = onnx.load(path)
    onnx.checker.check_model(written, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(written, check_type=True, strict_mode=True, data_prop=True)
    assert inferred.graph.output[0].name == "output"
    assert inferred.graph.output[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert {"DFT", "STFT"}.isdisjoint(
        node.op_type for body in (written.graph, *written.functions) for node in body.node
    )
    ours = [node for node in written.graph.node if node.domain == "compressor"]
    (layer,) = (module for module in model.modules() if isinstance(module, StructuredLayer))
    assert len(ours) == bool(layer.onnx_functions())
    compact = 4 * sum(parameter.numel() for parameter in model.parameters())
    assert path.stat().st_size <= 1.2 * compact + 150_000


def test_free_sizes_have_our_names_where_the_exporter_left_its_symbols() -> None:
    batch, words = torch.export.Dim("batch", min=1), torch.export.Dim("words", min=1)
    values = [ir.Value(name=f"v{i}", shape=ir.Shape(sizes)) for i, sizes in enumerate([["s0", "s1", 7], ["s0"]])]
    out = ir.Value(name="y", shape=ir.Shape(["s0", "2*s1 + s10", 3]))
    graph = ir.Graph(values, [out], nodes=[])
    _name_sizes(graph, ({0: batch, 1: words}, {0: batch}))
    assert [str(size) for size in out.shape or ()] == ["batch", "2*words + s10", "3"]
    assert [[str(size) for size in value.shape or ()] for value in values] == [["batch", "words", "7"], ["batch"]]


def test_two_exports_give_the_same_bytes_and_nothing_of_the_machine(tmp_path: Path) -> None:
    model = lenet("acdc")
    for name in ("first.onnx", "second.onnx"):
        save_onnx(model, (image(2),), tmp_path / name)
    first = (tmp_path / "first.onnx").read_bytes()
    assert first == (tmp_path / "second.onnx").read_bytes()
    for told in (str(ROOT), "site-packages", "stack_trace", torch.__version__):
        assert told.encode() not in first


def test_layers_of_one_shape_share_one_function_and_sequences_are_taken(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        build("acdc", 21, 21, bias=False, config={}), nn.ReLU(), build("acdc", 21, 21, bias=False, config={"seed": 5})
    ).eval()
    path = tmp_path / "model.onnx"
    x = torch.randn(5, 3, 21)
    save_onnx(model, (x[:2],), path, input_names=["x"])
    assert len(onnx.load(path).functions) == 1
    with torch.no_grad():
        torch.testing.assert_close(run(path, x=x), model(x))


class FixedRows(nn.Module):
    """Takes one row, whatever is asked."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(1, 7) * 2


class Unwritable(nn.Module):
    """Uses an operation that ONNX has no word for."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.eigvalsh(x.T @ x) + x


def test_a_model_of_fixed_batch_is_written_with_a_note(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    note = save_onnx(FixedRows(), (torch.ones(1, 7),), path, input_names=["x"])
    assert note is not None
    assert "batches of 1 only" in note
    torch.testing.assert_close(run(path, x=torch.ones(1, 7)), torch.full((1, 7), 2.0))


def test_a_model_that_onnx_cannot_hold_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    with pytest.raises(CompressorError, match=r"cannot be written as ONNX: .*eig") as caught:
        save_onnx(Unwritable(), (torch.ones(2, 7),), path)
    assert "\n" not in str(caught.value)
    assert not path.exists()


def test_training_mode_is_given_back_after_the_export(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(5, 3), nn.Dropout(0.5), nn.BatchNorm1d(3).eval())
    save_onnx(model, (torch.ones(2, 5),), tmp_path / "model.onnx")
    assert [module.training for module in model.modules()] == [True, True, True, False]


def test_an_exported_program_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    program = torch.export.export(lenet("svd"), (image(2),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    module = program.module()
    assert save_onnx(module, (image(2),), path, input_names=["image"]) is None
    torch.testing.assert_close(run(path, image=image(3)), module(image(3)).detach())


class TokensAndMask(nn.Module):
    """Two inputs, one of them whole numbers, and two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = build("acdc", 9, 9, bias=True, config={})

    def forward(self, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        h = self.layer(nn.functional.one_hot(ids, 9).float())  # (batch, step, 9)
        return {"hidden": h * mask.unsqueeze(-1), "length": mask.sum(-1)}


def test_several_inputs_keep_their_names_and_several_outputs_are_numbered(tmp_path: Path) -> None:
    model, path = TokensAndMask().eval(), tmp_path / "model.onnx"
    ids, mask = torch.tensor([[1, 2, 8], [0, 4, 4], [5, 6, 7]]), torch.ones(3, 3)
    save_onnx(model, (ids[:2], mask[:2]), path, input_names=["ids", "mask"])
    assert [value.name for value in onnx.load(path).graph.output] == ["output_0", "output_1"]
    with torch.no_grad():
        torch.testing.assert_close(run(path, ids=ids, mask=mask), model(ids, mask)["hidden"])
