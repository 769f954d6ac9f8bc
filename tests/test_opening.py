"""Opened modules compute what the originals do, are closed again when untouched, and come back from files."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import compressor
from compressor.errors import CompressorError
from compressor.layers import replace
from compressor.sites import find_sites
from compressor_converters import manifest, safetensors_file
from compressor_converters.onnx_file import save_onnx
from compressor_converters.opening import close_model, find_openable, open_model


class Conv1D(nn.Module):
    """As in ``transformers.pytorch_utils``: the weight is ``(in, out)``."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf = nf
        self.weight = nn.Parameter(torch.randn(nx, nf))
        self.bias = nn.Parameter(torch.randn(nf))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.flatten(0, -2), self.weight).unflatten(0, x.shape[:-1])


def opened(module: nn.Module, *targets: str) -> nn.Module:
    """A copy of ``module`` with all that can be opened in it opened."""
    model = nn.Sequential(copy.deepcopy(module))
    assert open_model(model, targets)
    return model[0]


CONVOLUTIONS: list[tuple[type[nn.Module], dict[str, Any], tuple[int, ...]]] = [
    (nn.Conv2d, {"kernel_size": 1}, (3, 5, 7)),
    (nn.Conv2d, {"kernel_size": 1, "bias": False, "stride": 2, "padding": 1}, (3, 5, 6)),
    (nn.Conv1d, {"kernel_size": 1, "stride": 3}, (3, 11)),
    (nn.Conv3d, {"kernel_size": 1}, (3, 2, 3, 5)),
    (nn.Conv2d, {"kernel_size": (3, 2), "stride": (2, 1), "padding": (0, 1), "dilation": (1, 2)}, (3, 7, 9)),
    (nn.Conv2d, {"kernel_size": (1, 5), "padding": "same", "bias": False}, (3, 4, 9)),
    (nn.Conv2d, {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"}, (3, 5, 4)),
    (nn.Conv2d, {"kernel_size": 3, "padding": (2, 1), "padding_mode": "circular"}, (3, 5, 4)),
    (nn.Conv1d, {"kernel_size": 5, "dilation": 2, "stride": 2, "padding": 4}, (3, 13)),
    (nn.Conv3d, {"kernel_size": (2, 1, 3), "stride": (1, 2, 1)}, (3, 3, 5, 4)),
]


@pytest.mark.parametrize(
    ("kind", "options", "shape"), CONVOLUTIONS, ids=lambda v: str(v) if isinstance(v, dict) else ""
)
def test_an_opened_convolution_computes_what_the_convolution_does(
    kind: type[nn.Module], options: dict[str, Any], shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    module = kind(3, 5, **options)
    ours = opened(module, "0")
    for x in (torch.randn(4, *shape), torch.randn(0, *shape), torch.randn(shape)):
        torch.testing.assert_close(ours(x), module(x))
    assert ours(torch.randn(2, *shape)).is_contiguous()
    double = torch.randn(2, *shape, dtype=torch.float64)
    torch.testing.assert_close(ours.double()(double), module.double()(double))


@pytest.mark.parametrize(
    ("kind", "options", "shape"), CONVOLUTIONS, ids=lambda v: str(v) if isinstance(v, dict) else ""
)
def test_a_map_of_low_rank_convolves_and_gives_what_it_gives_over_patches(
    kind: type[nn.Module], options: dict[str, Any], shape: tuple[int, ...], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    ours = opened(kind(3, 5, **options), "0")
    wide = ours.linear.in_features
    ours.linear = compressor.layers.SVD(wide, 5, bias=ours.linear.bias is not None, rank=2)
    for parameter in ours.parameters():
        nn.init.normal_(parameter)
    seen: list[Tensor] = []
    for x in (torch.randn(4, *shape), torch.randn(0, *shape), torch.randn(shape)):
        convolved = ours(x)
        with ours.linear.register_forward_hook(lambda _module, inputs, _y: seen.append(inputs[0])):
            torch.testing.assert_close(convolved, ours(x))
        assert seen.pop().shape[-1] == wide
    x = torch.randn(2, *shape)
    loss = (ours(x).cos()).sum()
    gradients = torch.autograd.grad(loss, [*ours.parameters()])
    with ours.linear.register_forward_hook(lambda *_: None):
        expected = torch.autograd.grad(ours(x).cos().sum(), [*ours.parameters()])
    torch.testing.assert_close(gradients, expected, rtol=1e-4, atol=1e-4)
    save_onnx(nn.Sequential(ours.eval()), (x,), tmp_path / "model.onnx", input_names=["x"])
    nodes = [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node]
    assert nodes.count("Conv") == 2
    assert "Transpose" not in nodes
    run = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"]).run
    torch.testing.assert_close(torch.from_numpy(run(None, {"x": x.numpy()})[0]), ours(x))


def test_a_transposed_map_is_known_by_its_name_and_layout() -> None:
    torch.manual_seed(0)
    module = Conv1D(5, 3)
    ours = opened(module)
    assert type(ours) is nn.Linear
    x = torch.randn(2, 7, 3)
    torch.testing.assert_close(ours(x), module(x))


def test_a_wide_convolution_is_opened_only_where_it_is_named_and_a_grouped_one_never() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 1), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 1, groups=2))
    assert find_openable(model) == {"0": "convolution"}
    assert find_openable(model, ["1"]) == find_openable(model, ["1.linear"]) == dict.fromkeys("01", "convolution")
    assert find_openable(model, ["2"]) == {"0": "convolution"}
    assert find_openable(model, ["1"], leave=["0"]) == {"1": "convolution"}


def test_what_has_hooks_or_computed_weights_is_not_opened() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 1), nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 1)))
    model[0].register_forward_hook(lambda *_: None)
    assert find_openable(model) == {}


