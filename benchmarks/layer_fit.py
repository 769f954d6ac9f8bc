"""Every family on real layers: error in the metric of what the layer sees against the numbers stored, at five budgets.

The layers: ip1 of the papers' Caffe LeNet under MNIST; a feed-forward pair and an attention query of all-MiniLM-L6-v2
under real sentences. One fit each, no training. Judged: a closed form is where L-BFGS in float64 finds no way down
(1e-6); a fit by gradient is never worse than its own random start. Writes ``results/layer_fit.json`` and ``.png``.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from facts import RESULTS, facts, keep, parser, pyplot, show
from packages import data_folder, minilm, mnist_in, sentence_pairs
from torch import Tensor, nn
from zoo import caffe_lenet

from compressor.calibrate import moments
from compressor.layers import Metric, StructuredLayer, methods
from compressor.layers.base import Method
from compressor.measure import low_rank_errors
from compressor.prefix import Prefix

BUDGETS = (0.01, 0.04, 0.1, 0.25, 0.5)  # of the dense layer's parameters
MOST_GAIN = 1e-6  # of the relative error, that L-BFGS may find below a closed form
_MOST_WIDTH_POLISHED = 1024


@dataclass(frozen=True)
class Layer:
    """A dense layer of a real model and what it sees."""

    name: str
    weight: Tensor  # (out, in)
    bias: Tensor | None
    metric: Metric


def lenet_layer() -> Layer:
    """ip1, 800 → 500, under 4,096 training images."""
    model = caffe_lenet()
    state = data_folder() / "lenet_caffe" / "lenet_state_dict.pt"
    model.load_state_dict(torch.load(state, weights_only=True))
    images = torch.from_numpy(mnist_in(data_folder() / "mnist").train[0][:4096].copy()).float() / 256
    return _seen("lenet.ip1", model.eval(), "ip1", [(part,) for part in images.split(256)])


def minilm_layers(names: tuple[str, ...]) -> Iterator[Layer]:
    """Layers of the third block, under the sentences of SICK's training pairs."""
    from transformers import AutoModel, AutoTokenizer

    folder = str(minilm())
    model = AutoModel.from_pretrained(folder, local_files_only=True).eval()
    tokenize = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    texts = sentence_pairs("train")[0][:2048]
    batches = []
    for start in range(0, len(texts), 64):
        words = tokenize(texts[start : start + 64], padding=True, return_tensors="pt")
        batches.append((words["input_ids"], words["attention_mask"]))
    for name in names:
        yield _seen(f"minilm.{name}", model, f"encoder.layer.2.{name}", batches)


def _seen(name: str, model: nn.Module, site: str, batches: list[tuple[Tensor, ...]]) -> Layer:
    """The layer at ``site`` with the moments of its inputs."""
    dense = model.get_submodule(site)
    assert isinstance(dense, nn.Linear)
    with torch.no_grad():
        network = Prefix(model)
        collected = moments(site, network, network, batches, same_prefix=True)
    weight, bias, metric = collected.target(dense.weight.detach(), dense.bias.detach())
    return Layer(name, weight, bias, metric)


def measure(layer: Layer, family: Method, budget: float, seed: int) -> dict[str, Any]:
    """One fit of ``family`` within ``budget``: what it stores, how far it is off, where it began."""
    out_features, in_features = layer.weight.shape
    most = int(budget * (layer.weight.numel() + out_features))
    config = family.layer.config_for_params(in_features, out_features, True, most, family.config())
    torch.manual_seed(seed)
    started = time.monotonic()
    fitted = family.layer.from_dense(layer.weight, layer.bias, config, layer.metric)
    seconds = time.monotonic() - started
    error = off(fitted, layer)
    stored = fitted.finished()
    row = {
        "layer": layer.name,
        "family": family.name,
        "budget": budget,
        "params": stored.params(),
        "macs": stored.macs(),
        "error": error,
        "seconds": seconds,
        "is_exact": fitted.is_exact,
    }
    if fitted.is_exact:
        if in_features <= _MOST_WIDTH_POLISHED:
            row["gain_of_lbfgs"] = error - polished(fitted, layer)
    else:
        start = family.layer(in_features, out_features, config=fitted.config)
        row["random_start"] = off(start, layer, scaled=True)
    return row


@torch.no_grad()
def off(fitted: StructuredLayer, layer: Layer, *, scaled: bool = False) -> float:
    """The relative error in the metric; with ``scaled``, at the best multiple of the map."""
    weight, found = layer.weight.double(), fitted.double().dense()[0]
    if scaled:
        seen = found @ layer.metric.covariance
        found = found * float((seen * weight).sum() / (seen * found).sum().clamp_min(1e-30))
    return layer.metric.relative_error(weight, found)


def polished(fitted: StructuredLayer, layer: Layer) -> float:
    """The error after L-BFGS in float64 from the fit on: the same where the fit is the optimum."""
    fitted = fitted.double()
    root, weight = layer.metric.root(), layer.weight.double()
    total = (weight @ root).square().sum()
    trained = [parameter for name, parameter in fitted.named_parameters() if fitted.kind(name) != "bias"]
    never = {"tolerance_grad": 0.0, "tolerance_change": 0.0}  # stop early
    optimizer = torch.optim.LBFGS(trained, max_iter=25, line_search_fn="strong_wolfe", **never)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss: Tensor = ((fitted.dense()[0] - weight) @ root).square().sum() / total
        loss.backward()
        return loss

    optimizer.step(closure)
    return off(fitted, layer)


