"""Predicting parameters: error against the share of learned parameters, for every kind of dictionary, 1 to 20 columns.

Denil et al. 2013, a 784-500-500-10 MLP on MNIST. As there, the first two layers are pretrained one by one as
autoencoders; what they learned starts each predicted layer (its weights are the best that the dictionary can hold, in
the metric of its inputs), and the codes of the first give the covariance kernels of the second. Positions are drawn.
The dense network starts from the same autoencoders, low rank at random, as in the source. Sigmoid units, Adam at 1e-3
falling to 0, five epochs (two of pretraining), one seed. Nothing is chosen.

What the source ends in, that 95 % can be predicted without a substantial drop, is asked of networks that are trained
for longer, twenty epochs, with three seeds; the rate (4e-3 for the predicted one) was chosen on 10,000 of the training
images. After five epochs at 1e-3 the predicted network is far from the end of its training, the dense one is not.

"Share" is of the weights of the first two layers. Kinds, first layer and second: the source has squared exponential
over pixels, then the covariance of the codes (SE-Emp) or its square.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Mapping
from functools import cache, partial

import torch
from classification import Split, error, flat, mnist, train
from experiment import Experiment, Figure, Runs, Values, main, mean_of, percent
from torch import Tensor, nn

from compressor.layers import Metric, StructuredLayer, method

WIDTHS = (784, 500, 500)
EPOCHS, PRETRAINING = 5, 2
LONG, SEEDS = 20, (0, 1, 2)
SHARES = (0.05, 0.1, 0.25, 0.5)
COLUMNS = (1, 2, 5, 10, 20)
_PIXELS = {"dictionary": "se", "grid": "28x28", "width": 2.0}
KINDS: dict[str, tuple[dict[str, object], dict[str, object]]] = {
    "SE, covariance": (_PIXELS, {"dictionary": "covariance"}),
    "SE, covariance²": (_PIXELS, {"dictionary": "covariance2"}),
    "covariance, covariance": ({"dictionary": "covariance"}, {"dictionary": "covariance"}),
    "gaussian": ({"dictionary": "gaussian"}, {"dictionary": "gaussian"}),
    "identity": ({"dictionary": "identity"}, {"dictionary": "identity"}),
}
BEST = "SE, covariance"
POOR = ("gaussian", "identity")  # positions and features that say nothing of the pixels
_ONE = "one run each"
_DENSE, _TEN = f"dense, {LONG} epochs", f"{BEST}, 4 %, J = 10, {LONG} epochs"
_NO_DROP = "a drop of up to 0.5 points is no substantial one"


class Autoencoder(nn.Module):
    """Sigmoid codes, read back with the same weights."""

    def __init__(self, encoder: nn.Linear) -> None:
        super().__init__()
        self.encoder = encoder
        self.back = nn.Parameter(torch.zeros(encoder.in_features))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(self.encoder(x).sigmoid(), self.encoder.weight.T, self.back)


def pretrained(data: Split, seed: int, epochs: int) -> list[tuple[nn.Linear, Metric]]:
    """The first two layers as autoencoders, and the second moments of what each sees."""
    torch.manual_seed(seed)
    x, found = data[0], []
    for ends in itertools.pairwise(WIDTHS):
        model = Autoencoder(nn.Linear(*ends))

        def loss(outputs: Tensor, _: Tensor, inputs: Tensor) -> Tensor:
            return nn.functional.binary_cross_entropy_with_logits(outputs, inputs, reduction="sum") / len(inputs)

        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        train(model, (x, data[1]), epochs=epochs, optimizer=optimizer, seed=seed, loss_of=loss)
        mean = x.double().mean(0)
        covariance = (x.T @ x).double() / len(x) - mean[:, None] * mean
        found.append((model.encoder, Metric(covariance, mean)))
        with torch.no_grad():
            x = model.encoder(x).sigmoid()
    return found


def predicted(
    layers: list[tuple[nn.Linear, Metric]], kind: str, share: float, columns: int, seed: int
) -> list[StructuredLayer]:
    """Each of ``layers`` with ``share`` of its weights learned, started from what it is."""
    made = []
    for (dense, metric), settings in zip(layers, KINDS[kind], strict=True):
        entry = method("predicted")
        config = entry.config({**settings, "fraction": share, "columns": columns, "positions": "random", "seed": seed})
        made.append(entry.layer.from_dense(dense.weight.detach(), dense.bias.detach(), config, metric))
    return made


def dense(layers: list[tuple[nn.Linear, Metric]]) -> list[nn.Module]:
    """Copies of ``layers`` themselves."""
    return [copy.deepcopy(layer) for layer, _ in layers]


def low_rank(share: float) -> list[StructuredLayer]:
    """Both factors learned, from scratch."""
    layer = method("svd").layer
    ends = itertools.pairwise(WIDTHS)
    return [layer(a, b, rank=max(1, int(share * a * b / (a + b)))) for a, b in ends]


def learned(layers: list[nn.Module]) -> int:
    """Weights that training moves, biases not counted."""
    return sum(p.numel() for layer in layers for name, p in layer.named_parameters() if name != "bias")


def fine_tune(layers: list[nn.Module], data: Split, test: Split, seed: int, epochs: int, rate: float = 1e-3) -> Values:
    """Train the whole MLP with these two layers; its error on the test images."""
    torch.manual_seed(seed)
    model = nn.Sequential(layers[0], nn.Sigmoid(), layers[1], nn.Sigmoid(), nn.Linear(WIDTHS[-1], 10))
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=rate)
    train(model, data, epochs=epochs, optimizer=optimizer, seed=seed, cosine=True)
    return {"test_error": error(model, test), "learned": learned(layers)}


def measure(runs: Runs) -> None:
    """The dense network, columns at 4 %, then every kind by share; dense and ten columns for longer."""
    data, test = (flat(split) for split in mnist(runs))
    seed, epochs = runs.seed, 1 if runs.quick else EPOCHS

    @cache
    def start(seed: int = seed) -> list[tuple[nn.Linear, Metric]]:
        return pretrained(data, seed, 1 if runs.quick else PRETRAINING)

    def take(name: str, layers: Callable[[], list[nn.Module]]) -> None:
        runs.take(name, lambda: fine_tune(layers(), data, test, seed, epochs))

    take("dense", lambda: dense(start()))
    for columns in (10,) if runs.quick else COLUMNS:
        take(f"{BEST}, 4 %, J = {columns}", lambda columns=columns: predicted(start(), BEST, 0.04, columns, seed))
    for share in (0.1,) if runs.quick else SHARES:
        for kind in KINDS:
            take(
                f"{kind}, {share:.0%}, J = 1",
                lambda kind=kind, share=share: predicted(start(), kind, share, 1, seed),
            )
        take(f"low rank, {share:.0%}", lambda share=share: low_rank(share))
    for other in () if runs.quick else SEEDS:
        _longer(runs, data, test, start, other)


def _longer(
    runs: Runs, data: Split, test: Split, start: Callable[[int], list[tuple[nn.Linear, Metric]]], seed: int
) -> None:
    """Dense and ten columns, twenty epochs."""
    tune = partial(fine_tune, data=data, test=test, seed=seed, epochs=LONG)
    runs.take(f"{_DENSE}, seed {seed}", lambda: tune(dense(start(seed)), rate=1e-3), seed=seed)
    runs.take(f"{_TEN}, seed {seed}", lambda: tune(predicted(start(seed), BEST, 0.04, 10, seed), rate=4e-3), seed=seed)


def figures(runs: Mapping[str, Values]) -> list[Figure]:
    """The sentence that the source ends in, and what its two plots compare."""
    full = 784 * 500 + 500 * 500
    whole, ten = (mean_of(runs, [f"{name}, seed {seed}" for seed in SEEDS], "test_error") for name in (_DENSE, _TEN))
    rows = []
    what = "784-500-500-10: error with > 95 % of the first two layers predicted, 10 columns"
    if whole and ten:
        share = 1 - next(run["learned"] for name, run in runs.items() if name.startswith(_TEN)) / full
        shown = f"{ten.shown(percent)} with {share:.1%} predicted, dense {whole.shown(percent)}"
        reached = share > 0.95 and ten.mean <= whole.mean + 0.005
        rows.append(Figure("D", what, "no substantial drop", shown, reached, f"{LONG} epochs; {_NO_DROP}"))
    else:
        rows.append(Figure("D", what, "no substantial drop", None))
    known = [(j, runs.get(f"{BEST}, 4 %, J = {j}")) for j in COLUMNS]
    text = ", ".join(f"{j}: {run['test_error']:.2%}" for j, run in known if run)
    complete = all(run for _, run in known)
    helps = known[3][1]["test_error"] < known[0][1]["test_error"] if complete else None  # type: ignore[index]
    why = f"{_ONE}; reached: {COLUMNS[3]} columns below one"
    rows.append(Figure("D", "error by columns, 4 % learned", "more columns help", text or None, helps, why))
    for share in SHARES:
        found = {kind: runs.get(f"{kind}, {share:.0%}, J = 1") for kind in KINDS}
        found["low rank"] = runs.get(f"low rank, {share:.0%}")
        text = ", ".join(f"{kind} {run['test_error']:.2%}" for kind, run in found.items() if run)
        errors = {kind: run["test_error"] for kind, run in found.items() if run}
        reached = kernels_win(errors) if len(errors) == len(found) else None
        rows.append(
            Figure(
                "D", f"{share:.0%} learned: kernels beat random U", "SE and covariance below random and identity",
                text or None, reached, _ONE,
            )
        )  # fmt: skip
    return rows


def kernels_win(errors: Mapping[str, float]) -> bool:
    """Whether every kernel, SE or covariance, is below random and identity."""
    return max(errors[kind] for kind in KINDS if kind not in POOR) < min(errors[kind] for kind in POOR)


EXPERIMENT = Experiment(5, "denil", "Predicted parameters: kinds of U, shares, columns", 20, measure, figures)

if __name__ == "__main__":
    raise SystemExit(main(EXPERIMENT, __doc__))
