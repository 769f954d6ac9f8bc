"""all-MiniLM-L6-v2 from its Hugging Face folder: three methods in its encoder, and what sentences it still tells apart.

Spearman correlation of the cosine between two sentences with the human scores of SICK (trial pairs), and the mean
cosine between the compressed network's embedding and the original's. Calibrated on training sentences; every method
has the size of the first. Writes ``benchmarks/results/minilm.json``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from comparison import row, sides
from facts import facts, keep, parser, show
from packages import minilm, sentence_pairs
from scipy.stats import spearmanr
from torch import Tensor, nn

from compressor.measure import first_output
from compressor.pipeline import compare, make_recipe

METHODS = "svd,monarch,pruned"  # what fits without training reaches its best at once
LENGTH = 32  # tokens; the longest of SICK's trial pairs has them all


def load() -> tuple[nn.Module, Callable[[list[str]], dict[str, Tensor]]]:
    """The network, and what turns sentences into its inputs, each ``(sentences, LENGTH)``."""
    from transformers import AutoModel, AutoTokenizer

    folder = str(minilm())
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)

    def tokenize(texts: list[str]) -> dict[str, Tensor]:
        words = tokenizer(texts, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt")
        return {name: words[name] for name in ("input_ids", "attention_mask")}

    return AutoModel.from_pretrained(folder, local_files_only=True).eval(), tokenize


@torch.no_grad()
def embed(model: nn.Module, tokens: dict[str, Tensor]) -> Tensor:
    """One unit vector a sentence: the mean of its tokens' last states, ``(sentences, width)``."""
    found = []
    for ids, mask in zip(tokens["input_ids"].split(64), tokens["attention_mask"].split(64), strict=True):
        states = first_output(model(ids, mask))
        found.append((states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))
    return nn.functional.normalize(torch.cat(found), dim=-1)


class Likeness:
    """Figures of one network after another: Spearman with human scores, cosine with the original's embeddings."""

    def __init__(self, model: nn.Module, tokenize: Callable[[list[str]], dict[str, Tensor]], quick: bool) -> None:
        first, second, self.scores = (part[:100] if quick else part for part in sentence_pairs("trial"))
        self.tokens = tokenize([*first, *second])
        self.original = embed(model, self.tokens)
        self.cosines: dict[float, float] = {}  # by the Spearman figure of the same network

    def __call__(self, model: nn.Module) -> float:
        vectors = embed(model, self.tokens)
        one, other = vectors.chunk(2)
        found = float(spearmanr((one * other).sum(1).numpy(), self.scores).statistic)
        self.cosines[found] = float((vectors * self.original).sum(1).mean())
        return found


def measure(methods: list[str], fraction: float, epochs: int, quick: bool, seed: int) -> dict[str, Any]:
    """The rows of all methods at the size of SVD with rank ``fraction`` of each layer's smaller side."""
    model, tokenize = load()
    first, second, _ = sentence_pairs("train")
    sentences = [*first, *second][:: 150 if quick else 9]
    likeness = Likeness(model, tokenize, quick)
    recipe = make_recipe(
        method=methods[0], settings={"fraction": fraction}, target=("encoder.*",), epochs=epochs, seed=seed
    )
    result = compare(recipe, methods, model=model, data=tokenize(sentences), eval_fn=likeness)
    report = result.report
    rows = [
        {**row(name, side), "spearman": side.value, "cosine": likeness.cosines[side.value]}
        for name, side, _ in sides(report)
        if side.value is not None
    ]
    layers = sum(layer.method is not None for layer in report.layers)
    return {
        **facts(seed), "sentences": len(sentences), "epochs": epochs, "fraction": fraction,
        "layers": layers, "wall_time_s": report.wall_time_s, "rows": rows,
    }  # fmt: skip


def main() -> int:
    """Measure, print, keep; the exit status."""
    arguments = parser(__doc__, quick="60 sentences, 100 pairs; nothing kept")
    arguments.add_argument("--methods", default=METHODS, help="the first is SVD; the others get its size")
    arguments.add_argument("--fraction", type=float, default=0.2, help="rank of the SVD over each layer's smaller side")
    arguments.add_argument("--epochs", type=int, default=0, help="of distillation after the fit")
    options = arguments.parse_args()
    result = measure(options.methods.split(","), options.fraction, options.epochs, options.quick, options.seed)
    lines = [
        f"{found['name']:10} {found['dense_params']:>11,} dense params  Spearman {found['spearman']:.4f}"
        f"  cosine {found['cosine']:.4f}  {found['latency_ms']:.2f} ms"
        for found in result["rows"]
    ]
    show(result, [f"{result['layers']} layers", *lines], as_json=options.json)
    if not options.quick and options.methods == METHODS:
        keep("minilm", result)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