def draw(result: dict[str, Any]) -> None:
    """The figure: one panel a layer, error against parameters, a line a family."""
    plt = pyplot()
    if plt is None:
        return
    layers = list(result["low_rank"])
    figure, grid = plt.subplots(2, 2, figsize=(13, 10), squeeze=False)
    for axes, name in zip(grid.flat, layers, strict=False):
        rows = [row for row in result["rows"] if row["layer"] == name]
        curve = result["low_rank"][name]
        axes.plot([params for params, _ in curve], [error for _, error in curve], color="black", label="best low rank")
        for number, family in enumerate(dict.fromkeys(row["family"] for row in rows)):
            mine = [row for row in rows if row["family"] == family]
            style = {"marker": "osv^Dx"[number % 6], "color": f"C{number % 10}", "linewidth": 1, "markersize": 4}
            axes.plot([row["params"] for row in mine], [row["error"] for row in mine], label=family, **style)
        axes.set(xscale="log", xlabel="numbers stored", ylabel="relative error in the metric", title=name, ylim=(0, 1))
    grid.flat[0].legend(fontsize=7, ncol=2)
    figure.tight_layout()
    figure.savefig(RESULTS / "layer_fit.png", dpi=110, metadata={"Software": None})


def failures(rows: list[dict[str, Any]]) -> list[str]:
    """What does not hold, in words."""
    found = []
    for row in rows:
        name = f"{row['family']} at {row['budget']:.0%} of {row['layer']}"
        if row.get("gain_of_lbfgs", 0) > MOST_GAIN:
            found.append(f"{name}: L-BFGS goes {row['gain_of_lbfgs']:.2e} below the closed form")
        if "random_start" in row and row["error"] > row["random_start"]:
            found.append(f"{name}: {row['error']:.3f}, its random start {row['random_start']:.3f}")
    return found


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """One table a layer: a line a family, a column a budget."""
    for layer in dict.fromkeys(row["layer"] for row in rows):
        yield f"\n{layer:24}" + "".join(f"{budget:>18.0%}" for budget in BUDGETS)
        for family in dict.fromkeys(row["family"] for row in rows):
            mine = {row["budget"]: row for row in rows if row["layer"] == layer and row["family"] == family}
            cells = [
                f"{mine[budget]['error']:.3f} ({mine[budget]['params']:,})" if budget in mine else "–"
                for budget in BUDGETS
            ]
            yield f"{family:24}" + "".join(f"{cell:>18}" for cell in cells)


def measure_all(
    layers: list[Layer], entries: list[Method], budgets: tuple[float, ...], seed: int, resume: Path | None
) -> list[dict[str, Any]]:
    """All rows; with ``resume`` those in the file are taken as they stand, and each new one is added to it."""
    known = [json.loads(line) for line in resume.read_text().splitlines()] if resume and resume.exists() else []
    done = {(row["layer"], row["family"], row["budget"]): row for row in known}
    rows = []
    for layer, family in itertools.product(layers, entries):
        with torch.device("meta"):
            if not family.layer(*layer.weight.shape[::-1], config=family.config()).is_linear:
                continue
        for budget in budgets:
            row = done.get((layer.name, family.name, budget))
            if row is None:
                row = measure(layer, family, budget, seed)
                if resume:
                    with resume.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(row) + "\n")
            rows.append(row)
            said = f"{row['params']:,} params, error {row['error']:.3f}, {row['seconds']:.1f} s"
            print(f"{layer.name} {family.name} {budget:.0%}: {said}", file=sys.stderr)
    return rows


def low_rank_curve(layer: Layer) -> list[tuple[int, float]]:
    """Numbers stored and error of the best map of each rank."""
    sides = sum(layer.weight.shape)
    curve = low_rank_errors(layer.weight, layer.metric)
    return [(rank * sides + len(layer.weight), error) for rank, error in curve]


def main() -> int:
    """Fit, print, keep; 1 when a fit is not what it should be."""
    arguments = parser(__doc__, quick="the LeNet layer at two budgets; nothing is kept")
    arguments.add_argument("--families", help="only these, separated by commas; nothing is kept")
    arguments.add_argument(
        "--resume", type=Path, metavar="FILE", help="rows are added to FILE; what it has is not redone"
    )
    options = arguments.parse_args()
    entries = [entry for name, entry in methods().items() if name == entry.layer.method]
    if options.families:
        entries = [entry for entry in entries if entry.name in options.families.split(",")]
    budgets = (0.04, 0.25) if options.quick else BUDGETS
    layers = [lenet_layer()]
    if not options.quick:
        layers += minilm_layers(("intermediate.dense", "output.dense", "attention.self.query"))
    started = time.monotonic()
    rows = measure_all(layers, entries, budgets, options.seed, options.resume)
    low_rank = {layer.name: low_rank_curve(layer) for layer in layers}
    result = {**facts(options.seed), "wall_time_s": time.monotonic() - started, "low_rank": low_rank, "rows": rows}
    show(result, table(rows), as_json=options.json)
    if not options.quick and not options.families:
        keep("layer_fit", result)
        draw(result)
    wrong = failures(rows)
    for line in wrong:
        print(f"FAIL {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
