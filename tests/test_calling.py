"""Networks that take everything by name and return a class of their own, as those of transformers do."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import compressor
from compressor.data import array_names
from compressor.measure import first_output
from compressor_converters.calling import call_in_order, given_names, input_names
from compressor_converters.load import load_model
from compressor_converters.pt2 import load_pt2, save_pt2


class Output(OrderedDict):
    """What such a network returns: a mapping that torch must be told of."""

    def __getattr__(self, name: str) -> Tensor:
        return self[name]


torch.utils._pytree.register_pytree_node(
    Output,
    lambda output: (list(output.values()), list(output)),
    lambda values, names: Output(zip(names, values, strict=True)),
    serialized_type_name="tests.Output",
)


class Encoder(nn.Module):
    """Tokens and a mask in, hidden states out."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.up, self.down = nn.Embedding(50, 16), nn.Linear(16, 48), nn.Linear(48, 16)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(
        self,
        input_ids: Tensor | None = None,
        past: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Output:
        assert input_ids is not None
        assert attention_mask is not None
        assert past is None
        h = self.embedding(input_ids)
        h = h + self.attention(h, h, h, key_padding_mask=attention_mask == 0, need_weights=False)[0]
        h = h + self.down(torch.nn.functional.gelu(self.up(h)))
        return Output(last_hidden_state=h, pooler_output=h[:, 0])


def sentences(rows: int) -> dict[str, Tensor]:
    torch.manual_seed(0)
    mask = (torch.arange(7) < torch.randint(2, 8, (rows, 1))).long()
    return {"attention_mask": mask, "input_ids": torch.randint(50, (rows, 7)) * mask}


def test_the_inputs_are_those_that_the_data_holds() -> None:
    model = Encoder()
    assert input_names(model) == ("input_ids",)
    assert given_names(model, ("input_ids",), array_names(sentences(2))) == ("input_ids", "attention_mask")
    assert given_names(model, ("input_ids",), array_names(torch.zeros(2))) == ("input_ids",)
    assert given_names(nn.Linear(2, 2), ("input",), ["x"]) == ("input",)


@pytest.mark.parametrize("wrap", [lambda d: d, lambda d: [d, d], lambda d: (d, torch.zeros(3))])
def test_the_names_of_arrays_are_found_in_any_wrapping_and_labels_are_none_of_them(wrap: object) -> None:
    assert array_names(wrap({"input_ids": 1, "labels": 2})) == ("input_ids",)  # type: ignore[operator]
    assert array_names(wrap({"labels": 1, "score": 2}), "score") == ("labels",)  # type: ignore[operator]


def test_the_names_of_arrays_are_read_from_a_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", input_ids=np.zeros(2), y=np.zeros(2))
    assert array_names(tmp_path / "x.npz") == ("input_ids",)
    (tmp_path / "broken.npz").write_bytes(b"no archive")
    assert array_names(tmp_path / "broken.npz") == ()


def test_positional_arguments_reach_the_arguments_that_were_named() -> None:
    model, data = Encoder().eval(), sentences(3)
    expected = model(**data).last_hidden_state
    call_in_order(model, ("input_ids", "attention_mask"))
    torch.testing.assert_close(model(data["input_ids"], data["attention_mask"]).last_hidden_state, expected)
    torch.testing.assert_close(model(**data).last_hidden_state, expected)


def test_an_exported_program_returns_a_plain_dict(tmp_path: Path) -> None:
    model, data = Encoder().eval(), sentences(4)
    call_in_order(model, ("input_ids", "attention_mask"))
    inputs = (data["input_ids"], data["attention_mask"])
    assert save_pt2(model, inputs, tmp_path / "model.pt2") is None
    got = load_pt2(tmp_path / "model.pt2").module()(*(x[:3] for x in inputs))
    assert type(got) is dict
    torch.testing.assert_close(got["last_hidden_state"], model(*inputs).last_hidden_state[:3])
    assert type(model(*inputs)) is Output


def test_a_network_called_by_name_is_compressed_in_every_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compressor.candidate._TIMING_SECONDS", 0.01)
    torch.manual_seed(1)
    model, data = Encoder().eval(), sentences(60)
    result = compressor.compress(model, "svd", data=data, epochs=1, output=tmp_path / "out", time_limit=60)
    assert {row.name for row in result.report.layers if row.method} >= {"up", "down", "attention.q", "attention.out"}
    assert [check.file for check in result.report.verification] == [
        "model.safetensors", "model.pt2", "model.pt2 with model.safetensors", "model.onnx",
    ]  # fmt: skip
    loaded = compressor.load(tmp_path / "out", model=Encoder())
    torch.testing.assert_close(first_output(loaded(**data)), result.model(**data).last_hidden_state)
    assert load_model(model).input_names == ("input_ids",)
