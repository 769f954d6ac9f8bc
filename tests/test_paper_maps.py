"""The sources' 2-D maps, small: what must be true of them whatever was trained."""

from __future__ import annotations

import pytest
import torch
from classification import mirrored, outputs
from experiment import Runs
from kernel_map import DIGITS, bumps, constructed, mapping, network, places, read, travel, window
from kernel_pretrained import ORIGINAL, PUBLISHED, SEEDS, features, learn, lower, part, resnet
from kernel_pretrained import figures as pretrained_figures
from torch import nn


@pytest.fixture
def autoencoder() -> nn.Sequential:
    torch.manual_seed(0)
    return network(784, 7)


def test_a_gaussian_on_the_map_keeps_one_peak_about_its_centre(autoencoder: nn.Sequential) -> None:
    units = mapping(autoencoder).places()[1]
    centres = torch.tensor([[0.0, 0.0], [0.31, -0.4], [-1.0, 0.77]])
    found = bumps(autoencoder, centres, 5.0)
    torch.testing.assert_close(found.sum(1), torch.full((3,), 5.0))
    for activation, centre in zip(found, centres, strict=True):
        by_distance = activation[(units - centre).norm(dim=1).argsort()]
        assert (by_distance.diff() <= 1e-6).all()
        assert 0 < int((activation > 0).sum()) < len(units) / 2


def test_the_window_is_travelled_row_by_row_where_most_images_lie(autoencoder: nn.Sequential) -> None:
    x = torch.rand(60, 784)
    at, centres = places(autoencoder, x), window(autoencoder, x).view(DIGITS, DIGITS, 2)
    for axis in (0, 1):
        inside = (at[:, axis] >= centres[0, 0, axis]) & (at[:, axis] <= centres[-1, -1, axis])
        assert int(inside.sum()) == 48
    assert (centres[1:, :, 0] > centres[:-1, :, 0]).all()
    assert torch.equal(centres[1:, :, 1], centres[:-1, :, 1])
    digits = constructed(autoencoder, centres.flatten(0, 1), 5.0)
    assert digits.shape == (DIGITS**2, 784)
    assert 0 <= float(digits.min()) < float(digits.max()) <= 1


def test_what_is_not_certain_is_not_read() -> None:
    given = torch.zeros(3, 10)
    given[1, 4], given[2, 7] = 4.3, 4.5  # probabilities 0.891 and 0.909
    assert read(nn.Sequential(nn.Identity()), given).tolist() == [-1, -1, 7]


def test_change_is_that_of_neighbours(autoencoder: nn.Sequential) -> None:
    torch.manual_seed(1)
    known, unseen = torch.rand(50, 784), torch.rand(20, 784)
    labels = torch.zeros(50, dtype=torch.long)
    digits, found = travel(autoencoder, network(10, 7), (known, labels), (unseen, labels[:20]))
    pairs = [(i, i + 1) for i in range(DIGITS**2) if (i + 1) % DIGITS]
    pairs += [(i, i + DIGITS) for i in range(DIGITS**2 - DIGITS)]
    changes = torch.stack([(digits[a] - digits[b]).abs().mean() for a, b in pairs])
    assert found["change"] == pytest.approx(float(changes.mean()), rel=1e-4)
    at = places(autoencoder, unseen)
    nearest = [min((j for j in range(20) if j != i), key=lambda j: float((at[i] - at[j]).norm())) for i in range(20)]
    assert found["change_real"] == pytest.approx(float((unseen - unseen[nearest]).abs().mean()), rel=1e-4)


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_the_lower_part_is_the_networks_own_and_stays_as_it_is(stages: int) -> None:
    torch.manual_seed(0)
    model = resnet(4)
    x, labels = torch.randn(30, 3, 32, 32), torch.arange(30) % 10
    outputs(model.train(), x)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert any(name.endswith("running_mean") for name in before)
    model.train()
    known = features(model, stages, (x, labels))
    assert known[0].shape == (30, 4 * 8 * 8 if stages == 1 else 8 * 8 * 8 if stages == 2 else 16)
    learn(known, known, 0, 1)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    if stages == 3:  # all but the last layer
        torch.testing.assert_close(model[-1][-1](known[0]), outputs(model, x))


def test_the_map_is_compared_with_images_of_every_class_though_they_come_class_by_class() -> None:
    labels = torch.arange(2).repeat_interleave(5050)
    x = torch.randn(10_100, 3, generator=torch.Generator().manual_seed(0)) + 6 * (labels[:, None] - 0.5)
    _, found = learn((x, labels), (x[::100], labels[::100]), 0, 1)
    assert found["accuracy"] > 0.9
    assert found["nearest_agree"] > 0.9


def test_a_part_is_named_by_its_layers() -> None:
    model = resnet()

    def layers(module: nn.Module) -> int:
        past = sum(getattr(layer, "kernel_size", None) == (1, 1) for layer in module.modules())
        return sum(isinstance(layer, nn.Conv2d | nn.Linear) for layer in module.modules()) - past

    for stages in PUBLISHED:
        assert part(stages) == f"{layers(lower(model, stages))} of {layers(model)} layers"


def test_images_and_their_mirror_images_are_drawn() -> None:
    torch.manual_seed(0)
    x = torch.rand(40, 3, 5, 4)
    found = mirrored(x)
    kept = [torch.equal(a, b) for a, b in zip(found, x, strict=True)]
    turned = [torch.equal(a, b.flip(2)) for a, b in zip(found, x, strict=True)]
    assert all(a != b for a, b in zip(kept, turned, strict=True))
    assert 10 < sum(kept) < 30


@pytest.mark.parametrize(
    ("accuracies", "agree", "reached"),
    [
        ((0.71, 0.70, 0.60), (0.6, 0.5, 0.4), [None, True, True, True, True]),
        ((0.69, 0.68, 0.68), (0.6, 0.5, 0.4), [None, False, True, False, True]),
        ((0.71, 0.72, 0.60), (0.6, 0.5, 0.5), [None, True, False, True, False]),
    ],
)
def test_table_2_is_reached_by_what_is_said_of_it(
    accuracies: tuple[float, ...], agree: tuple[float, ...], reached: list[bool | None]
) -> None:
    runs = Runs(found={ORIGINAL: {"accuracy": 0.70, "train_accuracy": 0.75}})
    assert [row.ours for row in pretrained_figures(runs.found)][1:] == [None] * 4
    for stages, accuracy, share in zip(PUBLISHED, accuracies, agree, strict=True):
        for seed in SEEDS:
            runs.found[f"{part(stages)}, seed {seed}"] = {"accuracy": accuracy, "nearest_agree": share}
    assert [row.reached for row in pretrained_figures(runs.found)] == reached
