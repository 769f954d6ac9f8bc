"""Schedules are kept and taken up again: half of a training, saved and loaded, goes on to the end of the whole one."""

from __future__ import annotations

import copy
import doctest
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import compressor.train
from compressor.train import Annealing, GradientNoise, Mollification, Mollified, Skipped, noisy_
from compressor.train.progressive import Shares
from compressor.train.schedule import Schedule

KINDS = ["annealing", "mollification", "mollification that settles", "gradient noise"]


class Run:
    """A training as a user writes it: a network, an optimiser and one schedule; ``settings`` are the schedule's."""

    def __init__(self, kind: str, **settings: float) -> None:
        blocks = [nn.Sequential(nn.Linear(4, 4), Mollified("tanh", c=3.0)) for _ in range(2)]
        if kind.startswith("mollification"):
            self.model = nn.Sequential(*map(Skipped, blocks), nn.Linear(4, 1))
        else:
            self.model = noisy_(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1), nn.Sigmoid()), "nah")
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.05)
        self.schedule: Schedule
        if kind == "annealing":
            self.schedule = Annealing(self.model, **settings)
        elif kind == "gradient noise":
            self.schedule = GradientNoise(self.model.parameters(), **settings)
        else:
            self.schedule = Mollification(self.model, **settings)

    def train(self, steps: int) -> list[Tensor]:
        losses = []
        for _ in range(steps):
            x = torch.randn(9, 4)
            loss = (self.model(x) - x.mean(1, keepdim=True)).square().mean()
            self.optimizer.zero_grad()
            loss.backward()
            if isinstance(self.schedule, GradientNoise):
                self.schedule.add_()
            self.optimizer.step()
            if isinstance(self.schedule, Annealing):
                self.schedule.step()
            if isinstance(self.schedule, Mollification):
                self.schedule.step(loss)
            losses.append(loss.detach())
        return losses

    def parts(self) -> list[Schedule | nn.Module | torch.optim.Optimizer]:
        return [self.model, self.optimizer, self.schedule]


SETTINGS: dict[str, dict[str, float]] = {
    "annealing": {"start": 9.0, "end": 1.5, "every": 2},
    "mollification": {"k": 3.0, "memory": 0.7},
    "mollification that settles": {"k": 3.0, "threshold": 2.0},
    "gradient noise": {"eta": 0.3, "gamma": 1.0},
}


@pytest.mark.parametrize("kind", KINDS)
def test_half_of_a_training_that_is_saved_and_loaded_goes_on_to_the_same_end(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = Run(kind, **SETTINGS[kind])
    expected = whole.train(10)
    torch.manual_seed(0)
    half = Run(kind, **SETTINGS[kind])
    losses = half.train(5)
    torch.save([*(part.state_dict() for part in half.parts()), torch.get_rng_state()], tmp_path / "state")
    torch.manual_seed(7)
    rest = Run(kind)  # other weights and other settings: what was kept counts
    *states, random = torch.load(tmp_path / "state", weights_only=True)
    for part, state in zip(rest.parts(), states, strict=True):
        part.load_state_dict(state)
    torch.set_rng_state(random)
    losses += rest.train(5)
    assert torch.equal(torch.stack(losses), torch.stack(expected))
    assert rest.schedule.state_dict() == whole.schedule.state_dict()
    for one, other in zip(rest.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(one, other)
    if isinstance(rest.schedule, Mollification):
        assert rest.schedule.is_settled == ("settles" in kind)
        assert rest.schedule.levels == whole.schedule.levels  # type: ignore[attr-defined]


def test_a_copy_of_network_and_schedule_goes_on_by_itself() -> None:
    torch.manual_seed(0)
    run = Run("mollification", k=3.0)
    other = copy.deepcopy(run)
    other.train(3)
    assert run.schedule.levels == [1, 1]  # type: ignore[attr-defined]
    assert run.model[0].p == 1
    assert other.model[0].p == other.schedule.levels[0] < 1  # type: ignore[attr-defined]


def test_the_shares_of_progressive_replacement_are_kept_too() -> None:
    whole, half, rest = Shares("mollify", 3), Shares("mollify", 3), Shares("mollify", 3)
    for shares, losses in ((whole, [2.0, 1.0, 0.4]), (half, [2.0, 1.0])):
        for loss in losses:
            shares.see(loss)
    rest.load_state_dict(half.state_dict())
    rest.see(0.4)
    assert rest.at(0.3) == whole.at(0.3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_that_is_none_of_the_schedule_is_refused_and_changes_nothing(kind: str) -> None:
    run = Run(kind)
    before = run.schedule.state_dict()
    other = Run("gradient noise" if kind != "gradient noise" else "annealing").schedule.state_dict()
    for wrong in (other, {}, {**before, "last_epoch": 3}, dict(list(before.items())[1:])):
        with pytest.raises(ValueError, match=r"is kept as .*; give what its state_dict\(\) gave"):
            run.schedule.load_state_dict(wrong)
    assert run.schedule.state_dict() == before


def test_the_example_of_the_package_runs() -> None:
    assert doctest.testmod(compressor.train, raise_on_error=True).attempted > 5
