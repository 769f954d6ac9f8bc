"""The sources' experiments, small: what must be true of them, on real data where there is some, with seeds fixed."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from choice import Choice
from classification import error, flat, mnist, outputs, shifted, train
from denil import KINDS, SHARES, fine_tune, learned, predicted, pretrained
from denil import figures as denil_figures
from experiment import Figure, Mean, Runs, at_most, lowest, mean_of, percent
from jobs import JOBS
from kernel_dimensions import network as kernel_network
from kernel_grids import network as grid_network
from lenet import HEADS, PAST, network, weights
from movielens import L2, held_back
from movielens import figures as movielens_figures
from noise_curves import figures as noise_figures
from page import page
from parity import SMALL, strings
from parity import learn as learn_parity
from recovery import between, cascade, fourier, problem, recover_complex, solve, whitened
from shapes import agrees, counts
from three_ways import LOW_RANK, METHODS, WAYS, lenet, replaced
from three_ways import figures as three_ways_figures
from torch import nn
from unique_elements import PUBLISHED, Counter, sequences
from unique_elements import figures as unique_figures
from zoo import CaffeLeNet

from compressor.layers import method
from compressor.train import Annealing, NoisyActivation, noisy_
from compressor_kernels import dispatch

ROOT = Path(__file__).resolve().parent.parent


# --- how runs are kept ------------------------------------------------------------------------------


def test_a_run_is_kept_as_it_ends_and_not_done_again(tmp_path: Path) -> None:
    made = []

    def make() -> dict:
        made.append(float(torch.rand(())))
        return {"error": made[-1]}

    path = tmp_path / "results" / "one.json"
    first = Runs(seed=3, path=path).take("a", make)
    again = Runs(seed=3, path=path)
    assert again.take("a", make) == first
    assert len(made) == 1
    again.take("b", make)  # from the same seed
    assert made[0] == made[1]
    kept = json.loads(path.read_text())
    assert kept["runs"]["b"]["seed"] == 3
    assert kept["sessions"][kept["runs"]["b"]["session"]]["versions"]["torch"] == torch.__version__


def test_a_quick_run_keeps_nothing(tmp_path: Path) -> None:
    runs = Runs(quick=True)
    runs.take("a", lambda: {"error": 0.5})
    assert list(tmp_path.iterdir()) == []
    assert runs.found["a"]["error"] == 0.5


def test_a_figure_is_reached_by_the_mean_over_the_runs_that_there_are() -> None:
    runs = {"seed 0": {"error": 0.01}, "seed 1": {"error": 0.03}}
    mean = mean_of(runs, ["seed 0", "seed 1", "seed 2"], "error")
    assert (mean.mean, mean.count) == (pytest.approx(0.02), 2)
    assert mean.error == pytest.approx(0.01)
    assert at_most("M", "x", 0.02, mean, percent) == Figure("M", "x", "2.00%", "2.00% ± 1.00% (2 runs)", True)
    assert at_most("M", "x", 0.019, mean, percent).reached is False
    assert [at_most("M", "x", most, mean, percent, "why", "tried").why for most in (0.02, 0.019)] == [
        "why",
        "why; tried",
    ]
    assert at_most("M", "x", 0.02, None, percent) == Figure("M", "x", "2.00%", None)


def test_a_run_that_is_kept_with_another_seed_says_so(capsys: pytest.CaptureFixture) -> None:
    runs = Runs(seed=5, found={"a": {"seed": 0, "error": 0.5}})
    assert runs.take("a", dict)["error"] == 0.5
    assert "a: kept with seed 0, not made with 5" in capsys.readouterr().err
    runs.take("a", dict, seed=0)
    assert capsys.readouterr().err == ""


def test_the_lowest_mean_ties_with_those_within_the_standard_error_of_the_difference() -> None:
    means = {"a": Mean(1.0, 0.3, 3), "b": Mean(1.5, 0.4, 3), "c": Mean(1.51, 0.4, 3)}
    assert lowest(means) == "lowest: 'a' (a tie within a standard error: 'b')"
    assert lowest({name: means[name] for name in "ac"}) == "lowest: 'a'"


def test_a_noisy_curve_is_below_another_only_by_more_than_the_standard_error() -> None:
    def rows(nan: float) -> Figure:
        ends = {"tanh": 0.06, "hard-tanh": 0.05, "nan": nan}
        runs = {
            f"{kind}, seed {seed}": {"curve": [1.0, end + 0.001 * (seed - 1)], "train_nll": end - 0.01}
            for kind, end in ends.items()
            for seed in range(3)
        }
        return noise_figures(runs)[0]

    error = 0.001 / 3**0.5
    tie, below, above = (rows(0.05 - by * 2**0.5 * error) for by in (0.9, 1.1, -1.1))
    assert [row.reached for row in (tie, below, above)] == [False, True, False]
    assert ["a tie with hard-tanh" in row.why for row in (tie, below, above)] == [True, False, False]
    assert "hard-tanh 0.0500 ± 0.0006 (3 runs)" in tie.ours
    assert "hard-tanh 0.0400" in tie.why  # without noise


def test_the_counting_table_says_whether_annealing_helps_and_how_many_plain_runs_hardly_trained() -> None:
    errors = {"plain": (0.5, 0.6, 0.6), "nan": (0.2,) * 3, "nan, annealed": (0.3,) * 3, "nanil, annealed": (0.1,) * 3}
    assert set(errors) == set(PUBLISHED)
    runs = {
        f"{kind}, seed {seed}": {"test_error": found[seed], "commonest_error": 0.6}
        for kind, found in errors.items()
        for seed in range(3)
    }
    order, by = unique_figures(runs)[-2:]
    assert (order.what, order.reached) == ("annealed NAN below NAN", False)
    assert "of 3 plain runs 2 hardly trained" in by.why


def test_a_default_is_chosen_by_the_images_held_back_and_only_once_both_jobs_have_them() -> None:
    choice = Choice({"one": (), "other": ()})
    runs = {
        f"{job}, {way}, seed {seed}": {"held_back_error": held + 0.0001 * seed, "test_error": 0.03 - held}
        for job in JOBS
        for way, held in (("one", 0.01), ("other", 0.02))
        for seed in range(3)
    }
    (row,) = choice.chosen(runs, "ways", "one")
    assert (row.what, row.why) == (
        "ways: error held back, mean of both jobs",
        "lowest: 'one'; the command's default is one",
    )
    assert row.ours == "one 1.01% ± 0.00% (6 runs), other 2.01% ± 0.00% (6 runs)"
    assert choice.test_errors(runs, next(iter(JOBS)))["one"].mean == pytest.approx(0.02)
    first = next(iter(JOBS))
    assert choice.chosen({name: run for name, run in runs.items() if name.startswith(first)}, "ways", "one") == []


def test_films_name_the_first_split_alone_and_when_weights_are_zero() -> None:
    def run(rmse: float, *densities: float) -> dict:
        last = densities[-1]
        return {"rmse": rmse, "l2": 60.0, "iterations": 150, "curve": [rmse], "densities": densities, "density": last}

    runs = {
        "1m, sparse_fc(2), split 0": run(0.83, 1.0, 0.9, 0.8), "1m, sparse_fc(2), split 1": run(0.84, 1.0, 1.0, 1.0),
        "1m, autorec(2), split 0": run(0.81, 1.0), "1m, autorec(2), split 1": run(0.83, 1.0),
        "1m, sparse_fc(2), rprop, split 0": run(0.825, 0.7), "100k, sparse_fc(2), split 0": run(0.9, 1.0),
        "1m, kernelnet(1), rprop, split 0": run(0.9, 1.0),
        "1m, kernelnet(1), rprop, held back, λ₂ = 30": {"curve": [0.95, 0.92]},
    }  # fmt: skip
    why = {row.what: row.why for row in movielens_figures(runs)}
    assert "that split alone, where the choice saw none of the test ratings: 0.8100" in why["ML-1M, autorec(2): RMSE"]
    assert "nothing was chosen; tried by hand" in why["ML-1M, sparse_fc(2): RMSE"]
    assert why["ML-1M, kernelnet(1): RMSE"].endswith("on held-back ratings λ₂ = 30: 0.9200")
    zeros = why["ML-1M, sparse_fc(2): MACs of the trained support"]
    assert "first seen after 100, never iterations" in zeros
    assert "100.0% by L-BFGS; by RPROP, first split: 2.29 M (70.0% not zero), RMSE 0.8250" in zeros


def test_films_say_that_each_split_had_its_own_choice_only_where_it_had() -> None:
    key, runs = ("100k", "autorec", 2), {}
    for split, l2 in (("0", 30.0), ("1", 60.0)):
        found = {"rmse": 0.9, "l2": l2, "iterations": 150, "curve": [0.9], "densities": [1.0], "density": 1.0}
        runs[f"100k, autorec(2), split {split}"] = found
        runs |= {held_back("100k, autorec(2)", split, tried): {"curve": [0.91]} for tried in L2[key]}

    def why() -> str:
        return next(row.why for row in movielens_figures(runs) if row.what == "ML-100K, autorec(2): RMSE")

    assert why().startswith("λ₂ = 30 / 60, 150 iterations of L-BFGS; chosen for each split")
    del runs[held_back("100k, autorec(2)", "1", L2[key][-1])]
    assert "chosen on a part of what the first split trains on, for all" in why()


def test_the_page_of_results_is_what_the_scripts_make_of_them() -> None:
    assert (ROOT / "benchmarks/papers/README.md").read_text(encoding="utf-8") == page()


# --- 8: mollifying ----------------------------------------------------------------------------------


def test_a_mollified_deep_network_learns_parity_and_a_plain_one_does_not() -> None:
    setting = {("strings_" if key == "strings" else key): value for key, value in SMALL.items()}
    mollified = learn_parity(mollified=True, seed=0, **setting)
    plain = learn_parity(mollified=False, seed=0, **setting)
    assert mollified["error"] == 0
    assert mollified["loss"] < 0.05
    assert plain["error"] > 0.3
    assert plain["loss"] > 0.6


@pytest.mark.parametrize("bits", [1, 3, 40])
def test_parity_is_that_of_the_ones(bits: int) -> None:
    x, y = strings(bits, 50 if bits == 40 else 0)
    assert x.abs().eq(1).all()
    assert torch.equal(y, torch.tensor([sum(value > 0 for value in row) % 2 for row in x.tolist()]))
    if bits == 3:
        assert len(x.unique(dim=0)) == 8


@pytest.mark.parametrize("kind", ["plain", "nan"])
def test_the_counting_network_is_an_lstm(kind: str) -> None:
    torch.manual_seed(0)
    model = Counter(units=5)
    x, y = sequences(7, 6, torch.Generator().manual_seed(0))
    assert y.tolist() == [len(set(row)) for row in x.tolist()]
    lstm = nn.LSTM(11, 5, batch_first=True)
    order = torch.cat([torch.arange(5) + 5 * gate for gate in (0, 1, 3, 2)])  # torch has input, forget, cell, output
    with torch.no_grad():
        lstm.weight_hh_l0.copy_(model.state.weight[order])
        lstm.bias_hh_l0.copy_(model.state.bias[order])
        lstm.weight_ih_l0.copy_(model.given.weight.T[order])
        lstm.bias_ih_l0.zero_()
        hidden = lstm(nn.functional.one_hot(x, 11).float())[0]
        torch.testing.assert_close(model(x), model.head(hidden.mean(1)))
    if kind != "plain":
        noisy_(model, "nan")
        assert sum(isinstance(module, NoisyActivation) for module in model.modules()) == 3


def test_annealed_noise_learns_where_plain_units_saturate(digits: tuple) -> None:
    """Hard-tanh units that begin deep in saturation have hardly any gradient; with noise there is one."""
    (x, labels), test = (flat(split) for split in digits)
    epochs = 4

    def learn(kind: str | None, seed: int) -> float:
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for inputs in (784, 100, 100):
            layers += [nn.Linear(inputs, 100), nn.Hardtanh()]
            layers[-2].weight.data.mul_(30)
        model: nn.Module = nn.Sequential(*layers, nn.Linear(100, 10))
        annealing = Annealing(noisy_(model, kind), every=1) if kind else None
        train(
            model, (x, labels), epochs=epochs, optimizer=torch.optim.Adam(model.parameters(), lr=1e-3), seed=seed,
            each_step=None if annealing is None else lambda _: annealing.step(),
        )  # fmt: skip
        return error(model, test)

    for seed in (0, 1):
        assert learn("nah", seed) < learn(None, seed) - 0.05


def test_known_places_of_pixels_beat_learned_ones_at_equal_budget(digits: tuple) -> None:
    """Equally many epochs of an equally large network, of which fewer numbers are learned."""
    (x, labels), test = (flat(split) for split in digits)
    for seed in (0, 1):
        accuracy, learned_numbers = {}, {}
        for places in ("known", "learned"):
            torch.manual_seed(seed)
            model = grid_network(places, seed, maps=8)
            optimizer = torch.optim.Adam(model.parameters(), lr=3e-2)
            train(model, (x, labels), epochs=5, optimizer=optimizer, seed=seed, cosine=True)
            accuracy[places] = 1 - error(model, test)
            learned_numbers[places] = sum(p.numel() for p in model.parameters())
        assert learned_numbers["known"] < learned_numbers["learned"]
        assert accuracy["known"] > accuracy["learned"] + 0.01


# --- 9 and 1: counts, and recovery ------------------------------------------------------------------


def test_counts_agree_with_the_sources_but_where_a_remark_says_otherwise() -> None:
    for name, (_, printed, count, remark) in counts().items():
        assert agrees(printed, count) or remark, name
    assert [agrees("23.4 M", 23_294_096), agrees("23.3 M", 23_294_096), agrees("6.05 M", 6_046_540)] == [
        False, True, True,
    ]  # fmt: skip


def test_complex_afdf_of_order_n_recovers_a_matrix() -> None:
    assert recover_complex(8, 8, seed=0, steps=60) < 1e-3
    assert recover_complex(8, 2, seed=0, steps=60) > 0.1


@pytest.mark.parametrize("kind", ["afdf", "acdc"])
def test_the_cascade_is_the_layer_and_its_parts_are_its_derivative(kind: str) -> None:
    n, depth = 6, 3
    if kind == "acdc":
        layer = method("acdc").layer(n, n, bias=False, depth=depth, permutation="none", size=n)
        values = torch.stack((layer.a, layer.d), 1).flatten(0, 1).detach()
        both = dispatch.dct(torch.eye(n)), dispatch.idct(torch.eye(n))
    else:
        layer = method("afdf").layer(n, n, bias=False, depth=depth, size=n)
        a, d = (torch.complex(part[:, 0], part[:, 1]) for part in (layer.a, layer.d))
        values = torch.stack((a, d), 1).flatten(0, 1).detach()
        both = tuple(matrix.to(torch.complex64) for matrix in fourier(n))
    matrix = cascade(values, *both)
    torch.testing.assert_close(matrix.real if kind == "afdf" else matrix, layer.dense()[0].T)
    before, after = between(values, *both)
    for k in range(2 * depth):
        torch.testing.assert_close((before[k] * values[k]) @ after[k], matrix)


def test_second_order_recovers_with_acdc_what_is_a_cascade() -> None:
    n, depth = 8, 2
    both = dispatch.dct(torch.eye(n, dtype=torch.float64)), dispatch.idct(torch.eye(n, dtype=torch.float64))
    generator = torch.Generator().manual_seed(0)
    wanted = 1 + 0.2 * torch.randn(2 * depth, n, generator=generator, dtype=torch.float64)
    x, _ = problem(0)
    rows, _ = whitened(x[:, :n].double(), x[:, :n].double())
    aim = rows @ cascade(wanted, *both)
    found = solve(1 + 0.1 * torch.randn(wanted.shape, generator=generator).double(), *both, rows, aim, 100)
    assert float((rows @ cascade(found, *both) - aim).norm() / aim.norm()) < 1e-6


# --- 2, 3, 4: LeNet ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "count"),
    [("reference", 430_500), ("Adaptive Fastfood 1024", 38_812), ("Adaptive Fastfood 2048", 52_124)],
)
def test_the_networks_of_the_table_have_its_weights(name: str, count: int) -> None:
    assert weights(network(HEADS[name](0))) == count


def test_those_past_the_table_keep_to_their_weights() -> None:
    for name, (head, most, _) in PAST.items():
        assert weights(network(head(0))) <= most, name


@pytest.fixture(scope="module")
def digits(data_folder: Path) -> tuple:
    """One MNIST image in twenty and one in ten."""
    return mnist(Runs(quick=True), scale=256.0)


def test_moved_digits_are_the_same_digits_elsewhere(digits: tuple) -> None:
    torch.manual_seed(0)
    x = digits[0][0][:50]
    moved = shifted(x)
    assert not torch.equal(moved, x)
    for image, other in zip(x, moved, strict=True):
        found = [
            torch.equal(other[0], nn.functional.pad(image[0], (2, 2, 2, 2))[i : i + 28, j : j + 28])
            for i in range(5)
            for j in range(5)
        ]
        assert any(found)


def test_svd_of_half_the_rank_keeps_most_of_the_trained_lenet_and_a_random_start_nothing(
    digits: tuple, data_folder: Path
) -> None:
    given = CaffeLeNet()
    given.load_state_dict(torch.load(data_folder / "lenet_caffe" / "lenet_state_dict.pt", weights_only=True))
    features = nn.Sequential(given.conv1, given.pool1, given.conv2, given.pool2, nn.Flatten())
    teacher = nn.Sequential(features, given.ip1, given.relu1, given.ip2)
    data, test = digits
    before = error(teacher, test)
    state = [p.clone() for p in teacher.parameters()]
    fitted = replaced("svd-half", teacher, data[0], "fitted", 0)
    assert before < 0.02
    assert error(fitted, test) < 0.2  # half the rank of ten classes is five
    assert fitted[1].params() == 250 * (800 + 500) + 500
    low = replaced("svd-quarter, low-rank softmax", teacher, data[0], "fitted", 0)
    assert low[3].config.rank == 5
    random = replaced("svd-half", copy.deepcopy(teacher), data[0], "scratch", 0)
    assert error(random, test) > 0.5
    assert all(torch.equal(a, b) for a, b in zip(state, teacher.parameters(), strict=True))


@pytest.mark.parametrize(("tuned", "reached"), [(0.05, True), (0.07, False)])
def test_most_is_won_back_when_it_is_half_of_what_fitting_lost(tuned: float, reached: bool) -> None:
    errors = {"scratch": 0.02, "fitted": 0.11, "fine-tuned": tuned, "distilled": 0.02}
    runs = {
        f"mnist, {name}, {way}, seed 0": {"test_error": errors[way]} for name in [*METHODS, LOW_RANK] for way in WAYS
    } | {"mnist, teacher, seed 0": {"test_error": 0.01}}
    rows = {row.what: row.reached for row in three_ways_figures(runs)}
    assert rows["mnist, svd-half: error"] is reached
    assert rows["mnist, acdc: error"] is True  # from scratch is as good


def test_a_network_from_scratch_is_the_same_whatever_was_drawn_before_it() -> None:
    torch.manual_seed(0)
    teacher, x = lenet(), torch.rand(20, 1, 28, 28)
    found = []
    for before in (1, 2):
        torch.manual_seed(before)
        found.append(replaced(LOW_RANK, copy.deepcopy(teacher), x, "scratch", 3).state_dict())
    for name, values in found[0].items():
        torch.testing.assert_close(values, found[1][name], rtol=0, atol=0)


@pytest.mark.parametrize("name", ["acdc", "fastfood"])
def test_a_structured_layer_has_signs_permutations_and_start_of_its_run_s_seed(name: str) -> None:
    x = torch.rand(20, 1, 28, 28)
    one, other = (replaced(name, lenet(), x, "scratch", seed)[1] for seed in (1, 2))
    assert (one.config.seed, other.config.seed) == (1, 2)
    assert not any(torch.equal(a, b) for a, b in zip(one.buffers(), other.buffers(), strict=True))


# --- 5: predicted parameters ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*KINDS][:3])
def test_kernels_beat_random_features_only_if_every_kernel_does(kind: str) -> None:
    errors = dict.fromkeys(KINDS, 0.02) | {"gaussian": 0.03, "identity": 0.10, "low rank": 0.05}

    def reached() -> list[bool | None]:
        runs = {
            f"{name}, {share:.0%}" + ("" if name == "low rank" else ", J = 1") + f", seed {seed}": {"test_error": error}
            for name, error in errors.items()
            for share in SHARES
            for seed in (0, 1, 2)
        }
        return [row.reached for row in denil_figures(runs)[2:]]

    assert reached() == [True] * len(SHARES)
    errors[kind] = 0.04
    assert reached() == [False] * len(SHARES)


@pytest.mark.slow
def test_a_kernel_predicts_weights_better_than_pixels_drawn_at_random(digits: tuple) -> None:
    data, test = (flat(split) for split in digits)
    start = pretrained(data, 0, 2)
    errors = {}
    for kind in ("SE, covariance", "covariance, covariance", "identity"):
        layers = predicted(start, kind, 0.05, 1, 0)
        assert learned(layers) == 39 * 500 + 25 * 500
        errors[kind] = fine_tune(layers, data, test, 0, 3)["test_error"]
    assert errors["SE, covariance"] < errors["identity"] - 0.05, errors
    assert errors["covariance, covariance"] < errors["identity"] - 0.05, errors
    assert set(KINDS) >= set(errors)


# --- 6: kernels -------------------------------------------------------------------------------------


def test_kernel_networks_of_one_dimension_have_equally_many_parameters() -> None:
    sizes = {
        kernel: sum(p.numel() for p in kernel_network(kernel, 2, 0).parameters()) for kernel in ("dot", "gaussian")
    }
    assert sizes["dot"] == sizes["gaussian"] == 2 * (784 + 200) + 784 + 200 + 2 * 400 + 200 + 200 + 2010


def test_outputs_are_taken_without_training(digits: tuple) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(784, 10))
    x = digits[1][0][:5]
    torch.testing.assert_close(outputs(model, x), outputs(model, x))
