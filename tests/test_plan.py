"""What each site becomes, and why some stay as they are."""

from __future__ import annotations

import pytest

from compressor.errors import CompressorError
from compressor.plan import layer_for, make_plan
from compressor.sites import Run, Site

SITES = [
    Site("a", 400, 300, True),
    Site("b", 300, 200, True),
    Site("head", 200, 10, True, is_last=True),
]
RUNS = [Run(("a", "b", "head"), (("r1", "d1"), ("r2",), ()))]


def replaced(**options: object) -> dict[str, tuple[str, ...]]:
    plan = make_plan(SITES, RUNS, options.pop("name", "svd"), options.pop("settings", {}), **options)  # type: ignore[arg-type]
    return {entry.name: entry.sites for entry in plan.replaced}


def test_a_linear_method_takes_each_site_alone_and_leaves_a_small_last_layer() -> None:
    assert replaced() == {"a": ("a",), "b": ("b",)}
    kept = make_plan(SITES, RUNS, "svd", {}).entries[-1]
    assert kept.method is None
    assert "small last layer" in str(kept.kept_because)


def test_a_small_last_layer_goes_when_it_is_named_but_not_by_a_glob() -> None:
    assert "head" in replaced(target=("head",), settings={"rank": 2})
    assert "head" not in replaced(target=("*",), settings={"rank": 2})


def test_targets_and_ignored_sites_are_globs() -> None:
    assert set(replaced(target=("[ab]",))) == {"a", "b"}
    assert set(replaced(ignore=("a*",))) == {"b"}


def test_a_pattern_that_matches_nothing_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(CompressorError, match="did you mean 'head'"):
        replaced(target=("heat",))


def test_a_replacement_that_is_not_smaller_is_not_made_and_says_by_how_much() -> None:
    plan = make_plan(SITES, RUNS, "svd", {"rank": 250})
    assert plan.entries[0].method is None
    assert "would not be smaller" in str(plan.entries[0].kept_because)


def test_a_site_that_is_never_called_is_kept() -> None:
    plan = make_plan([Site("x", 90, 90, True, calls=0), *SITES], None, "svd", {})
    assert plan.entries[0].kept_because == "it is never called with this input"


def test_a_method_with_a_nonlinearity_takes_the_run_as_one_window() -> None:
    plan = make_plan(SITES, RUNS, "acdc", {"relu": True})
    assert plan.entries[0].sites == ("a", "b")
    assert plan.entries[0].passed == ("r1", "d1")


def test_a_method_with_a_readout_takes_the_last_layer_too() -> None:
    plan = make_plan(SITES, RUNS, "fastfood", {"features": "relu"})
    assert plan.entries[0].sites == ("a", "b", "head")
    assert plan.entries[0].passed == ("r1", "d1", "r2")


def test_a_window_is_named_first_to_last_inside_one_chain() -> None:
    assert replaced(window="b..head", name="acdc", settings={"depth": 3}) == {"a": ("a",), "b": ("b", "head")}
    with pytest.raises(CompressorError, match=r"a \.\. head"):
        replaced(window="head..a")


def test_a_window_ends_at_an_activation_that_cannot_be_taken_out() -> None:
    shared = [Run(("a", "b", "head"), (None, ("r2",), ()))]
    plan = make_plan(SITES, shared, "acdc", {"relu": True, "depth": 3}, target=("a", "b", "head"))
    assert [entry.sites for entry in plan.entries] == [("a",), ("b", "head")]
    with pytest.raises(CompressorError, match=r"chains: a \.\. a; b \.\. head"):
        make_plan(SITES, shared, "acdc", {"relu": True}, window="a..b")


def test_a_budget_sets_the_size_of_each_block() -> None:
    plan = make_plan(SITES, RUNS, "svd", {}, budget={"a": 5000, "b": 3000})
    sizes = {entry.name: layer_for(entry, {site.name: site for site in SITES}).params() for entry in plan.replaced}
    assert 5000 - 700 < sizes["a"] <= 5000
    assert 3000 - 500 < sizes["b"] <= 3000


def test_every_site_has_a_seed_of_its_own_that_follows_from_the_runs() -> None:
    seeds = [[e.config["seed"] for e in make_plan(SITES, RUNS, "acdc", {}, seed=s).replaced] for s in (0, 0, 1)]
    assert seeds[0] == seeds[1] != seeds[2]
    assert len(set(seeds[0])) == len(seeds[0])


def test_energy_is_left_to_the_fit_because_shapes_do_not_tell_its_size() -> None:
    assert set(replaced(settings={"energy": 0.9})) == {"a", "b"}
