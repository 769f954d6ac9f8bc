"""Weights that several modules share stay shared, or stay dense with the reason."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

import compressor
from compressor.case import open_case
from compressor.layers import replace
from compressor.measure import count_params
from compressor.pipeline import make_recipe
from compressor_converters import manifest, safetensors_file
from compressor_converters.opening import find_openable
from compressor_converters.opening.tied import find_tied, merge


class Tied(nn.Module):
    """Two pairs of maps with one weight each, a head tied to the embedding, a map with a bias of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(40, 12), nn.Linear(12, 40, bias=False)
        self.up, self.up_again = nn.Linear(12, 12), nn.Linear(12, 12)
        self.mine, self.yours = nn.Linear(12, 12), nn.Linear(12, 12)
        self.head.weight = self.embedding.weight
        self.up_again.weight, self.up_again.bias = self.up.weight, self.up.bias
        self.yours.weight = self.mine.weight

    def forward(self, x: Tensor) -> Tensor:
        h = self.up_again(torch.tanh(self.up(self.embedding(x))))
        y: Tensor = self.head(self.yours(torch.tanh(self.mine(h))))
        return y


def test_two_maps_with_one_weight_and_bias_become_one_site_and_others_stay_dense() -> None:
    torch.manual_seed(0)
    model = Tied().eval()
    case = open_case(make_recipe(method="svd"), model=model, data=torch.randint(40, (20, 3)))
    assert list(case.sites) == ["up", "mine", "yours", "head"]
    assert (case.sites["up"].calls, case.sites["up"].rows) == (2, 6)
    reasons = {entry.name: entry.kept_because for entry in case.plan("svd", {}).entries}
    assert reasons.pop("up") is None
    assert {name: reason and reason.split("'")[1] for name, reason in reasons.items()} == {
        "mine": "yours", "yours": "mine", "head": "embedding",
    }  # fmt: skip
    assert case.model.up is not case.model.up_again


def test_a_block_in_two_places_is_stored_once_and_comes_back_in_both(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Tied().eval(), torch.randint(40, (5, 3))
    merge(model, find_tied(model))
    before = count_params(model)
    replace(model, "up", compressor.layers.SVD(12, 12, rank=2))
    assert model.up_again is model.up
    assert count_params(model) == before - 156 + 60
    safetensors_file.save(model, manifest.describe(model), tmp_path / "model.safetensors")
    loaded = safetensors_file.load_into(Tied().eval(), tmp_path / "model.safetensors")
    assert loaded.up_again is loaded.up
    assert loaded(x).equal(model(x))


def test_a_module_with_a_parameter_that_another_holds_too_is_not_opened() -> None:
    model = nn.Sequential(nn.GRU(3, 3), nn.GRU(3, 3), nn.GRU(3, 3))
    model[1].weight_hh_l0 = model[0].weight_hh_l0
    assert find_openable(model) == {"2": "recurrent"}
