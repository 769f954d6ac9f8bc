"""Opened recurrent networks and attention compute what those of torch do, with every option."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import compressor
from compressor.case import open_case
from compressor.layers import replace
from compressor.pipeline import make_recipe
from compressor.prefix import rows_at
from compressor.sites import find_sites
from compressor_converters import manifest, safetensors_file
from compressor_converters.opening import close_model, open_model


def opened(module: nn.Module) -> nn.Module:
    model = nn.Sequential(copy.deepcopy(module))
    assert open_model(model)
    return model[0]


RECURRENT: list[tuple[type[nn.RNNBase], dict[str, Any]]] = [
    (nn.LSTM, {}),
    (nn.LSTM, {"num_layers": 3, "bidirectional": True, "bias": False}),
    (nn.LSTM, {"num_layers": 2, "batch_first": True, "bidirectional": True, "proj_size": 3}),
    (nn.GRU, {"num_layers": 2, "bidirectional": True}),
    (nn.GRU, {"batch_first": True, "bias": False}),
    (nn.RNN, {"num_layers": 2}),
    (nn.RNN, {"nonlinearity": "relu", "batch_first": True, "bidirectional": True}),
]


@pytest.mark.parametrize(("kind", "options"), RECURRENT, ids=lambda v: v.__name__ if isinstance(v, type) else str(v))
@pytest.mark.parametrize("shape", [(6, 5), (1, 1), (7,)], ids=str)
def test_an_opened_recurrent_network_computes_what_the_fused_one_does(
    kind: type[nn.RNNBase], options: dict[str, Any], shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    module = kind(7, 5, **options)
    ours = opened(module)
    x = torch.randn(*shape, 7)
    result = module(x)
    torch.testing.assert_close(ours(x), result)
    states = tuple(torch.randn_like(s) for s in (result[1] if kind is nn.LSTM else (result[1],)))
    given = states if kind is nn.LSTM else states[0]
    torch.testing.assert_close(ours(x, given), module(x, given))


def test_a_packed_sequence_and_a_state_of_another_shape_are_refused() -> None:
    ours = opened(nn.GRU(3, 4))
    with pytest.raises(ValueError, match="packed"):
        ours(nn.utils.rnn.pack_sequence([torch.zeros(3, 3), torch.zeros(2, 3)]))
    with pytest.raises(ValueError, match=r"\(1, 1, 4\), not \(1, 2, 4\)"):
        ours(torch.zeros(5, 2, 3), torch.zeros(1, 1, 4))


def test_dropout_stands_between_the_layers_of_an_opened_network_in_training_only() -> None:
    module = nn.LSTM(3, 4, num_layers=2, dropout=1.0)
    ours, x = opened(module), torch.randn(5, 2, 3)
    torch.testing.assert_close(ours.train()(x), module.train()(x))
    torch.testing.assert_close(ours.eval()(x), module.eval()(x))


def test_the_recurrent_map_is_a_site_that_is_called_at_every_step() -> None:
    model = nn.Sequential(nn.LSTM(7, 5, num_layers=2, bidirectional=True, batch_first=True))
    open_model(model)
    sites = {site.name: site for site in find_sites(model, (torch.zeros(3, 11, 7),))}
    assert sorted(sites) == [
        f"0.{side}_l{layer}{end}" for side in ("hh", "ih") for layer in (0, 1) for end in ("", "_reverse")
    ]
    assert (sites["0.ih_l0"].calls, sites["0.ih_l0"].rows, sites["0.ih_l1"].in_features) == (1, 11, 10)
    assert (sites["0.hh_l1"].calls, sites["0.hh_l1"].rows) == (11, 11)


def test_rows_of_a_recurrent_map_are_the_states_of_all_steps() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.RNN(3, 4, batch_first=True))
    states, _ = model(x := torch.randn(2, 6, 3))
    open_model(model)
    rows = rows_at(model, "0.hh_l0", (x,), every=True)
    expected = torch.cat([torch.zeros(2, 1, 4), states[:, :-1]], 1).transpose(0, 1).reshape(-1, 4)
    torch.testing.assert_close(rows, expected)
    assert rows_at(model, "0.hh_l0", (x,), output=True, every=True).shape == (12, 4)


ATTENTION: list[dict[str, Any]] = [
    {},
    {"batch_first": True, "bias": False},
    {"kdim": 5, "vdim": 3, "batch_first": True},
    {"kdim": 5, "vdim": 3, "bias": False, "add_zero_attn": True},
    {"add_bias_kv": True, "add_zero_attn": True},
    {"add_bias_kv": True, "batch_first": True},
]


def masks(queries: int, keys: int, batch: int, heads: int) -> list[dict[str, Any]]:
    """Every kind of mask; no query is left without a key."""
    padding = torch.zeros(batch, keys, dtype=torch.bool)
    padding[:1, -1] = True
    causal = torch.ones(queries, keys).triu(1).bool()
    each = torch.randn(batch * heads, queries, keys)
    return [
        {},
        {"key_padding_mask": padding},
        {"attn_mask": causal},
        {"attn_mask": torch.randn(queries, keys), "key_padding_mask": torch.randn(batch, keys)},
        {"attn_mask": each, "average_attn_weights": False},
        {"attn_mask": causal, "is_causal": True, "need_weights": False},
        {"attn_mask": causal, "key_padding_mask": padding, "is_causal": True, "need_weights": False},
        {"attn_mask": each, "key_padding_mask": torch.randn(batch, keys), "need_weights": False},
    ]


@pytest.mark.parametrize("options", ATTENTION, ids=str)
def test_opened_attention_computes_what_the_packed_one_does(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    module = nn.MultiheadAttention(6, 2, **options)
    for name, parameter in module.named_parameters():
        if "bias" in name:
            nn.init.normal_(parameter)
    ours = opened(module)
    for queries, keys, batch in ((5, 5, 3), (4, 7, 1), (3, 2, 0)):
        q, k, v = (
            torch.randn(batch, queries, 6),
            torch.randn(batch, keys, module.kdim),
            torch.randn(batch, keys, module.vdim),
        )
        for mask in masks(queries, keys, batch, 2) if batch else [{}]:
            inputs = (q, k, v) if module.batch_first else tuple(x.transpose(0, 1) for x in (q, k, v))
            torch.testing.assert_close(ours(*inputs, **mask), module(*inputs, **mask))
            if batch == 1:
                alone = {key: m[0] if key == "key_padding_mask" else m for key, m in mask.items()}
                inputs = (q[0], k[0], v[0])
                torch.testing.assert_close(ours(*inputs, **alone), module(*inputs, **alone))


def test_opened_attention_drops_weights_in_training_as_the_packed_one_does() -> None:
    torch.manual_seed(0)
    module, x = nn.MultiheadAttention(6, 2, dropout=0.5), torch.randn(5, 3, 6)
    ours = opened(module)
    torch.manual_seed(1)
    expected = module(x, x, x)
    torch.manual_seed(1)
    torch.testing.assert_close(ours(x, x, x), expected)
    torch.testing.assert_close(ours.eval()(x, x, x), module.eval()(x, x, x))


@pytest.mark.parametrize("inner", ["layers.1.linear1", "layers.1.self_attn.v"])
def test_a_transformer_of_torch_runs_with_a_structured_layer_inside(inner: str) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    original = nn.TransformerEncoder(layer, 3).eval()
    x, padding = torch.randn(3, 5, 8), torch.zeros(3, 5, dtype=torch.bool)
    padding[1, 3:] = True
    model = copy.deepcopy(original)
    open_model(model)
    assert "layers.0.self_attn.q" in {site.name for site in find_sites(model, (x,))}
    with torch.no_grad():
        expected = original(x, src_key_padding_mask=padding)[~padding]
        torch.testing.assert_close(model(x, src_key_padding_mask=padding)[~padding], expected)
        dense = model.get_submodule(inner)
        replace(model, inner, compressor.layers.SVD.from_dense(
            dense.weight, dense.bias, compressor.layers.SVD.Config(rank=8), compressor.layers.Metric.identity(8)
        ))  # fmt: skip
        close_model(model, original)
        assert type(model.layers[0].self_attn) is nn.MultiheadAttention
        assert model.layers[0].activation_relu_or_gelu
        torch.testing.assert_close(model(x, src_key_padding_mask=padding)[~padding], expected)


def test_an_encoder_and_decoder_are_opened_as_one() -> None:
    torch.manual_seed(0)
    original = nn.Transformer(8, 2, 1, 2, 16, batch_first=True).eval()
    model = copy.deepcopy(original)
    assert len(open_model(model)) == 5
    source, target = torch.randn(2, 5, 8), torch.randn(2, 3, 8)
    mask = nn.Transformer.generate_square_subsequent_mask(3)
    torch.testing.assert_close(model(source, target, tgt_mask=mask), original(source, target, tgt_mask=mask))


@pytest.mark.parametrize(
    "module",
    [
        nn.LSTM(3, 4, 2, bidirectional=True, proj_size=2), nn.GRU(3, 4), nn.MultiheadAttention(4, 2),
        nn.MultiheadAttention(6, 2, kdim=3, add_bias_kv=True),
    ],
    ids=lambda module: type(module).__name__,
)  # fmt: skip
def test_a_closed_module_holds_what_was_trained_while_it_was_open(module: nn.Module) -> None:
    torch.manual_seed(0)
    original = nn.Sequential(module)
    model = copy.deepcopy(original)
    open_model(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    trained = copy.deepcopy(model)
    close_model(model, original)
    assert type(model[0]) is type(module)
    again = copy.deepcopy(model)
    open_model(again)
    for (name, parameter), (_, other) in zip(again.named_parameters(), trained.named_parameters(), strict=True):
        assert parameter.equal(other), name


def test_opened_modules_come_back_from_a_file(tmp_path: Path) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.attention = nn.LSTM(3, 8, batch_first=True), nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            y, _ = self.lstm(x)
            z: Tensor = self.attention(y, y, y)[0]
            return z

    torch.manual_seed(0)
    model = Net().eval()
    open_model(model)
    replace(model, "lstm.hh_l0", compressor.layers.SVD(8, 32, rank=2))
    replace(model, "attention.k", compressor.layers.SVD(8, 8, rank=2))
    described = manifest.describe(model)
    assert described.opened == {"lstm": "recurrent", "attention": "attention"}
    safetensors_file.save(model, described, tmp_path / "model.safetensors")
    loaded = safetensors_file.load_into(Net().eval(), tmp_path / "model.safetensors")
    x = torch.randn(2, 5, 3)
    torch.testing.assert_close(loaded(x), model(x))


class RowReader(nn.Module):
    """The last state of an LSTM decides."""

    def __init__(self, packed: bool = False) -> None:
        super().__init__()
        self.lstm, self.out, self.packed = nn.LSTM(12, 16, batch_first=True), nn.Linear(16, 5), packed

    def forward(self, x: Tensor) -> Tensor:
        rows: Any = x
        if self.packed:
            rows = nn.utils.rnn.pack_padded_sequence(x, torch.full((len(x),), x.shape[1]), batch_first=True)
        y: Tensor = self.out(self.lstm(rows)[1][0][0])
        return y


@pytest.mark.parametrize(
    ("method", "settings"), [("svd", {"rank": 3}), pytest.param("acdc", {"depth": 1}, marks=pytest.mark.slow)]
)
def test_an_lstm_is_compressed_written_in_every_format_and_loaded(
    method: str, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compressor.candidate._TIMING_SECONDS", 0.01)
    torch.manual_seed(0)
    model, x = RowReader().eval(), torch.randn(60, 4, 12)
    result = compressor.compress(
        model, method, data=x, settings=settings, target=["lstm"], epochs=1, output=tmp_path / "out"
    )
    rows = {row.name: row for row in result.report.layers}
    assert (rows["lstm.ih_l0"].method, rows["lstm.hh_l0"].method, rows["out"].method) == (method, method, None)
    assert (rows["lstm.hh_l0"].calls, rows["lstm.hh_l0"].macs_before) == (4, 4 * 16 * 64)
    assert result.report.before.macs == 4 * 64 * (12 + 16) + 80
    assert {check.file for check in result.report.verification} >= {"model.onnx", "model.pt2", "model.safetensors"}
    loaded = compressor.load(tmp_path / "out", model=RowReader())
    longer = torch.randn(3, 9, 12)
    torch.testing.assert_close(loaded(longer), result.model(longer))


def test_a_network_that_is_given_packed_sequences_is_left_as_it_is_and_the_notes_say_so() -> None:
    case = open_case(make_recipe(method="svd"), model=RowReader(packed=True), data=torch.randn(20, 4, 12))
    assert list(case.sites) == ["out"]
    assert "lstm: left as it is, since it is given packed sequences" in case.notes


def test_the_name_of_an_opened_module_stands_for_all_its_maps() -> None:
    x = torch.randn(20, 3, 12)
    for options, reason in (({"target": ("lstm",)}, None), ({"ignore": ("lstm",)}, "ignored by name")):
        case = open_case(make_recipe(method="svd", **options), model=RowReader(), data=x)
        *inside, outside = (entry.kept_because for entry in case.plan("svd", {"rank": 1}).entries)
        assert inside == [reason, reason]
        assert outside not in (None, reason)