def test_closing_puts_back_the_original_module_with_the_present_parameters() -> None:
    torch.manual_seed(0)
    original = nn.Sequential(nn.Conv2d(3, 5, 1), nn.Conv2d(5, 4, 3, padding=1), Conv1D(2, 6)).eval()
    model = copy.deepcopy(original)
    open_model(model, ["*"])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    replaced = compressor.layers.SVD(45, 4, rank=2)
    replace(model, "1.linear", replaced)
    x = torch.randn(2, 3, 5, 6)
    before = model(x)
    close_model(model, original)
    assert [type(module) for module in (model[0], model[2])] == [nn.Conv2d, Conv1D]
    assert model[1].linear is replaced
    torch.testing.assert_close(model(x), before)
    assert not model[0].training


def test_sites_of_a_convolution_are_called_once_for_every_position() -> None:
    model = nn.Sequential(nn.Conv2d(3, 5, 1), nn.Conv2d(5, 4, 3, stride=2))
    open_model(model, ["1"])
    first, second = find_sites(model, (torch.zeros(2, 3, 7, 9),))
    assert (first.name, first.in_features, first.rows, first.calls) == ("0.linear", 3, 63, 1)
    assert (second.name, second.in_features, second.rows, second.macs) == ("1.linear", 45, 12, 12 * 45 * 4)


class Net(nn.Module):
    """A convolution over patches, a pointwise one, a transposed map and a plain one."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.point = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 24, 1)
        self.hidden, self.out = Conv1D(20, 24), nn.Linear(20, 10)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.point(self.act(self.wide(x)))).mean((2, 3))
        y: Tensor = self.out(self.hidden(x))
        return y


def test_a_network_with_opened_convolutions_is_compressed_written_and_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compressor.candidate._TIMING_SECONDS", 0.01)
    torch.manual_seed(0)
    net, x = Net().eval(), torch.randn(40, 3, 5, 7)
    result = compressor.compress(
        net, "svd", data=x, target=["wide", "point.linear"], epochs=1, output=tmp_path / "out", time_limit=60
    )
    rows = {row.name: row for row in result.report.layers}
    assert rows["wide.linear"].macs_before == 35 * 27 * 16
    assert rows["point.linear"].params_after < 16 * 24 + 24
    assert rows["hidden"].kept_because == rows["out"].kept_because == "not targeted"
    assert type(result.model.hidden) is Conv1D
    assert result.report.before.params == sum(p.numel() for p in net.parameters())
    loaded = compressor.load(tmp_path / "out", model=Net())
    assert loaded(x).equal(result.model(x))
    torch.testing.assert_close(compressor.load(tmp_path / "out")(x), result.model(x))


def test_a_file_with_opened_modules_is_refused_by_another_network(tmp_path: Path) -> None:
    model, path = Net(), tmp_path / "model.safetensors"
    open_model(model)
    replace(model, "point.linear", compressor.layers.SVD(16, 24, rank=2))
    safetensors_file.save(model, manifest.describe(model), path)
    other = Net()
    other.point = nn.Identity()  # type: ignore[assignment]
    with pytest.raises(CompressorError, match=r"expects a convolution 'point'.*give the original"):
        safetensors_file.load_into(other, path)


def test_inspect_names_the_maps_inside(tmp_path: Path) -> None:
    from compressor.inspection import inspect
    from compressor.pipeline import make_recipe

    recipe = make_recipe(method="svd", target=["wide"], input_shape={"x": (1, 3, 5, 7)})
    assert [row.name for row in inspect(recipe, model=Net()).dense_maps] == [
        "wide.linear", "point.linear", "hidden", "out",
    ]  # fmt: skip
