"""The experiments on ratings, small: sparse products, what is trained on and scored, what the tool makes of them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import movielens
import numpy as np
import pytest
import torch
from movielens import Setting, fit
from movielens_past import SETTINGS, compressed, macs
from ratings import (
    Pattern,
    Ratings,
    autoencoder,
    movielens_100k,
    movielens_100k_fold,
    penalised,
    predict,
    rmse,
    weight_of,
)
from torch import nn


def some_ratings() -> Ratings:
    """17 films by 23 users, 90 ratings, one film and one user without any."""
    generator = np.random.default_rng(0)
    cells = generator.permutation(16 * 22)[:90]
    values = generator.integers(1, 6, 90).astype(np.float32)
    return Ratings(cells // 22, cells % 22, values, (17, 23))


@pytest.mark.parametrize("model", ["autorec", "kernelnet", "sparse_fc"])
@pytest.mark.parametrize("hidden", [1, 2])
def test_sparse_products_give_what_dense_ones_do_and_their_gradients(model: str, hidden: int) -> None:
    ratings = some_ratings()
    torch.manual_seed(0)
    layers = autoencoder(model, hidden, 23, seed=1)
    pattern = Pattern(ratings)
    r = torch.zeros(ratings.shape)
    r[ratings.films, ratings.users] = torch.from_numpy(ratings.values)
    known = r > 0

    def dense_loss() -> torch.Tensor:
        h = r
        for layer in layers[:-1]:
            h = (h @ weight_of(layer).T + layer.bias).sigmoid()
        y = h @ weight_of(layers[-1]).T + layers[-1].bias
        return ((y - r).square() * known).sum() / 2 + sum(map(penalty, layers))

    def penalty(layer: nn.Module) -> torch.Tensor:
        if model != "sparse_fc":
            return weight_of(layer).square().sum()
        return layer.factors.square().sum() + 0.15 * layer.kernel().square().sum()

    found = (predict(layers, pattern, pattern) - pattern.values).square().sum() / 2
    found = found + sum(penalised(layer, 2.0, 0.3)[1] for layer in layers)
    torch.testing.assert_close(found, dense_loss(), rtol=1e-5, atol=0)
    parameters = list(layers.parameters())
    for own, other in zip(
        torch.autograd.grad(found, parameters), torch.autograd.grad(dense_loss(), parameters), strict=True
    ):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-4)


def test_no_rating_is_both_trained_on_and_scored(data_folder: Path) -> None:
    whole = movielens_100k()
    train, test = whole.split(0.2, seed=4)
    assert (len(train.values), len(test.values)) == (80_000, 20_000)
    cells = [set(zip(part.films, part.users, strict=True)) for part in (train, test, *movielens_100k_fold(3))]
    assert not cells[0] & cells[1]
    assert not cells[2] & cells[3]
    assert len(cells[0] | cells[1]) == len(cells[2] | cells[3]) == 100_000


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["lbfgs", "rprop"])
def test_sparse_fc_learns_ratings_and_goes_on_where_it_was(
    optimizer: Literal["lbfgs", "rprop"], data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, test = movielens_100k().split(0.2, seed=0)
    setting = Setting("100k", "sparse_fc", 1, 20.0, 2, optimizer)
    whole = fit(setting, train, test, 0, tmp_path / "other.pt")
    rounds: list[float] = []

    class StopError(Exception):
        pass

    def once(*given: Any) -> float:
        rounds.append(rmse(*given))
        if len(rounds) == 3:  # the first of the second round
            raise StopError
        return rounds[-1]

    state = tmp_path / "state.pt"
    monkeypatch.setattr(movielens, "rmse", once)
    with pytest.raises(StopError):
        fit(setting, train, test, 0, state)
    monkeypatch.undo()
    assert state.exists()
    done = fit(setting, train, test, 0, state)
    assert len(done["curve"]) == 2
    assert not state.exists()
    assert done["rmse"] == pytest.approx(whole["rmse"], abs=1e-4)
    spread = float(np.std(test.values))
    assert done["rmse"] < 0.95 * spread  # the mean of all ratings is off by the spread
    assert done["train_rmse"] < done["rmse"]


def test_the_networks_see_only_what_they_are_given(data_folder: Path) -> None:
    """A film's prediction does not move with ratings that are only scored."""
    ratings = some_ratings()
    train, test = ratings.split(0.3, seed=0)
    layers = autoencoder("autorec", 1, 23)
    given = Pattern(train)
    before = predict(layers, given, Pattern(test))
    other = Ratings(test.films, test.users, 6 - test.values, test.shape)
    torch.testing.assert_close(predict(layers, given, Pattern(other)), before)


@pytest.mark.parametrize("model", ["autorec", "sparse_fc"])
def test_the_tool_keeps_of_a_trained_autoencoder_what_it_is_asked_for(model: str) -> None:
    ratings = some_ratings()
    torch.manual_seed(0)
    layers = autoencoder(model, 1, 23, seed=1)
    pattern = Pattern(ratings)
    whole = predict(layers, pattern, pattern)
    smaller = compressed(layers, "pruned", ratings)
    kept = [int((weight_of(layer) != 0).sum()) for layer in smaller]
    assert kept == [round(SETTINGS["pruned"]["density"] * weight_of(layer).numel()) for layer in layers]
    assert macs(smaller) == round(10 * kept[0] / 23) + kept[1]
    near = predict(smaller, pattern, pattern)
    assert float((near - whole).norm() / whole.norm()) < 0.7
    near.sum().backward()  # what is left can be trained on
    assert all(p.grad is not None and math.isfinite(float(p.grad.sum())) for p in smaller.parameters())


def test_the_tool_makes_every_layer_of_a_trained_autoencoder_two_factors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SETTINGS["svd"], "rank", 4)
    ratings = some_ratings()
    smaller = compressed(autoencoder("autorec", 1, 23), "svd", ratings)
    assert [weight_of(layer).shape for layer in smaller] == [(500, 23), (23, 500)]
    numbers = sum(p.numel() for p in smaller.parameters())
    assert numbers == 4 * (523 + 523) + 500 + 23
    predict(smaller, Pattern(ratings), Pattern(ratings)).sum().backward()
    assert all(p.grad is not None for p in smaller.parameters())
