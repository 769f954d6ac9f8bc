"""Compression against training from scratch, at equal budget (the thesis's question), and the post-processing table.

LeNet on MNIST and on Fashion-MNIST, a convnet with a large dense head on CIFAR-10 (JPEG copy). A trained teacher, then
the same structured network three ways, each so many epochs: *scratch* (everything starts at random), *fine-tuned*
(fitted to the teacher, then trained on the labels), *distilled* (fitted, then trained on the teacher's outputs at a
temperature and the labels). ACDC, Fastfood, and SVD-half and SVD-quarter (Moczulski 2019, table 3.4), with the last
layer of low rank for one of them; "fitted" is what the source has without -F. ImageNet cannot be had: the table's own
numbers stay without a counterpart, its question is asked of these networks.

The seeds are those of the teachers, of all that starts at random (ACDC's and Fastfood's own signs, permutations and
start too), and of the order of the images.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

import torch
from classification import Split, cifar10, error, fashion_mnist, mnist, outputs, train
from experiment import Experiment, Figure, Runs, Values, main, mean_of
from torch import Tensor, nn

from compressor.layers import Metric, method
from compressor.layers.rates import parameter_groups

SEEDS, EPOCHS = (0, 1, 2), {"mnist": 5, "fashion": 5, "cifar10": 12}
WAYS = ("scratch", "fitted", "fine-tuned", "distilled")
_T, _SHARE = 4.0, 0.3
METHODS: dict[str, dict[str, object]] = {
    "acdc": {"depth": 2}, "fastfood": {"terms": 2}, "svd-half": {}, "svd-quarter": {}
}  # fmt: skip
LOW_RANK = "svd-quarter, low-rank softmax"


def lenet() -> nn.Sequential:
    """Convolutions, then 800-500-10."""
    convolutions = [nn.Conv2d(1, 20, 5), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2), nn.Flatten()]
    return nn.Sequential(nn.Sequential(*convolutions), nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10))


def large_head() -> nn.Sequential:
    """Three convolutions, then 1024-1024-10."""
    sides = [(3, 32), (32, 64), (64, 64)]
    blocks = [part for a, b in sides for part in (nn.Conv2d(a, b, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))]
    head = [nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 10)]
    return nn.Sequential(nn.Sequential(*blocks, nn.Flatten()), *head)


DATA: dict[str, tuple[Callable[[Runs], tuple[Split, Split]], Callable[[], nn.Sequential]]] = {
    "mnist": (mnist, lenet), "fashion": (fashion_mnist, lenet), "cifar10": (cifar10, large_head),
}  # fmt: skip


def replaced(name: str, teacher: nn.Sequential, x: Tensor, way: str, seed: int) -> nn.Sequential:
    """The structured network: at random from ``scratch``, else the teacher's with its dense layers fitted."""
    torch.manual_seed(seed)  # else layers would start as the teacher's training left the generator, or did not
    with torch.no_grad():
        features = outputs(teacher[0], x[:10_000])
    base, _, low_rank = name.partition(", ")
    layers: list[nn.Module] = list(teacher)
    places = (1, 3) if low_rank or base.startswith("svd") else (1,)
    inputs = {1: features, 3: outputs(teacher[:3], x[:10_000]) if 3 in places else features}
    for i in places:
        dense = layers[i]
        entry = method("svd" if i == 3 else base)
        settings: dict[str, object] = {
            "rank": 5 if low_rank else min(dense.in_features, dense.out_features) // (2 if base == "svd-half" else 4)
        }
        if i == 1:
            settings = METHODS[base] | ({} if base.startswith("svd") else {"seed": seed})
        config = entry.config(settings)
        if way == "scratch":
            layers[i] = entry.layer(dense.in_features, dense.out_features, config=config)
            continue
        mean = inputs[i].double().mean(0)
        centred = inputs[i].double() - mean
        metric = Metric(centred.T @ centred / len(centred), mean)
        layers[i] = entry.layer.from_dense(dense.weight.detach(), dense.bias.detach(), config, metric)
    torch.manual_seed(seed)  # again, as the runs that are kept did
    model = nn.Sequential(*layers)
    for module in model.modules() if way == "scratch" else ():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.reset_parameters()
    return model


