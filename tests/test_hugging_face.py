"""Hugging Face folders in: what is read, what is refused, and that no code of a folder is run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from compressor.errors import CompressorError
from compressor_converters.hugging_face import reading
from compressor_converters.load import load_model

pytestmark = pytest.mark.slow

transformers = pytest.importorskip("transformers", reason="needs the extra hf")

SIZES: dict[str, Any] = {
    "vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "max_position_embeddings": 40,
}  # fmt: skip


def bert(kind: str = "BertModel") -> Any:
    torch.manual_seed(0)
    return getattr(transformers, kind)(transformers.BertConfig(**SIZES)).eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    bert().save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


def words(rows: int = 3, length: int = 11) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(0, 99, (rows, length), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[0, length // 2 :] = 0
    return ids, mask


def test_a_folder_gives_the_network_that_was_saved(folder: Path) -> None:
    loaded = load_model(folder)
    assert loaded.format == "hugging_face"
    assert loaded.input_names == ("input_ids", "attention_mask")
    assert loaded.free["input_ids"] == {1: "length"}
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(*words())[0], bert()(*words())[0])
        loaded.model(*loaded.example)


def test_shards_give_the_same_as_one_file(tmp_path: Path) -> None:
    bert().save_pretrained(tmp_path / "shards", max_shard_size="40KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    with torch.no_grad():
        torch.testing.assert_close(load_model(tmp_path / "shards").model(*words())[0], bert()(*words())[0])


def test_the_class_that_the_configuration_names_is_built(tmp_path: Path) -> None:
    bert("BertForMaskedLM").save_pretrained(tmp_path / "bert")
    assert type(load_model(tmp_path / "bert").model).__name__ == "BertForMaskedLM"


def test_half_precision_is_computed_in_single(tmp_path: Path) -> None:
    bert().to(torch.bfloat16).save_pretrained(tmp_path / "bert")
    assert {p.dtype for p in load_model(tmp_path / "bert").model.parameters()} == {torch.float32}


def test_the_digest_depends_on_the_weights(folder: Path) -> None:
    before = load_model(folder).sha256
    tensors = load_file(folder / "model.safetensors")
    tensors["pooler.dense.bias"] += 1
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert load_model(folder).sha256 != before


def test_a_name_on_the_hub_is_fetched_as_data_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked = {}

    def fetch(name: str, **options: Any) -> str:
        asked.update(options, name=name)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    loaded = load_model("hf:some-one/bert@v1.0")
    assert loaded.source == "hf:some-one/bert@v1.0"
    assert (asked["name"], asked["revision"]) == ("some-one/bert", "v1.0")
    assert not any(pattern.endswith((".py", ".bin", "*")) for pattern in asked["allow_patterns"])


def test_no_network_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def fail(*_: object, **__: object) -> str:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(CompressorError, match="could not be fetched: ConnectionError: no route to host"):
        load_model("hf:some-one/bert")


@pytest.mark.parametrize("name", ["bert", "./hf:x/y", "hf:x", "hf:../x", "hf:a/b/c"])
def test_only_a_plain_name_after_the_prefix_asks_the_network(name: str) -> None:
    assert not reading.is_hub_name(name)


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


REFUSED: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "code for a type of its own": (
        lambda c: c.update(model_type="mine", auto_map={"AutoModel": "evil.Model"}),
        "never run",
    ),
    "a type that is a path": (lambda c: c.update(model_type="../../evil"), "model_type"),
    "no type": (lambda c: c.pop("model_type"), "model_type"),
    "another quantiser": (lambda c: c.update(quantization_config={"quant_method": "gptq"}), "quantised already"),
    "our own quantiser": (lambda c: c.update(quantization_config={"quant_method": "compressor"}), "compressed already"),
    "a billion layers": (lambda c: c.update(num_hidden_layers=10**9), "num_hidden_layers"),
    "a thousand layers": (lambda c: c.update(num_hidden_layers=1000), "num_hidden_layers"),
    "an endless table": (lambda c: c.update(max_position_embeddings=10**12), "max_position_embeddings"),
    "a wide network": (lambda c: c.update(intermediate_size=10**6), "describes a network of"),
    "another shape": (lambda c: c.update(intermediate_size=65), "missing or of another shape"),
    "one layer more": (lambda c: c.update(num_hidden_layers=3), "missing or of another shape"),
    "a negative size": (lambda c: c.update(hidden_size=-32), "transformers does not build it"),
    "a size in words": (lambda c: c.update(hidden_size="wide"), "transformers does not build it"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_configuration_that_does_not_fit_is_refused(folder: Path, name: str) -> None:
    change, said = REFUSED[name]
    (folder / "evil.py").write_text("open('marker', 'w')\n")
    with pytest.raises(CompressorError, match=said) as caught:
        load_model(edit(folder, change))
    assert "\n" not in str(caught.value)


def test_code_beside_a_known_type_is_not_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    (folder / "evil.py").write_text("open('marker', 'w')\nclass Model: pass\nConfig = Model\n")
    edit(folder, lambda c: c.update(auto_map={"AutoModel": "evil.Model", "AutoConfig": "evil.Config"}))
    assert type(load_model(folder).model).__module__.startswith("transformers.models.bert")
    assert not (folder.parent / "marker").exists()


@pytest.mark.parametrize("name", ["pipeline", "AutoModel", "GPT2Model", "os.system", "PreTrainedModel"])
def test_a_class_that_is_no_network_of_the_type_is_not_taken(folder: Path, name: str) -> None:
    loaded = load_model(edit(folder, lambda c: c.update(architectures=[name])))
    assert type(loaded.model).__name__ == "BertModel"


def test_an_implementation_from_the_hub_is_not_asked_for(folder: Path) -> None:
    loaded = load_model(edit(folder, lambda c: c.update(attn_implementation="evil/kernel", _attn_implementation="x/y")))
    assert loaded.model.config._attn_implementation in ("sdpa", "eager")


def test_an_adapter_is_refused(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "/elsewhere"}')
    with pytest.raises(CompressorError, match="adapter"):
        load_model(folder)


@pytest.mark.parametrize("shard", ["../other/model.safetensors", "/etc/passwd", "a/b.safetensors", "x.bin", 7])
def test_an_index_that_leads_outside_is_refused(folder: Path, shard: object) -> None:
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    shutil.copytree(folder, folder.parent / "other")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(CompressorError, match="no safetensors file of the folder"):
        load_model(folder)


def test_pickled_weights_in_a_folder_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(bert().state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(CompressorError, match="save_pretrained"):
        load_model(folder)


@pytest.mark.parametrize("text", ["{", "[]", "[" * 100000, '{"a": 1' * 1000, "\ufffe"])
def test_a_configuration_that_is_no_json_object_is_refused(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(CompressorError, match="JSON"):
        load_model(folder)
