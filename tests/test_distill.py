"""Distilling the whole network: what is trained on, how layers fade, when it ends, how it is taken up."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from fitting import distilled, fitted, off
from torch import Tensor, nn

from compressor import compress
from compressor.checkpoint import checkpoint_of
from compressor.data import Batch, Dataset, as_dataset
from compressor.distill import Distillation, Distilled, distill
from compressor.errors import CompressorError
from compressor.fit import put
from compressor.layers import method
from compressor.pipeline import make_recipe
from compressor.plan import make_plan
from compressor.progress import Limit, Stage, silent
from compressor.sites import find_sites
from compressor.train.noise import Disturbed, NoisyActivation
from compressor.train.progressive import Fading, Shares
from compressor.training import Training, varied


@pytest.fixture
def saturating() -> nn.Sequential:
    """A network with one activation in two places, which saturates."""
    torch.manual_seed(0)
    squash = nn.Tanh()
    return nn.Sequential(nn.Linear(20, 31), squash, nn.Linear(31, 29), squash, nn.Linear(29, 17)).eval()


def test_distilling_brings_the_student_nearer_on_rows_it_has_not_seen(teacher: nn.Module, inputs: Tensor) -> None:
    start, _ = fitted(teacher, inputs, {"rank": 3})
    student, losses = distilled(teacher, inputs, epochs=15)
    torch.manual_seed(2)
    unseen = torch.randn(300, 20) @ torch.diag(torch.linspace(2, 0.05, 20)) + 0.5
    assert off(student, teacher, unseen) < 0.97 * off(start, teacher, unseen)
    assert min(losses) < losses[0]


def test_the_epoch_with_the_best_held_back_loss_stays(teacher: nn.Module, inputs: Tensor) -> None:
    start, _ = fitted(teacher, inputs, {"rank": 3})
    student, losses = distilled(teacher, inputs, epochs=2, rate=30.0, fade=0.0)
    assert min(losses) == losses[0]
    assert off(student, teacher, inputs) == pytest.approx(off(start, teacher, inputs))


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"noise": "nah", "noise_c_start": 5.0, "noise_alpha": 0.8},
        {"progressive": "mollify", "fade": 1.0},
        {"gradient_noise": 0.3},
    ],
    ids=str,
)
def test_a_run_that_was_cut_off_goes_on_to_the_same_end(
    saturating: nn.Module, inputs: Tensor, tmp_path: Path, how: dict[str, object]
) -> None:
    whole, losses = distilled(saturating, inputs, epochs=4, **how)

    class Cut(Exception):  # noqa: N818
        pass

    class CutLimit(Limit):
        calls = 0

        @property
        def reason(self) -> str | None:
            CutLimit.calls += 1
            if CutLimit.calls > 30:
                raise Cut
            return None

    file = tmp_path / "checkpoint"
    with pytest.raises(Cut):
        distilled(saturating, inputs, epochs=4, checkpoint=file, limit=CutLimit(), **how)
    assert file.exists()
    resumed, again = distilled(saturating, inputs, epochs=4, checkpoint=file, **how)
    assert again == losses
    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name


def test_the_held_back_part_is_taken_from_the_training_data_and_never_trained_on(
    teacher: nn.Module, inputs: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[Tensor] = []
    sites = find_sites(teacher, (torch.zeros(2, 20),))
    plan = make_plan(sites, None, "svd", {"rank": 3}, target=("0", "2", "4"))
    student, _ = fitted(teacher, inputs, {"rank": 3})
    data = as_dataset(inputs, ("x",))
    kind = type(data)
    inner = kind.batches

    def watched(self: Dataset, batch_size: int, *, seed: int | None = None) -> Iterator[object]:
        for batch in inner(self, batch_size, seed=seed):  # type: ignore[arg-type]
            if seed is not None:
                trained.append(batch.inputs[0])
            yield batch

    monkeypatch.setattr(kind, "batches", watched)
    distill(
        student, teacher, plan.replaced, data, Training(epochs=2, held_back=0.2), seed=7, limit=Limit(),
        progress=silent,
    )  # fmt: skip
    seen = {tuple(row.tolist()) for row in torch.cat(trained)}
    assert len(seen) == 560


def test_images_move_by_so_many_pixels_at_most_and_labels_stay() -> None:
    torch.manual_seed(0)
    image = torch.zeros(200, 2, 9, 7)
    image[:, :, 4, 3] = torch.arange(1.0, 201)[:, None]
    moved = varied(Batch((image,), torch.arange(200)), Training(shift=2, blend=0))
    assert torch.equal(moved.labels, torch.arange(200))
    places = [
        tuple((channel == number + 1).nonzero()[0].tolist())
        for number, row in enumerate(moved.inputs[0])
        for channel in row
    ]
    assert places[::2] == places[1::2]  # channels move together
    assert {y for y, _ in places} == {2, 3, 4, 5, 6}
    assert {x for _, x in places} == {1, 2, 3, 4, 5}
    flat = Batch((torch.ones(3, 4),), None)
    assert varied(flat, Training(shift=2, blend=0)).inputs[0] is flat.inputs[0]


@pytest.mark.parametrize("optimizer", ["lbfgs", "rprop"])
def test_full_batch_optimisers_take_all_examples_at_every_step_and_learn(optimizer: str) -> None:
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 2)).eval()
    student = copy.deepcopy(teacher)
    put(
        student,
        (entry := make_plan(find_sites(teacher, None), None, "svd", {"rank": 2}, target=("0",)).replaced[0]),
        method("svd").layer(6, 9, rank=2),
    )
    sizes: list[int] = []
    student.register_forward_pre_hook(lambda _module, inputs: sizes.append(len(inputs[0])))
    how = Training(epochs=20, optimizer=optimizer, blend=0, fade=0, held_back=0.2)
    result = distill(
        student, teacher, [entry], as_dataset(torch.randn(100, 6), ("x",)), how, seed=0, limit=Limit(), progress=silent
    )
    assert set(sizes) == {80, 20}
    assert min(result.losses) < 0.7 * result.losses[0]
    assert (len(sizes) > 100) == (optimizer == "lbfgs")


@pytest.mark.parametrize("way", ["linear", "mollify", "cosine", "theseus"])
def test_every_way_of_fading_ends_with_the_student_alone_and_nearer(
    way: str, teacher: nn.Module, inputs: Tensor
) -> None:
    start, _ = fitted(teacher, inputs, {"rank": 3})
    student, losses = distilled(teacher, inputs, epochs=8, fade=0.5, progressive=way)
    assert not [module for module in student.modules() if isinstance(module, Fading)]
    assert min(losses) < losses[0]
    assert off(student, teacher, inputs) < off(start, teacher, inputs)


@pytest.mark.parametrize("way", ["linear", "mollify", "cosine", "theseus"])
def test_a_fading_block_goes_from_the_original_to_its_own(way: str) -> None:
    torch.manual_seed(0)
    fader = Fading(nn.Linear(3, 50), nn.Linear(3, 50), way)
    x = torch.randn(40, 3)
    theirs, ours = fader.original(x), fader.block(x)
    torch.testing.assert_close(fader(x), theirs)
    fader.share = 0.25
    if way == "cosine":
        torch.testing.assert_close(fader(x), 0.25 * theirs + 0.75 * ours)
    else:
        taken = torch.stack([fader(x) == theirs for _ in range(400)])
        assert float(taken.float().mean()) == pytest.approx(0.25, abs=0.08)
        whole = taken.flatten(1).float().mean(1)
        assert bool(((whole == 0) | (whole == 1)).all()) == (way == "theseus")
    torch.testing.assert_close(fader.eval()(x), ours)


def test_shares_fall_from_1_to_0_and_mollifying_follows_the_loss() -> None:
    for way in ("linear", "mollify", "cosine", "theseus"):
        shares = Shares(way, 3)
        shares.see(2.0)
        path = [shares.at(passed) for passed in (0.0, 0.2, 0.5, 0.8, 1.0, 1.5)]
        assert path[0] == [1, 1, 1]
        assert path[-2:] == [[0, 0, 0]] * 2
        assert all(b <= a for one, other in pairwise(path) for a, b in zip(one, other, strict=True))
    mollify = Shares("mollify", 2)
    mollify.see(2.0)
    before = mollify.at(0.5)
    assert before == pytest.approx([1 - math.exp(-0.5), 1 - math.exp(-1)])
    for _ in range(1000):
        mollify.see(0.02)
    assert all(now < 0.05 * then for now, then in zip(mollify.at(0.5), before, strict=True))


def test_mollifying_fades_where_the_first_loss_is_that_of_the_original_itself(
    teacher: nn.Module, inputs: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    path: list[list[float]] = []
    at = Shares.at

    def watched(self: Shares, passed: float) -> list[float]:
        path.append(at(self, passed))
        return path[-1]

    monkeypatch.setattr(Shares, "at", watched)
    distilled(teacher, inputs, epochs=4, progressive="mollify", fade=1.0)
    assert path[0] == [1, 1, 1]
    quarter, half = path[len(path) // 4], path[len(path) // 2]
    assert all(b < a < most for b, a, most in zip(half, quarter, (0.7, 0.9, 0.98), strict=True))
    assert quarter == sorted(quarter)


def test_noise_where_units_saturate_is_only_there_while_they_train(
    saturating: nn.Module, teacher: nn.Module, inputs: Tensor
) -> None:
    start, _ = fitted(saturating, inputs, {"rank": 3})
    _, plain = distilled(saturating, inputs, epochs=1)
    student, noisy = distilled(saturating, inputs, epochs=8, noise="nah")
    assert noisy[0] == plain[0]  # the held-back part is seen without noise
    assert noisy[1] != plain[1]
    assert type(student[1]) is nn.Tanh
    assert student[1] is student[3]
    assert student.state_dict().keys() == start.state_dict().keys()
    assert off(student, saturating, inputs) < off(start, saturating, inputs)
    with pytest.raises(CompressorError, match="no module that saturates"):
        distilled(teacher, inputs, epochs=1, noise="nah")


def test_c_falls_until_activations_are_themselves() -> None:
    activation = Disturbed(nn.Tanh(), NoisyActivation("nah"))
    x = torch.tensor([-3.0, 3.0])
    seen = []
    for done in (0.0, 0.4, 0.79, 0.8, 1.0):
        activation.at(done)
        seen.append(activation.noisy.c)
        assert torch.equal(activation(x), x.tanh()) == (done >= 0.8)
    assert seen == sorted(seen, reverse=True)
    assert (seen[0], seen[-1]) == (30.0, 0.5)
    activation = Disturbed(nn.Tanh(), NoisyActivation("nan"), start=3.0, end=1.5)
    seen = []
    for done in (0.0, 0.4, 0.8):
        activation.at(done)
        seen.append(activation.noisy.c)
    assert seen == pytest.approx([3.0, 3 / math.sqrt(3), 1.5])


NOISE = {
    "nah": {"noise_c_start": "500", "noise_c_end": "5", "noise_alpha": "0.7"},
    "nan": {"noise_c_start": "500", "noise_c_end": "5", "noise_alpha": "1.1"},
    "nanil": {"noise_c_start": "500", "noise_c_end": "5"},
    "nani": {"noise_sigma": "0.3"},
    "nanis": {"noise_sigma": "0.3"},
}


@pytest.mark.parametrize(("noise", "option"), [(noise, option) for noise in NOISE for option in NOISE[noise]])
def test_each_option_of_the_noise_counts_and_a_checkpoint_is_of_its_value(
    inputs: Tensor, noise: str, option: str
) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(20, 31), nn.Tanh(), nn.Linear(31, 29), nn.Tanh(), nn.Linear(29, 17)).eval()
    with torch.no_grad():
        net[2].weight *= 5  # far into saturation
    asked = {"noise": noise, option: NOISE[noise][option]}
    how = Training.from_settings("training", asked)
    _, usual = distilled(net, inputs, epochs=2, noise=noise)
    _, other = distilled(net, inputs, epochs=2, noise=noise, **{option: getattr(how, option)})
    assert usual[0] == other[0]
    assert usual[1:] != other[1:]
    recipes = [make_recipe(model="m.pt", method="svd", training=training) for training in ({"noise": noise}, asked)]
    assert checkpoint_of("out", recipes[0]) != checkpoint_of("out", recipes[1])


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"noise_sigma": "0.1"}, "noise_sigma=0.1 is for noise=nani or nanis, not for noise=none"),
        ({"noise": "nah", "noise_sigma": "0.1"}, "noise_sigma=0.1 is for noise=nani or nanis, not for noise=nah"),
        ({"noise_c_start": "30"}, "noise_c_start=30 is for noise=nan or nah or nanil, not for noise=none"),
        ({"noise": "nanis", "noise_c_end": "1"}, "noise_c_end=1 is for noise=nan or nah or nanil, not for noise=nanis"),
        ({"noise": "nanil", "noise_alpha": "1"}, "noise_alpha=1 is for noise=nan or nah, not for noise=nanil"),
        ({"noise": "nah", "noise_c_start": "0.2"}, "noise_c_start=0.2 is below noise_c_end=0.5"),
        ({"noise": "nah", "noise_c_end": "0"}, "noise_c_end='0' is not valid"),
        ({"noise": "nah", "noise_alpha": "2.5"}, "noise_alpha='2.5' is not valid"),
        ({"noise": "nani", "noise_sigma": "-1"}, "noise_sigma='-1' is not valid"),
        ({"noise": "nah", "noise_c_start": "inf"}, "noise_c_start='inf' is not valid"),
    ],
)
def test_options_of_the_noise_are_refused_where_they_mean_nothing(asked: dict[str, str], said: str) -> None:
    with pytest.raises(CompressorError, match=said):
        Training.from_settings("training", asked)


@pytest.mark.parametrize("way", ["linear", "mollify"])
def test_a_small_share_of_the_original_is_small_in_half_precision_too(way: str) -> None:
    torch.manual_seed(0)
    fader = Fading(nn.Threshold(2.0, 0.0), nn.Identity(), way)
    fader.share = 1e-3
    taken = fader(torch.ones(1000, 1000, dtype=torch.bfloat16)) == 0
    assert float(taken.float().mean()) == pytest.approx(1e-3, rel=0.2)  # six standard deviations


def test_noise_on_gradients_moves_the_result_and_is_for_steps_only(teacher: nn.Module, inputs: Tensor) -> None:
    _, plain = distilled(teacher, inputs, epochs=1)
    _, noisy = distilled(teacher, inputs, epochs=1, gradient_noise=0.3)
    assert plain[0] == noisy[0]
    assert plain[1] != noisy[1]
    with pytest.raises(CompressorError, match="gradient_noise is for adamw"):
        Training.from_settings("training", {"optimizer": "lbfgs", "gradient_noise": 0.1})


def test_patience_waits_until_noise_and_fading_are_over(
    teacher: nn.Module, saturating: nn.Module, inputs: Tensor
) -> None:
    _, plain = distilled(teacher, inputs, epochs=10, patience=1, rate=30.0)
    assert len(plain) == 2  # before training, and one epoch that was no better
    _, faded = distilled(teacher, inputs, epochs=10, patience=1, rate=30.0, progressive="linear", fade=0.5)
    assert len(faded) == 7
    _, noisy = distilled(saturating, inputs, epochs=10, patience=1, rate=30.0, noise="nani")
    assert len(noisy) == 10  # noise ends with epoch 8


def test_a_run_that_patience_ended_is_not_trained_on_when_taken_up_again(
    teacher: nn.Module, inputs: Tensor, tmp_path: Path
) -> None:
    how = {"epochs": 10, "patience": 1, "rate": 30.0}
    once, losses = distilled(teacher, inputs, checkpoint=tmp_path / "state", **how)
    again, more = distilled(teacher, inputs, checkpoint=tmp_path / "state", **how)
    assert more == losses
    assert all(torch.equal(a, b) for a, b in zip(once.parameters(), again.parameters(), strict=True))


def test_a_training_that_gave_nothing_says_so(teacher: nn.Module, inputs: Tensor) -> None:
    plan = make_plan(find_sites(teacher, (torch.zeros(2, 20),)), None, "svd", {"rank": 3}, target=("0", "2", "4"))
    notes = []
    for rate in (2e-3, 30.0, 1e37):
        student, _ = fitted(teacher, inputs, {"rank": 3})
        result = distill(
            student, teacher, plan.replaced, as_dataset(inputs, ("x",)), Training(epochs=4, rate=rate), seed=0,
            limit=Limit(), progress=silent,
        )  # fmt: skip
        notes += [result.notes]
    assert notes[0] == []
    assert notes[1] == ["no epoch of 4 was better than the layers as fitted; try more epochs or a smaller --train rate"]
    assert notes[2] == [
        "the training diverged in epoch 1, the layers are as fitted; try more epochs or a smaller --train rate"
    ]


def test_lbfgs_takes_one_function_and_no_draws() -> None:
    def train(**asked: object) -> Training:
        return Training.from_settings("training", asked)

    assert train(optimizer="lbfgs").blend == 0
    assert train(optimizer="lbfgs", blend="0.3").blend == 0.3
    assert train(optimizer="rprop").blend == train().blend == 0.5
    assert train(optimizer="lbfgs", progressive="cosine").way == "cosine"
    for drawn in ({"noise": "nah"}, {"progressive": "theseus"}, {"progressive": "mollify"}):
        assert train(optimizer="rprop", **drawn).is_full_batch
        with pytest.raises(CompressorError, match="draws anew each time that lbfgs looks"):
            train(optimizer="lbfgs", **drawn)


@pytest.mark.parametrize("name", ["rate", "temperature", "hint_share", "gradient_noise", "weight_decay"])
@pytest.mark.parametrize("value", ["inf", "nan"])
def test_options_are_finite_numbers(name: str, value: str) -> None:
    with pytest.raises(CompressorError, match=f"{name}.*finite number"):
        Training.from_settings("training", {name: value})


def test_noise_is_refused_before_the_fit_where_nothing_saturates(teacher: nn.Module, inputs: Tensor) -> None:
    stages: list[str] = []

    def progress(title: str, total: int | None = None) -> AbstractContextManager[Stage]:
        stages.append(title)
        return silent(title, total)

    with pytest.raises(CompressorError, match="no module that saturates"):
        compress(teacher, "svd", data=inputs, training={"noise": "nah"}, progress=progress)
    assert "fit" not in stages


def test_what_was_kept_of_another_network_is_not_taken_up(teacher: nn.Module, inputs: Tensor, tmp_path: Path) -> None:
    distilled(teacher, inputs, epochs=3, checkpoint=tmp_path / "state")
    other = copy.deepcopy(teacher)
    with torch.no_grad():
        other[4].bias += 1
    _, alone = distilled(other, inputs, epochs=3)
    _, beside = distilled(other, inputs, epochs=3, checkpoint=tmp_path / "state")
    assert beside == alone


def test_a_training_that_cannot_be_kept_or_read_goes_on_and_says_so(
    teacher: nn.Module, inputs: Tensor, tmp_path: Path
) -> None:
    plan = make_plan(find_sites(teacher, (torch.zeros(2, 20),)), None, "svd", {"rank": 3}, target=("0", "2", "4"))
    broken = tmp_path / "broken"
    found = []
    for file in (None, tmp_path / "nowhere" / "state", broken, broken):
        broken.write_bytes(broken.read_bytes()[:1000] if broken.exists() else b"")
        student, _ = fitted(teacher, inputs, {"rank": 3})
        found += [
            distill(
                student, teacher, plan.replaced, as_dataset(inputs, ("x",)), Training(epochs=2), seed=0, limit=Limit(),
                progress=silent, checkpoint=file,
            )
        ]  # fmt: skip
    alone, unkept, empty, cut = found
    assert unkept.losses == empty.losses == cut.losses == alone.losses
    assert ["could not be kept" in note for note in unkept.notes].count(True) == 1
    assert "began anew" in empty.notes[0]
    assert "began anew" in cut.notes[0]
    assert not list(tmp_path.glob("*.partial"))


def test_an_epoch_of_nan_is_no_better_while_layers_settle(teacher: nn.Module, inputs: Tensor) -> None:
    student = copy.deepcopy(teacher)
    layer = method("sparse_fc").layer(*reversed(teacher[0].weight.shape), l0=0.01)
    student[0] = layer
    run = Distillation(student, teacher, [], as_dataset(inputs, ("x",)), Training(epochs=3), 0)
    assert not layer.is_settled
    run.settled = False
    assert not run.is_better(Distilled(epochs=1, losses=[1.0, float("nan")]))
    assert run.is_better(Distilled(epochs=1, losses=[1.0, 2.0]))
