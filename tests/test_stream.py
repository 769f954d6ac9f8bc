"""`--stream`: the same layers as the job in memory makes, without ever having the model there."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Tiny, environment
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from compressor import CompressorError, load
from compressor.pipeline import make_recipe
from compressor.stream import stream
from compressor_converters.tensor_stream import Source, Writer

pytestmark = pytest.mark.slow

WIDE = """
from torch import nn

def wide():
    return nn.Sequential(*(nn.Linear(1024, 1024) for _ in range(24)))
"""


@pytest.fixture
def weights(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tiny.folder)
    save_file(torch.load(tiny.folder / "weights.pth"), tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors"


def recipe(weights: Path, **options: Any) -> Any:
    given = {"model": str(weights), "arch": "nets.py:mlp", "method": "svd", "settings": {"rank": 6}, "stream": True}
    return make_recipe(**{**given, **options})


@pytest.mark.parametrize(("name", "settings"), [("svd", {"rank": 6}), ("monarch", {}), ("acdc", {"depth": 2})])
def test_the_file_is_that_of_the_job_in_memory(
    weights: Path, tiny: Tiny, tmp_path: Path, name: str, settings: dict[str, Any]
) -> None:
    stream(recipe(weights, method=name, settings=settings), tmp_path / "streamed")
    sets = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    tiny.call(
        str(weights), "--arch", "nets.py:mlp", "--method", name, *sets, "--set", "window=off", "--input-shape", "1,24",
        "-o", str(tmp_path / "whole"), "--quiet",
    )  # fmt: skip
    streamed, whole = (load_file(tmp_path / which / "model.safetensors") for which in ("streamed", "whole"))
    assert streamed.keys() == whole.keys()
    x = torch.randn(5, 24)
    nets = [load(tmp_path / which, arch="nets.py:mlp") for which in ("streamed", "whole")]
    torch.testing.assert_close(nets[0](x), nets[1](x), rtol=1e-3, atol=1e-4)


def test_the_command_streams_and_its_report_can_be_shown(weights: Path, tiny: Tiny, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    said = tiny.call(
        str(weights), "--arch", "nets.py:mlp", "--method", "svd", "--set", "rank=6", "--stream", "-o", out
    ).stdout
    assert "streamed" in said
    report = json.loads(tiny.call("report", out, "--json").stdout)
    assert [row["method"] for row in report["layers"]] == ["svd", "svd", None]
    assert report["after"]["dense_params"] < report["before"]["dense_params"]
    again = tiny.call("--recipe", f"{out}/recipe.yaml", "-o", str(tmp_path / "again"), "--quiet")
    assert again.returncode == 0
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == Path(out, "model.safetensors").read_bytes()


def test_a_layer_that_was_written_wrong_is_found(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = Writer.add

    def wrong(self: Writer, name: str, tensor: torch.Tensor) -> None:
        add(self, name, tensor + 0.01 if name.startswith("0.") else tensor)

    monkeypatch.setattr(Writer, "add", wrong)
    with pytest.raises(CompressorError, match="differ from those in memory"):
        stream(recipe(weights), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_kept_tensor_that_was_written_wrong_is_found(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = Writer.add

    def wrong(self: Writer, name: str, tensor: torch.Tensor) -> None:
        add(self, name, tensor + 0.01 if name == "5.bias" else tensor)

    monkeypatch.setattr(Writer, "add", wrong)
    with pytest.raises(CompressorError, match=r"'5\.bias' is not what the original has"):
        stream(recipe(weights), tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"data": "train.npz"}, "leave data out"),
        ({"time_limit": 60.0}, "leave time_limit out"),
        ({"arch": None}, "--arch"),
        ({"model": "weights.pth"}, "reads a .safetensors file"),
        ({"method": "acdc", "settings": {"depth": 2, "relu": True}}, "fitted to samples"),
        ({"arch": "nets.py:without_dense"}, "are not those of the network"),
        ({"arch": "half.py:mlp"}, "half.py:mlp: its weights are float16"),
    ],
)
def test_what_cannot_be_streamed_is_said(weights: Path, tmp_path: Path, change: dict[str, Any], said: str) -> None:
    Path("half.py").write_text("import nets\n\ndef mlp():\n    return nets.mlp().half()\n")
    with pytest.raises(CompressorError, match=said):
        stream(recipe(weights, **change), tmp_path / "out")


def test_numbers_stored_in_float16_are_streamed_into_a_network_in_float32(weights: Path, tmp_path: Path) -> None:
    save_file({name: value.half() for name, value in load_file(weights).items()}, tmp_path / "half.safetensors")
    stream(recipe(tmp_path / "half.safetensors"), tmp_path / "out")
    back = load(tmp_path / "out", arch="nets.py:mlp")
    assert {value.dtype for value in back.parameters()} == {torch.float32}
    assert torch.isfinite(back(torch.randn(5, 24))).all()


def test_a_hugging_face_folder_is_streamed_and_reloads(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="needs the extra hf")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=99, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=40,
    )  # fmt: skip
    transformers.BertForMaskedLM(config).save_pretrained(tmp_path / "bert", max_shard_size="40KB")
    made = make_recipe(
        model=str(tmp_path / "bert"), method="fastfood", settings={"terms": 1}, target=("bert.encoder.*",), stream=True
    )
    stream(made, tmp_path / "out")
    from compressor_converters.hugging_face.writing import load_pretrained

    back = load_pretrained(tmp_path / "out")
    assert type(back.get_submodule("bert.encoder.layer.0.output.dense")).__name__ == "Fastfood"
    ids = torch.randint(0, 99, (2, 9))
    with torch.no_grad():
        assert torch.isfinite(back(ids)[0]).all()


def test_the_writer_gives_what_the_reader_had(tmp_path: Path) -> None:
    tensors = {
        "bytes": torch.arange(5, dtype=torch.uint8), "half": torch.randn(3, 3).half(), "flags": torch.tensor([True]),
        "wide": torch.randn(2, 5, dtype=torch.float64), "none": torch.zeros(0, 4), "one": torch.tensor(3.0),
        "turned": torch.randn(4, 6).T, "whole": torch.arange(7),
    }  # fmt: skip
    writer = Writer(tmp_path / "t.safetensors")
    for name, value in tensors.items():
        writer.add(name, value)
    writer.close({"compressor": "{}"})
    for name, value in load_file(tmp_path / "t.safetensors").items():
        assert torch.equal(value, tensors[name])
        assert value.dtype == tensors[name].dtype
    with safe_open(tmp_path / "t.safetensors", "pt") as file:
        assert file.metadata() == {"compressor": "{}"}
    source = Source([tmp_path / "t.safetensors"])
    assert {name: tuple(value.shape) for name, value in tensors.items()} == source.shapes
    assert [path.name for path in tmp_path.iterdir()] == ["t.safetensors"]


def test_ctrl_c_gives_a_streamed_job_up_at_once_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "wide.py").write_text(WIDE)
    save_file(nn.Sequential(*(nn.Linear(1024, 1024) for _ in range(24))).state_dict(), tmp_path / "wide.safetensors")
    before = sorted(tmp_path.iterdir())
    job = ("wide.safetensors", "--arch", "wide.py:wide", "--stream", "--method", "acdc", "-o", "out")
    child = subprocess.Popen(
        [sys.executable, "-m", "compressor", *job], cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )  # fmt: skip
    while not list(tmp_path.glob(".out.partial-*")):  # from then on it fits, for hours
        assert child.poll() is None
        time.sleep(0.1)
    child.send_signal(signal.SIGINT)
    try:
        error = child.communicate(timeout=60)[1]
    finally:
        child.kill()
    assert child.returncode == 130
    assert error.split("\n")[-2] == "given up; nothing was written"
    assert [path for path in sorted(tmp_path.iterdir()) if path.name != "__pycache__"] == before


PEAK = """
import resource, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from compressor.pipeline import make_recipe
from compressor.stream import stream
import compressor_converters.onnx_file
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
recipe = make_recipe(model="wide.safetensors", arch="wide.py:wide", method="monarch", stream=True)
stream(recipe, Path("out"))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


