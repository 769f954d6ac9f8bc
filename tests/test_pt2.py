"""Exported programs: what is written is what was in memory, for any batch, and tells nothing about the machine."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from compressor.errors import CompressorError
from compressor_converters.pt2 import check_pt2, is_ours, load_pt2, save_pt2
from tests.conftest import environment


def network() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(75, 5))
    model(torch.randn(20, 1, 7, 7))
    return model.eval()


@pytest.mark.parametrize("rows", [1, 3, 8])
def test_the_file_does_what_the_model_does_with_any_batch(tmp_path: Path, rows: int) -> None:
    model = network()
    assert save_pt2(model, (torch.randn(rows, 1, 7, 7),), tmp_path / "model.pt2") is None
    module = load_pt2(tmp_path / "model.pt2").module()
    for batch in (1, 2, 13):
        x = torch.randn(batch, 1, 7, 7)
        torch.testing.assert_close(module(x), model(x))


def test_stock_torch_reads_the_file(tmp_path: Path) -> None:
    model = network()
    save_pt2(model, (torch.randn(2, 1, 7, 7),), tmp_path / "model.pt2")
    program = torch.export.load(tmp_path / "model.pt2")
    x = torch.randn(5, 1, 7, 7)
    torch.testing.assert_close(program.module()(x), model(x))
    assert set(program.state_dict) == set(model.state_dict())


def test_several_inputs_and_a_dictionary_of_outputs_are_kept(tmp_path: Path) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 5)
            self.register_buffer("scale", torch.tensor(2.0))
            self.offset = torch.ones(5)  # a constant, neither parameter nor buffer

        def forward(self, left: Tensor, right: Tensor) -> dict[str, Tensor]:
            return {"logits": self.fc(left * right) * self.scale + self.offset, "sum": left + right}

    model = Two().eval()
    inputs = (torch.randn(4, 3), torch.randn(4, 3))
    save_pt2(model, inputs, tmp_path / "model.pt2")
    torch.testing.assert_close(load_pt2(tmp_path / "model.pt2").module()(*inputs), model(*inputs))


@pytest.mark.slow
def test_the_bytes_do_not_depend_on_the_example_the_process_or_the_mode(tmp_path: Path) -> None:
    program = (
        "import sys, torch; from tests.test_pt2 import network; from compressor_converters.pt2 import save_pt2\n"
        "save_pt2(network(), (torch.randn(5, 1, 7, 7),), sys.argv[1])"
    )
    for seed in "12":
        subprocess.run(
            [sys.executable, "-c", program, str(tmp_path / f"{seed}.pt2")],
            check=True,
            env={**environment(), "PYTHONHASHSEED": seed},
            cwd=tmp_path,
        )
    model = network().train()
    save_pt2(model, (torch.randn(2, 1, 7, 7),), tmp_path / "here.pt2")
    assert model.training
    assert (tmp_path / "1.pt2").read_bytes() == (tmp_path / "2.pt2").read_bytes()
    assert (tmp_path / "1.pt2").read_bytes() == (tmp_path / "here.pt2").read_bytes()


def test_the_file_tells_nothing_about_the_machine(tmp_path: Path) -> None:
    example = torch.full((2, 1, 7, 7), 123.456)
    save_pt2(network(), (example,), tmp_path / "model.pt2")
    content = (tmp_path / "model.pt2").read_bytes()
    for secret in (b"stack_trace", b"site-packages", os.getcwd().encode(), b".py", example.numpy().tobytes()[:16]):
        assert secret not in content
    with zipfile.ZipFile(tmp_path / "model.pt2") as file:
        assert {info.date_time for info in file.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_a_model_that_fixes_its_batch_is_written_with_a_note(tmp_path: Path) -> None:
    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.reshape(4, -1) * torch.arange(4.0)[:, None] if x.shape[0] == 4 else x.new_zeros(4, 3)

    x = torch.randn(4, 3)
    note = save_pt2(Fixed(), (x,), tmp_path / "model.pt2")
    assert note is not None
    assert "a batch of 4 only" in note
    torch.testing.assert_close(load_pt2(tmp_path / "model.pt2").module()(x), Fixed()(x))


def test_what_is_written_here_is_told_from_what_others_write(tmp_path: Path) -> None:
    model, example = network(), (torch.randn(2, 1, 7, 7),)
    save_pt2(model, example, tmp_path / "ours.pt2")
    torch.export.save(torch.export.export(model, example, strict=False), tmp_path / "theirs.pt2")
    check_pt2(tmp_path / "theirs.pt2")
    assert (is_ours(tmp_path / "ours.pt2"), is_ours(tmp_path / "theirs.pt2")) == (True, False)


def test_a_file_of_another_schema_names_the_version_of_torch(tmp_path: Path) -> None:
    save_pt2(network(), (torch.randn(2, 1, 7, 7),), tmp_path / "model.pt2")
    with zipfile.ZipFile(tmp_path / "model.pt2") as file, zipfile.ZipFile(tmp_path / "new.pt2", "w") as out:
        for name in file.namelist():
            content = file.read(name)
            if name.endswith("model.json"):
                assert b'"schema_version":{"major":' in content
                content = content.replace(b'"schema_version":{"major":', b'"schema_version":{"major":99')
            out.writestr(name, content)
    with pytest.raises(CompressorError, match=f"torch {torch.__version__.split('+')[0]}"):
        load_pt2(tmp_path / "new.pt2")
