"""Mollifying: the activation and the skip at both ends of the level, and the schedule between."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from compressor.errors import CompressorError
from compressor.train import Mollification, Mollified, Skipped

X = torch.linspace(-5, 5, 137)
SETTLED = {"sigmoid": lambda x: x.sigmoid() - 0.5, "tanh": torch.tanh, "relu": torch.relu}
SLOPE = {"sigmoid": 0.25, "tanh": 1.0, "relu": 1.0}


@pytest.mark.parametrize("function", list(SETTLED))
def test_the_activation_is_itself_at_0_and_a_line_under_much_noise(function: str) -> None:
    activation = Mollified(function, c=1e12)
    activation.p = 0.0
    torch.testing.assert_close(activation(X), SETTLED[function](X))
    activation.p = 1.0
    torch.testing.assert_close(activation.eval()(X), SLOPE[function] * X, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("function", list(SETTLED))
def test_under_some_noise_it_lies_between_the_two(function: str) -> None:
    torch.manual_seed(0)
    activation = Mollified(function, c=100.0)
    with torch.no_grad():
        activation.a.fill_(2.0)
    activation.p = 0.5
    y, f, u = activation(X), SETTLED[function](X), SLOPE[function] * X
    low, high = torch.minimum(f, u) - 1e-6, torch.maximum(f, u) + 1e-6
    assert ((y >= low) & (y <= high)).all()
    assert bool((y - f).abs().max() > 1e-3)
    assert bool((y - u).abs().max() > 1e-3)


@pytest.mark.parametrize("width", [3, 5, 8])
def test_as_many_units_are_skipped_as_the_level_says(width: int) -> None:
    torch.manual_seed(0)
    layer = Skipped(nn.Linear(5, width))
    x = torch.randn(4000, 5)
    own, passed = layer.layer(x), nn.functional.pad(x, (0, width - 5))
    layer.p = 0.3
    y = layer(x)
    skipped = y == passed
    assert bool((skipped | (y == own)).all())
    assert float(skipped.float().mean()) == pytest.approx(0.3, abs=0.02)
    assert len(skipped.float().mean(1).unique()) > 2  # each unit for itself
    torch.testing.assert_close(layer.eval()(x), 0.3 * passed + 0.7 * own)
    layer.p = 0.0
    torch.testing.assert_close(layer.train()(x), own)


def test_the_levels_follow_the_loss_and_lower_layers_settle_first() -> None:
    model = nn.Sequential(*[Skipped(nn.Sequential(nn.Linear(4, 4), Mollified())) for _ in range(3)])
    schedule = Mollification(model, k=10.0, memory=0.5)
    assert schedule.levels == [1, 1, 1]
    schedule.step(2.0)
    schedule.step(1.0)  # v = 1.5, t = 2
    assert schedule.levels == pytest.approx([1 - math.exp(-10 * 1.5 * layer / (2 * 3)) for layer in (1, 2, 3)])
    assert model[2].layer[1].p == schedule.levels[2]
    high = schedule.levels
    for _ in range(4):
        schedule.step(0.3)
    assert all(now < before for now, before in zip(schedule.levels, high, strict=True))
    assert not schedule.is_settled
    for _ in range(400):
        schedule.step(0.001)
    assert schedule.is_settled
    assert schedule.levels == [0, 0, 0]
    schedule.step(100.0)
    assert schedule.levels == [0, 0, 0]


def test_bad_requests_are_refused() -> None:
    with pytest.raises(CompressorError, match="no layer to mollify"):
        Mollification(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(CompressorError, match="did you mean 'sigmoid'"):
        Mollified("sigmoids")
    with pytest.raises(ValueError, match="k must not"):
        Mollification(nn.Sequential(Skipped(nn.Linear(2, 2))), k=-1)