def test_memory_is_that_of_some_layers_and_not_of_the_model(tmp_path: Path) -> None:
    (tmp_path / "wide.py").write_text(WIDE)
    net = nn.Sequential(*(nn.Linear(1024, 1024) for _ in range(24)))
    save_file(net.state_dict(), tmp_path / "wide.safetensors")
    size = (tmp_path / "wide.safetensors").stat().st_size
    done = subprocess.run(
        [sys.executable, "-c", PEAK], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True
    )
    assert size > 100_000_000
    assert int(done.stdout) < 0.6 * size


@pytest.mark.parametrize("name", ["0.weight", "0.bias"])
def test_numbers_that_are_none_are_refused_with_the_layer_s_name(weights: Path, tmp_path: Path, name: str) -> None:
    tensors = load_file(weights)
    tensors[name].view(-1)[0] = float("nan")
    save_file(tensors, weights)
    with pytest.raises(CompressorError, match="'0' holds numbers that are NaN or infinite"):
        stream(recipe(weights), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_places_of_16_bits_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "code.py").write_text(
        "from torch import nn\n\ndef net():\n    return nn.Sequential(nn.Linear(300, 40))\n"
    )
    monkeypatch.chdir(tmp_path)
    save_file(nn.Sequential(nn.Linear(300, 40)).state_dict(), tmp_path / "w.safetensors")
    asked = recipe(
        tmp_path / "w.safetensors", arch="code.py:net", method="pruned", settings={"density": 0.1}, target=("0",)
    )
    assert stream(asked, tmp_path / "out").layers[0].method == "pruned"
    assert torch.uint16 in {value.dtype for value in load_file(tmp_path / "out/model.safetensors").values()}