def learn(name: str, way: str, teacher: nn.Sequential, data: Split, test: Split, seed: int, epochs: int) -> Values:
    """One network one way; its error on the test images and the weights of its dense layers."""
    model = replaced(name, copy.deepcopy(teacher), data[0], way, seed)
    if way != "fitted":
        targets = outputs(teacher, data[0]) if way == "distilled" else None
        optimizer = torch.optim.AdamW(parameter_groups(model, 1e-3, 1e-4))

        def distilled(given: Tensor, wanted: Tensor, _: Tensor) -> Tensor:
            labels, aim = wanted[:, 0].long(), wanted[:, 1:]
            kl = nn.functional.kl_div((given / _T).log_softmax(1), (aim / _T).softmax(1), reduction="batchmean")
            return (1 - _SHARE) * _T**2 * kl + _SHARE * nn.functional.cross_entropy(given, labels)

        wanted = data[1] if targets is None else torch.cat((data[1][:, None].float(), targets), 1)
        train(
            model, (data[0], wanted), epochs=epochs, optimizer=optimizer, seed=seed, cosine=True,
            loss_of=None if targets is None else distilled,
        )  # fmt: skip
    drawn = {} if name.startswith("svd") else {"layer_seed": model[1].config.seed}
    return {"test_error": error(model, test), "dense_params": sum(p.numel() for p in model[1:].parameters())} | drawn


def _learn(name: str, way: str, teacher: Callable[[int], nn.Sequential], data: Split, *rest: Any) -> Values:
    test, seed, epochs = rest
    return learn(name, way, teacher(seed), data, test, seed, epochs)


def measure(runs: Runs) -> None:
    """Data set by data set, seed by seed: the teacher, then every network every way."""
    for where, (read, make) in list(DATA.items())[: 1 if runs.quick else None]:
        data, test = read(runs)
        epochs = 1 if runs.quick else EPOCHS[where]

        @cache
        def teacher(seed: int, make=make, data=data, epochs=epochs) -> nn.Sequential:
            torch.manual_seed(seed)
            model = make()
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-4)
            train(model, data, epochs=epochs, optimizer=optimizer, seed=seed, cosine=True)
            return model

        for seed in SEEDS[:1] if runs.quick else SEEDS:
            runs.take(
                f"{where}, teacher, seed {seed}",
                lambda seed=seed, test=test, teacher=teacher: {"test_error": error(teacher(seed), test)},
                seed=seed,
            )
            for name in [*METHODS, LOW_RANK]:
                for way in WAYS:
                    runs.take(
                        f"{where}, {name}, {way}, seed {seed}",
                        partial(_learn, name, way, teacher, data, test, seed, epochs),
                        seed=seed,
                    )


def figures(runs: Mapping[str, Values]) -> list[Figure]:
    """Every network, the three ways beside each other."""
    rows = []
    for where in DATA:
        dense = mean_of(runs, [f"{where}, teacher, seed {seed}" for seed in SEEDS], "test_error")
        for name in [*METHODS, LOW_RANK]:
            found = {
                way: mean_of(runs, [f"{where}, {name}, {way}, seed {seed}" for seed in SEEDS], "test_error")
                for way in WAYS
            }
            text = ", ".join(f"{way} {mean.shown(lambda v: f'{v:.2%}')}" for way, mean in found.items() if mean)
            text = text and f"{text}; teacher {dense.shown(lambda v: f'{v:.2%}')}" if dense else text
            source = "M tab. 3.4" if name.startswith("svd") else "M 3.9.8"
            theirs = "fitting costs, -F wins most of it back" if name.startswith("svd") else "from scratch is as good"
            fitted, tuned, scratch = found["fitted"], found["fine-tuned"], found["scratch"]
            reached, why = None, ""
            if fitted and tuned and scratch and dense:
                won = 100 * (scratch.mean - min(tuned.mean, found["distilled"].mean if found["distilled"] else 1))
                why = f"at equal epochs after the teacher's, the best way is {won:.2f} points better than scratch"
                if name.startswith("svd"):
                    reached = won_back(fitted.mean, tuned.mean, dense.mean)
                    why += "; most of it: at least half of what fitting lost against the teacher"
                else:
                    reached = scratch.mean <= tuned.mean
            rows.append(Figure(source, f"{where}, {name}: error", theirs, text or None, reached, why))
    return rows


def won_back(fitted: float, tuned: float, teacher: float) -> bool:
    """Whether tuning wins back at least half of what fitting lost."""
    return fitted > teacher and fitted - tuned >= (fitted - teacher) / 2


EXPERIMENT = Experiment(3, "three_ways", "Compression against from scratch; SVD -F (3, 4)", 240, measure, figures)

if __name__ == "__main__":
    raise SystemExit(main(EXPERIMENT, __doc__))
