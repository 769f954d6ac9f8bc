"""Models in: every way to name one gives the same network, and what does not fit is said in one line."""

from __future__ import annotations

import hashlib
import re
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from compressor.errors import CompressorError
from compressor_converters.arch import import_callable
from compressor_converters.load import input_names, load_model

NETS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(7, 5)
        self.norm = nn.BatchNorm1d(5)
        self.fc2 = nn.Linear(5, 3)

    def forward(self, image):
        return self.fc2(torch.relu(self.norm(self.fc1(image))))

class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(5, 5)
        self.b = nn.Linear(5, 5)
        self.b.weight = self.a.weight

def number():
    return 3

def broken():
    return [][1]

limit = 5
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with the code of the networks in nets.py."""
    (tmp_path / "nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def trained() -> nn.Module:
    torch.manual_seed(0)
    model = import_callable("nets.py:Net")()
    model.train()
    model(torch.randn(50, 7) * 3 + 1)  # moves the running statistics, so that eval mode can be told from training
    return model.eval()


def message(*arguments: object, **options: object) -> str:
    with pytest.raises(CompressorError) as caught:
        load_model(*arguments, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def wrapped(state: dict[str, Tensor]) -> dict[str, object]:
    return {
        "plain.pt": state,
        "nested.pth": {"epoch": 3, "state_dict": state},
        "model.bin": {"model": state, "lr": 0.1},
        "named.pt": {"model_state_dict": state},
        "other.pt": {"step": 3, "model_state": state, "optimizer_state": {"state": {0: {"step": torch.ones(())}}}},
        "parallel.pt": {f"module.{name}": value for name, value in state.items()},
        "compiled.pt": {"state_dict": {f"_orig_mod.module.{name}": value for name, value in state.items()}},
    }


@pytest.mark.parametrize("name", [*wrapped({}), "state.safetensors"])
def test_a_state_dict_gives_the_network_that_was_saved(folder: Path, name: str) -> None:
    model = trained()
    state = model.state_dict()
    save_file(state, folder / name) if name.endswith("safetensors") else torch.save(wrapped(state)[name], folder / name)
    loaded = load_model(name, arch="nets.py:Net")
    x = torch.randn(3, 7)
    torch.testing.assert_close(loaded.model(x), model(x))
    assert not loaded.model.training
    assert (loaded.input_names, loaded.arch, loaded.source) == (("image",), "nets.py:Net", name)
    assert loaded.format == ("safetensors" if name.endswith("safetensors") else "state_dict")
    assert loaded.sha256 == hashlib.sha256((folder / name).read_bytes()).hexdigest()


def test_of_several_state_dicts_none_is_taken(folder: Path) -> None:
    state = trained().state_dict()
    torch.save({"generator": state, "critic": state, "step": 3}, folder / "two.pt")
    assert "two.pt: holds 2 state dicts (generator, critic); save the one" in message("two.pt", arch="nets.py:Net")
    torch.save({"generator": state, "model": state}, folder / "named.pt")  # by its name
    load_model("named.pt", arch="nets.py:Net")


def test_a_state_dict_of_torch_before_its_zip_format_is_read(folder: Path) -> None:
    model = trained()
    torch.save(model.state_dict(), "old.pt", _use_new_zipfile_serialization=False)
    torch.testing.assert_close(load_model("old.pt", arch="nets.py:Net").model.fc1.weight, model.fc1.weight)


def test_a_program_in_a_pt_file_is_read_as_a_program(folder: Path) -> None:
    model = trained()
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(model, (torch.randn(4, 7),), dynamic_shapes=({0: batch},), strict=False)
    with Path("program.pt").open("wb") as file:
        torch.export.save(program, file)
    loaded = load_model("program.pt")
    assert loaded.format == "pt2"
    assert loaded.input_names == ("image",)
    assert loaded.example is not None
    assert loaded.example[0].shape == (4, 7)
    for rows in (1, 3):
        x = torch.randn(rows, 7)
        torch.testing.assert_close(loaded.model(x), model(x))


def test_a_live_module_is_taken_as_it_is(folder: Path) -> None:
    model = trained().train()
    model.fc1.weight.requires_grad_(False)
    loaded = load_model(model)
    assert loaded.model is model
    assert not model.training
    assert [p.requires_grad for p in model.parameters()] == [False, True, True, True, True, True]
    assert (loaded.format, loaded.sha256) == ("module", None)


@pytest.mark.parametrize("source", ["nets.py:Net", "nets:Net"])
def test_code_gives_a_model_and_with_meta_one_without_weights(folder: Path, source: str) -> None:
    assert not any(p.is_meta for p in load_model(source).model.parameters())
    assert all(p.is_meta for p in load_model(source, meta=True).model.parameters())


def test_a_pickled_module_is_read_when_the_file_is_trusted(folder: Path) -> None:
    torch.save(nn.Sequential(nn.Linear(7, 3)), "whole.pt")
    assert load_model("whole.pt", unsafe=True).format == "pickle"


def test_a_missing_tied_weight_is_not_missed(folder: Path) -> None:
    tied = import_callable("nets.py:Tied")()
    state = tied.state_dict()
    del state["b.weight"]
    torch.save(state, "tied.pt")
    loaded = load_model("tied.pt", arch="nets.py:Tied").model
    assert loaded.b.weight is loaded.a.weight
    torch.testing.assert_close(loaded.a.weight, tied.a.weight)


def test_without_arch_the_way_out_is_named(folder: Path) -> None:
    torch.save(trained().state_dict(), "plain.pt")
    assert "9 tensors, 2 of them matrices" in (said := message("plain.pt"))
    assert "--arch" in said


def test_missing_and_unexpected_keys_are_counted_and_named(folder: Path) -> None:
    state = {("x." + name if "fc" in name else name): value for name, value in trained().state_dict().items()}
    torch.save(state, "other.pt")
    said = message("other.pt", arch="nets.py:Net")
    assert "4 missing (fc1.weight, fc1.bias, fc2.weight, and 1 more)" in said
    assert "4 unexpected (x.fc1.weight, x.fc1.bias, x.fc2.weight, and 1 more)" in said


def test_other_shapes_are_named(folder: Path) -> None:
    state = trained().state_dict()
    state["fc1.weight"] = torch.zeros(5, 8)
    torch.save(state, "other.pt")
    assert "fc1.weight: (5, 8) in the file, (5, 7) in the network" in message("other.pt", arch="nets.py:Net")


@pytest.mark.parametrize(
    ("value", "word"),
    [
        (torch.zeros(3, 2), "one tensor (3, 2)"),
        ([1, 2], "a list"),
        ({"lr": 0.1}, "no tensors, only lr"),
        ({}, "nothing"),
    ],
)
def test_a_file_of_something_else_is_named(folder: Path, value: object, word: str) -> None:
    torch.save(value, "other.pt")
    assert word in message("other.pt", arch="nets.py:Net")


@pytest.mark.parametrize(
    ("source", "word"),
    [
        ("nets.py:Nett", "did you mean 'Net'?"),
        ("absent.py:Net", "there is no file absent.py"),
        ("absent_module:Net", "there is no module 'absent_module'"),
        ("nets.py:number", "gave a int, not a torch.nn.Module"),
        ("nets.py:broken", "raised IndexError: list index out of range (nets.py, line 26)"),
        ("nets.py:limit", "is a int, not something to call"),
        ("absent.pt", "there is no such file"),
        (".", "is a folder"),
    ],
)
def test_a_source_that_gives_no_model_is_named(folder: Path, source: str, word: str) -> None:
    assert word in message(source)
    if ":" in source:
        torch.save(trained().state_dict(), "plain.pt")
        assert word in message("plain.pt", arch=source)


def test_code_that_does_not_import_is_named_with_its_line(folder: Path) -> None:
    (folder / "bad.py").write_text("import torch\nimport absent_thing\n")
    for source in ("bad.py:Net", "bad:Net"):
        assert "ModuleNotFoundError: No module named 'absent_thing' (bad.py, line 2)" in message(source)


def test_a_masking_buffer_may_hold_infinities_and_weights_may_not(folder: Path) -> None:
    model = nn.Linear(3, 3)
    model.register_buffer("mask", torch.full((3, 3), float("-inf")))
    load_model(model)
    model.mask[0, 0] = float("nan")
    assert "'mask' holds 1 values" in message(model)


@pytest.mark.parametrize(
    ("forward", "names"),
    [
        (lambda self, a, b: None, ("a", "b")),
        (lambda self, a, b=None: None, ("a",)),
        (lambda self, ids=None, mask=None: None, ("ids",)),
        (lambda self, *xs: None, ("input",)),
    ],
)
def test_the_inputs_are_those_that_forward_needs(forward: object, names: tuple[str, ...]) -> None:
    kind = type("Net", (nn.Module,), {"forward": forward})
    assert input_names(kind()) == names


def test_the_weights_of_a_torchscript_archive_are_read_and_its_program_is_not_run(folder: Path) -> None:
    model = trained().eval()
    torch.jit.save(torch.jit.trace(model, torch.randn(2, 7)), folder / "script.pt")
    loaded = load_model("script.pt", arch="nets.py:Net")
    assert loaded.format == "torchscript"
    x = torch.randn(5, 7)
    torch.testing.assert_close(loaded.model(x), model(x))


def test_files_of_keras_and_tflite_are_refused_with_the_converter_that_takes_them_to_onnx(tmp_path: Path) -> None:
    (tmp_path / "old.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with zipfile.ZipFile(tmp_path / "new.keras", "w") as file:
        for name in ("metadata.json", "config.json", "model.weights.h5"):
            file.writestr(name, "{}")
    (tmp_path / "phone.tflite").write_bytes(b"\x1c\0\0\0TFL3" + bytes(100))
    for name, said in (
        ("old.h5", "format='onnx'"),
        ("new.keras", "tf2onnx"),
        ("phone.tflite", "tf2onnx.convert --tflite"),
    ):
        with pytest.raises(CompressorError, match=re.escape(said)) as caught:
            load_model(str(tmp_path / name))
        assert "once it is ONNX" in str(caught.value)


def test_a_safetensors_file_that_begins_as_onnx_does_is_read_as_what_it_is(folder: Path) -> None:
    for name in ("state.safetensors", "state"):
        for padding in range(0, 256, 8):  # until the length of the header begins with ONNX's first byte
            save_file(trained().state_dict(), folder / name, metadata={"padding": "." * padding})
            if (folder / name).read_bytes()[0] == 8:
                break
        assert (folder / name).read_bytes()[0] == 8
        assert load_model(folder / name, arch="nets.py:Net").format == "safetensors"
