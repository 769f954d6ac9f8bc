"""Hugging Face folders out: they reload by ``from_pretrained``, in a fresh process with ``import compressor``."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import environment
from safetensors.torch import load_file, save_file

from compressor import CompressorError, compress
from compressor.export import export
from compressor.layers import method, replace
from compressor.measure import ort_session, run_ort
from compressor_converters.hugging_face.writing import load_pretrained, write_config
from compressor_converters.manifest import describe
from compressor_converters.opening import close_model, open_model
from compressor_converters.safetensors_file import save

pytestmark = pytest.mark.slow

transformers = pytest.importorskip("transformers", reason="needs the extra hf")

BERT: dict[str, Any] = {
    "vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "max_position_embeddings": 40,
}  # fmt: skip
RELOAD = """
import sys
{imports}
import numpy as np, torch
model = getattr(transformers, sys.argv[2]).from_pretrained(sys.argv[1])
x = np.load(sys.argv[3])
with torch.no_grad():
    np.save(sys.argv[4], model(torch.from_numpy(x["ids"]), torch.from_numpy(x["mask"]))[0].numpy())
"""


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(0, 99, (3, 11), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[0, 5:] = 0
    return ids, mask


def bert(kind: str = "BertModel") -> Any:
    torch.manual_seed(0)
    return getattr(transformers, kind)(transformers.BertConfig(**BERT)).eval()


def reload(folder: Path, kind: str, imports: str) -> torch.Tensor:
    """What a fresh process makes of ``folder``."""
    ids, mask = inputs()
    np.savez(folder.parent / "x.npz", ids=ids, mask=mask)
    out = folder.parent / "y.npy"
    given = [str(folder), kind, str(folder.parent / "x.npz"), str(out)]
    program = [sys.executable, "-c", RELOAD.format(imports=imports), *given]
    subprocess.run(program, check=True, env=environment(), timeout=900)
    return torch.from_numpy(np.load(out))


@pytest.fixture(scope="module")
def compressed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A folder compressed by the whole job, and its result."""
    where = tmp_path_factory.mktemp("hf")
    bert().save_pretrained(where / "bert")
    (where / "bert" / "vocab.txt").write_text("a\nb\n")
    (where / "bert" / "modeling_evil.py").write_text("raise SystemExit\n")
    result = compress(where / "bert", method="fastfood", target=("encoder.*",), output=where / "out")
    return where / "out", result


@pytest.mark.parametrize("imports", ["import compressor, transformers", "import transformers, compressor"])
def test_a_compressed_folder_reloads_in_a_fresh_process(compressed: tuple[Path, Any], imports: str) -> None:
    folder, result = compressed
    with torch.no_grad():
        expected = result.model(*inputs())[0]
    torch.testing.assert_close(reload(folder, "AutoModel", imports), expected)


def test_the_onnx_file_takes_any_batch_and_any_length(compressed: tuple[Path, Any]) -> None:
    folder, result = compressed
    session = ort_session(folder / "model.onnx")
    for rows, length in ((1, 7), (5, 30)):
        ids = torch.randint(0, 99, (rows, length))
        mask = torch.ones_like(ids)
        mask[:, length // 2 :] = 0
        with torch.no_grad():
            expected = result.model(ids, mask)[0]
        got = torch.from_numpy(np.asarray(run_ort(session, (ids, mask))[0]))
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_the_folder_has_the_tokeniser_and_no_code(compressed: tuple[Path, Any]) -> None:
    folder, _ = compressed
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "vocab.txt", "model.safetensors"} <= names
    assert not any(name.endswith(".py") for name in names)
    config = json.loads((folder / "config.json").read_text())
    assert config["quantization_config"] == {"quant_method": "compressor"}


def test_the_folder_is_written_again_in_half_precision(compressed: tuple[Path, Any], tmp_path: Path) -> None:
    folder, result = compressed
    made = export(folder, "hf", tmp_path / "half", dtype="float16")
    back = load_pretrained(tmp_path / "half")
    with torch.no_grad():
        got, expected = back(*inputs())[0], result.model(*inputs())[0]
    assert got.dtype == torch.float32
    assert 1e-6 < float((got - expected).abs().max() / expected.abs().max()) < 1e-2
    assert made.error is not None
    assert made.size_bytes["model.safetensors"] < 0.65 * (folder / "model.safetensors").stat().st_size
    assert (tmp_path / "half" / "vocab.txt").is_file()


