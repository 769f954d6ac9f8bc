"""How many unique elements a sequence has: an LSTM, plain, noisy, and noisy with annealing (Moczulski 2019, table 4.5).

26 integers from 0 to 10, drawn anew for every batch; the mean of the LSTM's states goes through one ReLU layer to a
softmax over the counts. The source gives no more: here 64 units in both, batches of 64, Adam at 5e-3 (norm of the
gradients cut at 1), and fewer updates than its schedule needs. c falls from 30 as ``30 / √(t + 1)``: the source counts
t every 200 updates, which takes 720,000 to 0.5; here t is one more each update, and c is at 0.67 after four fifths of
the 2,500 and ends at 0.60.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from experiment import Experiment, Figure, Runs, Values, at_most, main, mean_of, percent, spread
from torch import Tensor, nn

from compressor.train import Annealing, noisy_

LENGTH, LARGEST, UNITS, BATCH, UPDATES, SEEDS = 26, 10, 64, 64, 2500, (0, 1, 2)
_START, _END, _KEPT = 30.0, 0.5, 1.0
PUBLISHED = {"plain": 0.3328, "nan": 0.3112, "nan, annealed": 0.0953, "nanil, annealed": 0.2094}


class Counter(nn.Module):
    """LSTM, mean over time, ReLU layer, softmax over 0 to LARGEST + 1; its activations are modules, to be swapped."""

    def __init__(self, units: int = UNITS) -> None:
        super().__init__()
        self.units = units
        self.given = nn.Embedding(LARGEST + 1, 4 * units)
        self.state = nn.Linear(units, 4 * units)
        self.gate, self.squash, self.shown = nn.Sigmoid(), nn.Tanh(), nn.Tanh()
        self.head = nn.Sequential(nn.Linear(units, units), nn.ReLU(), nn.Linear(units, LARGEST + 2))
        with torch.no_grad():  # at first the LSTM keeps what it has seen
            self.given.weight *= 0.5
            self.given.weight[:, units : 2 * units] += _KEPT

    def forward(self, x: Tensor) -> Tensor:
        h = c = x.new_zeros(len(x), self.units, dtype=self.state.weight.dtype)
        total = h
        for given in self.given(x).unbind(1):
            gates = given + self.state(h)
            take, keep, show = self.gate(gates[:, : 3 * self.units]).chunk(3, 1)
            c = keep * c + take * self.squash(gates[:, 3 * self.units :])
            h = show * self.shown(c)
            total = total + h
        return self.head(total / x.shape[1])


def sequences(rows: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Sequences ``(rows, length)`` and how many unique elements each has."""
    x = torch.randint(0, LARGEST + 1, (rows, length), generator=generator)
    return x, nn.functional.one_hot(x, LARGEST + 1).amax(1).sum(1)


def learn(kind: str, seed: int, updates: int, *, length: int = LENGTH, units: int = UNITS) -> Values:
    """Train on fresh sequences; the error on others, and the loss at every hundredth of the way."""
    model = Counter(units)
    noise, _, annealed = kind.partition(", ")
    if noise != "plain":
        noisy_(model, noise)
    counts = (_START / _END) ** 2
    annealing = Annealing(model, _START, _END, max(1, round(0.8 * updates / counts))) if annealed else None
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    generator = torch.Generator().manual_seed(seed)
    curve, total, every = [], 0.0, max(1, updates // 50)
    for update in range(updates):
        x, y = sequences(BATCH, length, generator)
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if annealing is not None:
            annealing.step()
        total += loss.item()
        if (update + 1) % every == 0:
            curve.append(round(total / every, 4))
            total = 0.0
    model.eval()
    with torch.no_grad():
        x, y = sequences(5000, length, torch.Generator().manual_seed(10_000 + seed))
        error = float((model(x).argmax(1) != y).float().mean())
        commonest = float((y != y.mode().values).float().mean())
    return {"test_error": error, "commonest_error": commonest, "updates": updates, "curve": curve}


def measure(runs: Runs) -> None:
    """Every kind, seed by seed."""
    updates = 50 if runs.quick else UPDATES
    for seed in SEEDS[:1] if runs.quick else SEEDS:
        for kind in PUBLISHED:
            runs.take(f"{kind}, seed {seed}", lambda kind=kind, seed=seed: learn(kind, seed, updates), seed=seed)


def figures(runs: Mapping[str, Values]) -> list[Figure]:
    """Table 4.5, and its order."""
    means = {kind: mean_of(runs, [f"{kind}, seed {seed}" for seed in SEEDS], "test_error") for kind in PUBLISHED}
    why = f"{UPDATES:,} updates of {BATCH}; the source gives neither sizes nor updates"
    rows = [
        at_most("M tab. 4.5", f"unique elements, {kind}: test error", theirs, means[kind], percent, why)
        for kind, theirs in PUBLISHED.items()
    ]
    plain, noisy, annealed = (means[kind] for kind in list(PUBLISHED)[:3])
    order, by_order = (
        "annealed NAN below NAN",
        f"{percent(PUBLISHED['nan, annealed'])} against {percent(PUBLISHED['nan'])}",
    )
    what, theirs = "annealed noise is better than plain by", "23.75 points"
    if plain is None or annealed is None or noisy is None:
        return [*rows, Figure("M tab. 4.5", order, by_order, None), Figure("M tab. 4.5", what, theirs, None)]
    shown = f"{annealed.shown(percent)} against {noisy.shown(percent)}"
    rows.append(Figure("M tab. 4.5", order, by_order, shown, annealed.mean < noisy.mean, why))
    by = 100 * (plain.mean - annealed.mean)
    shown = f"{by:.2f} ± {100 * spread(plain, annealed):.2f} points"
    known = [runs[name] for seed in SEEDS if (name := f"plain, seed {seed}") in runs]
    untrained = sum(run["test_error"] >= run["commonest_error"] for run in known)
    why += f"; of {len(known)} plain runs {untrained} hardly trained: no better than the commonest count for all"
    return [*rows, Figure("M tab. 4.5", what, theirs, shown, by >= 23.75, why)]


EXPERIMENT = Experiment(8, "unique_elements", "Number of unique elements: annealed noise", 25, measure, figures)

if __name__ == "__main__":
    raise SystemExit(main(EXPERIMENT, __doc__))
