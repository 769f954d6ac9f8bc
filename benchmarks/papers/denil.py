"""Predicting parameters: error against the share of learned parameters, for every kind of dictionary, 1 to 20 columns.

Denil et al. 2013, a 784-500-500-10 MLP on MNIST. As there, the first two layers are pretrained one by one as
autoencoders; what they learned starts each predicted layer (its weights are the best that the dictionary can hold, in
the metric of its inputs), and the codes of the first give the covariance kernels of the second. Positions are drawn.
The dense network starts from the same autoencoders, low rank at random, as in the source. Sigmoid units, Adam at 1e-3
falling to 0, five epochs (two of pretraining), three seeds. Nothing is chosen.

What the source ends in, that 95 % can be predicted without a substantial drop, is asked of networks that are trained
for longer, twenty epochs; the rate (4e-3 for the predicted one) was chosen on 10,000 of the training
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
from experiment import Experiment, Figure, Mean, Runs, Values, main, mean_of, percent, spread
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
    """For each seed the dense network, columns at 4 %, then every kind by share; dense and ten columns for longer."""
    data, test = (flat(split) for split in mnist(runs))
    for seed in SEEDS[:1] if runs.quick else SEEDS:
        start = cache(partial(pretrained, data, seed, 1 if runs.quick else PRETRAINING))
        for name, job in _jobs(start, seed, quick=runs.quick).items():
            runs.take(
                f"{name}, seed {seed}",
                lambda job=job, seed=seed: fine_tune(job[0](), data, test, seed, *job[1:]),
                seed=seed,
            )


def _jobs(
    start: Callable[[], list[tuple[nn.Linear, Metric]]], seed: int, *, quick: bool
) -> dict[str, tuple[Callable[[], list[nn.Module]], int, float]]:
    """Every run of one seed: its first two layers, its epochs and its rate."""
    epochs = 1 if quick else EPOCHS

    def some(kind: str, share: float, columns: int) -> Callable[[], list[nn.Module]]:
        return lambda: predicted(start(), kind, share, columns, seed)  # type: ignore[return-value]

    jobs = {"dense": (partial(_dense, start), epochs, 1e-3)}
    for columns in (10,) if quick else COLUMNS:
        jobs[f"{BEST}, 4 %, J = {columns}"] = (some(BEST, 0.04, columns), epochs, 1e-3)
    for share in (0.1,) if quick else SHARES:
        jobs |= {f"{kind}, {share:.0%}, J = 1": (some(kind, share, 1), epochs, 1e-3) for kind in KINDS}
        jobs[f"low rank, {share:.0%}"] = (partial(low_rank, share), epochs, 1e-3)  # type: ignore[assignment]
    if not quick:
        jobs |= {_DENSE: (partial(_dense, start), LONG, 1e-3), _TEN: (some(BEST, 0.04, 10), LONG, 4e-3)}
    return jobs


def _dense(start: Callable[[], list[tuple[nn.Linear, Metric]]]) -> list[nn.Module]:
    """Copies of the layers themselves."""
    return [copy.deepcopy(layer) for layer, _ in start()]


def figures(runs: Mapping[str, Values]) -> list[Figure]:
    """The sentence that the source ends in, and what its two plots compare."""
    full = 784 * 500 + 500 * 500
    whole, ten = _mean(runs, _DENSE), _mean(runs, _TEN)
    rows = []
    what = "784-500-500-10: error with > 95 % of the first two layers predicted, 10 columns"
    if whole and ten:
        share = 1 - next(run["learned"] for name, run in runs.items() if name.startswith(_TEN)) / full
        shown = f"{ten.shown(percent)} with {share:.1%} predicted, dense {whole.shown(percent)}"
        reached = share > 0.95 and ten.mean <= whole.mean + 0.005
        rows.append(Figure("D", what, "no substantial drop", shown, reached, f"{LONG} epochs; {_NO_DROP}"))
    else:
        rows.append(Figure("D", what, "no substantial drop", None))
    by_columns = {str(columns): _mean(runs, f"{BEST}, 4 %, J = {columns}") for columns in COLUMNS}
    shown, means = _all(by_columns)
    helps = means["10"].mean < means["1"].mean if means else None
    rows.append(
        Figure("D", "error by columns, 4 % learned", "more columns help", shown, helps, "reached: 10 columns below one")
    )
    for share in SHARES:
        found = {kind: _mean(runs, f"{kind}, {share:.0%}, J = 1") for kind in KINDS}
        found["low rank"] = _mean(runs, f"low rank, {share:.0%}")
        shown, means = _all(found)
        reached = kernels_win(means) if means else None
        what, theirs = f"{share:.0%} learned: kernels beat random U", "SE and covariance below random and identity"
        rows.append(Figure("D", what, theirs, shown, reached, "reached: by more than a standard error"))
    return rows


def _mean(runs: Mapping[str, Values], name: str) -> Mean | None:
    return mean_of(runs, [f"{name}, seed {seed}" for seed in SEEDS], "test_error")


def _all(means: Mapping[str, Mean | None]) -> tuple[str | None, dict[str, Mean]]:
    """What is known of ``means`` as a text, and, where all are, themselves."""
    known = {name: mean for name, mean in means.items() if mean}
    text = ", ".join(f"{name}: {mean.shown(percent)}" for name, mean in known.items())
    return text or None, known if len(known) == len(means) else {}


def kernels_win(means: Mapping[str, Mean]) -> bool:
    """Whether every kernel, SE or covariance, is below random and identity by more than a standard error."""
    worst = max((means[kind] for kind in KINDS if kind not in POOR), key=lambda mean: mean.mean)
    best = min((means[kind] for kind in POOR), key=lambda mean: mean.mean)
    return best.mean - worst.mean > spread(worst, best)


EXPERIMENT = Experiment(5, "denil", "Predicted parameters: kinds of U, shares, columns", 60, measure, figures)

if __name__ == "__main__":
    raise SystemExit(main(EXPERIMENT, __doc__))
