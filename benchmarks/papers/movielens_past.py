"""MovieLens 1M, past the sources: a trained autoencoder that the tool compresses, and Sparse FC with 40 % of its MACs.

The dense AutoRec(2) of `movielens` becomes two factors a layer, 0.7 M numbers in all (`compress`, method svd, fitted to
what the layers see), and is trained on by the same objective: KernelNet of as many numbers, trained from scratch, is to
be beaten. Sparse FC(2) keeps 40 % of its weights (method pruned), and is trained on in the same way. How many rounds is
chosen on the held-back ratings of `movielens`, with the network that never saw them. Networks that `movielens` has
left here are taken, others are trained anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from experiment import Experiment, Figure, Runs, Values, at_most, four_digits, main, mean_of
from movielens import EXPERIMENT as SOURCE
from movielens import HELD_BACK, MOST_ROUNDS, Setting, chosen, fit, held_back, split_of, state_of, trained
from ratings import HIDDEN, Ratings, autoencoder, weight_of
from torch import Tensor, nn

import compressor

SETTINGS: dict[str, dict[str, float]] = {"svd": {"rank": 49}, "pruned": {"density": 0.4}}  # 696,960 numbers and biases
LEAST = {"autorec": 0.836, "sparse_fc": 0.002}
ROUNDS = 6
SPLITS = ("0", "1", "2")
_RATED = 10  # films that a user has rated, as the source counts multiply-adds


def dense_rows(ratings: Ratings) -> Tensor:
    """The ratings as the first layer sees them, ``(films, users)``."""
    rows = torch.zeros(ratings.shape)
    rows[ratings.films, ratings.users] = torch.from_numpy(ratings.values)
    return rows


def compressed(layers: nn.ModuleList, method: str, ratings: Ratings) -> nn.ModuleList:
    """``layers`` as the tool makes them smaller from what they see of ``ratings``; nothing is trained."""
    modules: list[nn.Module] = []
    for layer in layers:
        dense = nn.Linear(*weight_of(layer).T.shape)
        with torch.no_grad():
            dense.weight.copy_(weight_of(layer))
            dense.bias.copy_(layer.bias)
        modules += [dense, nn.Sigmoid()]
    whole, data = nn.Sequential(*modules[:-1]), dense_rows(ratings)
    model = compressor.compress(whole, method, settings=SETTINGS[method], data=data, epochs=0).model
    return nn.ModuleList(module for module in model if not isinstance(module, nn.Sigmoid))


def macs(layers: nn.ModuleList) -> int:
    """Multiply-adds of a prediction from ten rated films, as the source counts them: weights that are not zero."""
    kept = [int((weight_of(layer) != 0).sum()) for layer in layers]
    return round(_RATED * kept[0] / weight_of(layers[0]).shape[1]) + sum(kept[1:])


def measure(runs: Runs) -> None:
    """The autoencoder, then Sparse FC: fitted, and trained on."""
    if runs.quick:
        train, test = split_of("100k", "0")
        short = Setting("100k", "autorec", 1, 30.0, 1)
        layers = autoencoder("autorec", 1, train.shape[1])
        fit(short, train, test, 0, None, layers)
        runs.take("quick", lambda: fit(short, train, test, 0, None, compressed(layers, "pruned", train)))
        return
    first = split_of("1m", "0")[0]
    for model, method in (("autorec", "svd"), ("sparse_fc", "pruned")):
        setting = chosen(SOURCE.kept(), ("1m", model, 2))
        rounds = ROUNDS
        if model == "autorec":
            inner, scored = first.split(HELD_BACK, seed=99)
            longest = replace(setting, rounds=MOST_ROUNDS["1m", model, 2])
            held = _go_on(runs, longest, held_back(setting.title, "0", setting.l2), method, inner, scored)
            rounds = 1 + min(range(ROUNDS), key=lambda i: held["curve"][i])
        for split in SPLITS:
            _go_on(runs, setting, f"{setting.title}, split {split}", method, *split_of("1m", split), rounds)


def _go_on(
    runs: Runs, setting: Setting, name: str, method: str, train: Ratings, test: Ratings, rounds: int = ROUNDS
) -> Values:
    """What the tool makes of the network of the run ``name``, trained for ``rounds``; trained anew if not here."""

    def run() -> Values:
        state = cast(Path, state_of(runs, name))
        if not trained(state).exists():
            fit(setting, train, test, 0, state)
        layers = autoencoder(setting.model, setting.hidden, train.shape[1])
        layers.load_state_dict(torch.load(trained(state), weights_only=True)["layers"])
        smaller = compressed(layers, method, train)
        found = fit(replace(setting, rounds=rounds), train, test, 0, None, smaller)
        return {**found, "method": method, **({"macs": macs(smaller)} if method == "pruned" else {})}

    return runs.take(f"{name}, {method}", run)


def figures(runs: Mapping[str, Values]) -> list[Figure]:
    """Both aims."""
    small = [f"1m, autorec(2), split {split}, svd" for split in SPLITS]
    kept = next((runs[name] for name in small if name in runs), None)
    why = (
        f"{kept['params']:,} numbers, compressed and trained for {kept['iterations']} iterations, as many as held-back "
        "ratings of the first split chose; first split alone, where the choice saw none of the test ratings: "
        f"{kept['rmse']:.4f}"
        if kept
        else ""
    )
    what = "ML-1M, a trained AutoRec(2) compressed to ≤ 0.7 M: RMSE, below KernelNet(2)"
    mean = mean_of(runs, small, "rmse")
    return [at_most("past K tab. 3", what, LEAST["autorec"], mean, four_digits, why), _sparser(runs)]


def _sparser(runs: Mapping[str, Values]) -> Figure:
    """Sparse FC with fewer MACs against its own best, split by split."""
    names = [name for split in SPLITS if f"{(name := f'1m, sparse_fc(2), split {split}')}, pruned" in runs]
    whole = mean_of(SOURCE.kept().found, names, "rmse")
    sparse, counted = (mean_of(runs, [f"{name}, pruned" for name in names], key) for key in ("rmse", "macs"))
    what = "ML-1M, Sparse FC(2) with ≤ 40 % of the MACs: RMSE within 0.002 of its own best"
    if whole is None or sparse is None or counted is None:
        return Figure("past K tab. 4", what, "–", None)
    share = counted.mean / (HIDDEN * (_RATED + HIDDEN + 6040))
    most = whole.mean + LEAST["sparse_fc"]
    shown = f"{sparse.shown(four_digits)} with {share:.1%} of the MACs; whole {whole.shown(four_digits)}"
    return Figure("past K tab. 4", what, four_digits(most), shown, share <= 0.4 and sparse.mean <= most)


EXPERIMENT = Experiment(7, "movielens_past", "MovieLens: compressed AutoRec, Sparse FC at 40 %", 150, measure, figures)

if __name__ == "__main__":
    raise SystemExit(main(EXPERIMENT, __doc__))
