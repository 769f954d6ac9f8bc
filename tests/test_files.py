"""The compact file, its manifest, and the check that every file does what the model in memory does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from compressor.errors import CompressorError
from compressor.layers import method, methods
from compressor.verify import verify
from compressor_converters.folder import load_folder
from compressor_converters.graph import unlift
from compressor_converters.graph_layers import restore_layers
from compressor_converters.manifest import describe
from compressor_converters.onnx_file import save_onnx
from compressor_converters.pt2 import load_pt2, save_pt2
from compressor_converters.safetensors_file import METADATA_KEY, load_into, read_manifest, save


def original() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(30, 40), nn.ReLU(), nn.Dropout(0.1), nn.Linear(40, 20), nn.ReLU(), nn.Linear(20, 3))


def compressed() -> nn.Sequential:
    net = original()
    net[0] = method("acdc").layer(30, 20, depth=2, relu=True, seed=5)
    net[1] = net[2] = net[3] = nn.Identity()
    return net.eval()


def write(folder: Path, net: nn.Module) -> Path:
    example = (torch.randn(4, 30),)
    save(net, describe(net, input_names=("x",)), folder / "model.safetensors")
    save_pt2(net, example, folder / "model.pt2")
    save_onnx(net, example, folder / "model.onnx", input_names=("x",))
    return folder


def test_a_window_comes_back_with_its_identities_and_the_same_outputs(tmp_path: Path) -> None:
    net = compressed()
    save(net, describe(net), tmp_path / "m.safetensors")
    back = load_into(original(), tmp_path / "m.safetensors").eval()
    x = torch.randn(5, 30)
    with torch.no_grad():
        assert torch.equal(back(x), net(x))
    assert [type(module).__name__ for module in back][:4] == ["ACDC", "Identity", "Identity", "Identity"]


def test_permutations_are_stored_as_a_seed_and_not_as_numbers(tmp_path: Path) -> None:
    net = compressed()
    save(net, describe(net), tmp_path / "m.safetensors")
    names = set(load_file(tmp_path / "m.safetensors"))
    assert names == {"0.a", "0.d", "0.beta", "5.weight", "5.bias"}
    assert read_manifest(tmp_path / "m.safetensors").layers["0"].config["seed"] == 5


def test_a_tensor_with_two_names_is_stored_once_and_comes_back_at_both(tmp_path: Path) -> None:
    def tied() -> nn.Sequential:
        net = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8))
        net[2].weight = net[0].weight
        return net

    net = tied()
    save(net, describe(net), tmp_path / "m.safetensors")
    assert "2.weight" not in load_file(tmp_path / "m.safetensors")
    back = load_into(tied(), tmp_path / "m.safetensors")
    torch.testing.assert_close(back[2].weight, net[0].weight)


def test_the_same_network_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        net = compressed()
        save(net, describe(net), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m.update(format=2, more=1), "install a newer one"),
        (lambda m: m["layers"].update(nowhere=m["layers"]["0"]), "'nowhere' that this network does not have"),
        (lambda m: m["layers"]["0"].update(method="acbc"), "did you mean 'acdc'"),
        (lambda m: m["layers"]["0"].update(in_features=31), "30 features in this network and 31"),
        (lambda m: m["layers"]["0"]["config"].update(depth=3), "numbers, and the file holds"),
        (lambda m: m.update(surprise=1), "manifest is not valid"),
        (lambda m: m.update(layers={}), "does not fit the network"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused_in_one_line(tmp_path: Path, change: object, said: str) -> None:
    net = compressed()
    save(net, describe(net), tmp_path / "m.safetensors")
    with safe_open(tmp_path / "m.safetensors", framework="pt") as file:
        manifest = json.loads(file.metadata()[METADATA_KEY])
    change(manifest)  # type: ignore[operator]
    tensors = load_file(tmp_path / "m.safetensors")
    save_file(tensors, tmp_path / "m.safetensors", metadata={METADATA_KEY: json.dumps(manifest)})
    with pytest.raises(CompressorError, match=said) as refused:
        load_into(original(), tmp_path / "m.safetensors")
    assert len(str(refused.value).splitlines()) == 1


def test_a_folder_never_calls_the_code_that_its_manifest_names(tmp_path: Path) -> None:
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'called')!r}, 'w')\n")
    net = compressed()
    save(net, describe(net, arch=f"{tmp_path / 'evil.py'}:build"), tmp_path / "model.safetensors")
    with pytest.raises(CompressorError, match="arch="):
        load_folder(tmp_path)
    assert not (tmp_path / "called").exists()


def test_files_that_do_what_the_model_does_pass(tmp_path: Path) -> None:
    net = compressed()
    checks = verify(write(tmp_path, net), net, (torch.randn(9, 30),), rebuild=original)
    assert {check.file for check in checks} >= {"model.safetensors", "model.pt2", "model.onnx"}


@pytest.mark.parametrize("file", ["model.safetensors", "model.pt2", "model.onnx"])
def test_a_file_that_does_something_else_is_an_error(tmp_path: Path, file: str) -> None:
    net = compressed()
    write(tmp_path, net)
    (tmp_path / "other").mkdir()
    changed = compressed()
    with torch.no_grad():
        changed[0].d[0, 3] += 0.5
    write(tmp_path / "other", changed)
    (tmp_path / "other" / file).replace(tmp_path / file)
    with pytest.raises(CompressorError, match="differs from the model in memory"):
        verify(tmp_path, net, (torch.randn(9, 30),), rebuild=original)


class Twice(nn.Module):
    """One layer called again and again, one that stands in two places, one that works on the middle axis."""

    def __init__(self, name: str) -> None:
        super().__init__()
        made = [method(name).layer(24, 24, config=method(name).config({}), bias=bias) for bias in (True, False)]
        self.again, self.block = made[0], nn.Sequential(made[1], nn.Tanh(), nn.Linear(24, 24))
        self.alias = made[1]
        self.middle = method(name).layer(6, 6, config=method(name).config({}))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.again(torch.tanh(self.again(self.again(x))))
        h = h + self.alias(self.block(h))
        return self.middle(h.transpose(1, 2)).transpose(1, 2) + h


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[] if n in ("acdc", "monarch", "svd") else [pytest.mark.slow]) for n in methods()],
)
def test_layers_of_a_folder_read_without_its_network_are_modules_again(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Twice(name).eval()
    example = (torch.randn(4, 6, 24),)
    save(net, describe(net), tmp_path / "model.safetensors")
    save_pt2(net, example, tmp_path / "model.pt2")
    back = load_folder(tmp_path)
    called = [node.target for node in back.graph.nodes if node.op == "call_module"]
    assert called == ["again", "again", "again", "block.0", "block.0", "middle"]
    operators = [node.name for node in back.graph.nodes if node.op == "call_function"]
    assert len(operators) == 7, operators  # tanh twice, a product, two sums, two transpositions
    assert back.get_submodule("alias") is back.get_submodule("block.0")
    for x in (example[0], torch.randn(1, 6, 24)):
        with torch.no_grad():
            torch.testing.assert_close(back(x), net(x), rtol=1e-4, atol=1e-5)
    assert back.state_dict().keys() == net.state_dict().keys()


def test_a_layer_that_cannot_be_told_from_the_rest_stays_as_operators(tmp_path: Path) -> None:
    """Its result and one inside it are both used: as where two programs were merged by hand."""
    net = compressed()
    write(tmp_path, net)
    program = load_pt2(tmp_path / "model.pt2")
    module, layers = unlift(program), read_manifest(tmp_path / "model.safetensors")
    inner = next(node for node in module.graph.nodes if "fft_rfft" in node.name or "matmul" in node.name)
    output = next(node for node in module.graph.nodes if node.op == "output")
    output.args = ((*output.args[0], inner),)
    restore_layers(module, layers)
    assert not any(node.op == "call_module" for node in module.graph.nodes)