def test_the_dense_folder_has_the_layers_of_transformers_only(compressed: tuple[Path, Any], tmp_path: Path) -> None:
    folder, result = compressed
    export(folder, "hf", tmp_path / "dense", dense=True)
    assert "quantization_config" not in json.loads((tmp_path / "dense" / "config.json").read_text())
    plain = transformers.AutoModel.from_pretrained(tmp_path / "dense").eval()
    assert type(plain.encoder.layer[0].output.dense) is torch.nn.Linear
    with torch.no_grad():
        torch.testing.assert_close(plain(*inputs())[0], result.model(*inputs())[0], rtol=1e-4, atol=1e-5)


def test_the_report_says_that_the_folder_was_read_back(compressed: tuple[Path, Any]) -> None:
    _, result = compressed
    assert any("from_pretrained" in check.file for check in result.report.verification)


def written(folder: Path, model: Any, names: list[str], name: str = "fastfood", **settings: Any) -> Any:
    """``model`` with the layers ``names`` structured, and its folder."""
    folder.mkdir()
    original = copy.deepcopy(model)
    open_model(model, names)
    for where in names:
        dense = model.get_submodule(where)
        layer = method(name).layer(dense.in_features, dense.out_features, bias=dense.bias is not None, **settings)
        replace(model, where, layer)
    close_model(model, original)
    model.eval()
    save(model, describe(model), folder / "model.safetensors")
    write_config(model, folder)
    return model


def test_a_bare_network_is_read_from_the_file_of_one_with_a_head(tmp_path: Path) -> None:
    names = ["bert.encoder.layer.0.intermediate.dense", "bert.encoder.layer.1.output.dense"]
    model = written(tmp_path / "m", bert("BertForSequenceClassification"), names, "acdc", depth=2)
    bare = load_pretrained_unchecked(tmp_path / "m", transformers.AutoModel)
    with torch.no_grad():
        torch.testing.assert_close(bare(*inputs())[0], model.bert(*inputs())[0])


def test_a_head_is_put_on_the_file_of_a_bare_network(tmp_path: Path) -> None:
    model = written(tmp_path / "m", bert(), ["encoder.layer.0.intermediate.dense"], "acdc", depth=2)
    whole = load_pretrained_unchecked(tmp_path / "m", transformers.BertForSequenceClassification)
    with torch.no_grad():
        torch.testing.assert_close(whole.bert(*inputs())[0], model(*inputs())[0])


def load_pretrained_unchecked(folder: Path, network: Any) -> Any:
    return network.from_pretrained(folder).eval()


def test_opened_modules_and_tied_weights_come_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=99, n_embd=32, n_layer=2, n_head=4, n_positions=40, bos_token_id=0, eos_token_id=0
    )
    model = transformers.GPT2LMHeadModel(config).eval()
    written(tmp_path / "m", model, ["transformer.h.0.mlp.c_fc", "transformer.h.1.attn.c_attn"], "fastfood")
    assert "lm_head.weight" not in load_file(tmp_path / "m" / "model.safetensors")
    back = load_pretrained(tmp_path / "m", transformers.GPT2LMHeadModel)
    ids, mask = inputs()
    with torch.no_grad():
        torch.testing.assert_close(back(ids, attention_mask=mask)[0], model(ids, attention_mask=mask)[0])


def test_tensors_that_are_missing_in_the_folder_are_an_error(tmp_path: Path) -> None:
    written(tmp_path / "m", bert(), ["encoder.layer.0.intermediate.dense"], "acdc", depth=2)
    from safetensors import safe_open

    with safe_open(tmp_path / "m" / "model.safetensors", "pt") as file:
        metadata = file.metadata()
    tensors = load_file(tmp_path / "m" / "model.safetensors")
    del tensors["encoder.layer.0.intermediate.dense.beta"]
    save_file(tensors, tmp_path / "m" / "model.safetensors", metadata=metadata)
    with pytest.raises(CompressorError, match=r"from_pretrained misses.*beta"):
        load_pretrained(tmp_path / "m", transformers.BertModel)


def test_a_manifest_in_the_folder_runs_nothing(tmp_path: Path) -> None:
    written(tmp_path / "m", bert(), ["encoder.layer.0.intermediate.dense"], "acdc", depth=2)
    from safetensors import safe_open

    with safe_open(tmp_path / "m" / "model.safetensors", "pt") as file:
        manifest = json.loads(file.metadata()["compressor"])
    manifest["layers"]["encoder.layer.0.intermediate.dense"]["method"] = "os.system"
    tensors = load_file(tmp_path / "m" / "model.safetensors")
    save_file(tensors, tmp_path / "m" / "model.safetensors", metadata={"compressor": json.dumps(manifest)})
    with pytest.raises(CompressorError, match="there is no method"):
        load_pretrained(tmp_path / "m", transformers.BertModel)
