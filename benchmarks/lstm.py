"""An LSTM that reads MNIST row by row (28 steps of 28 pixels, 128 hidden units), trained here, then three methods.

Both dense maps of the LSTM are replaced, the recurrent one too, at the size of the first method; each network is
distilled equally. Nothing is chosen by the test images. Writes ``benchmarks/results/lstm.json``. Needs the data folder
(``COMPRESSOR_DATA``, default ``../shared/data``).
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import torch
import torch.nn.functional as F
from facts import facts, keep
from packages import data_folder, mnist_in
from torch import Tensor, nn

from compressor.pipeline import compare, make_recipe

METHODS = "svd,acdc,fastfood"


class RowReader(nn.Module):
    """Images ``(batch, 28, 28)`` as sequences of rows; scores of the ten digits from the last state."""

    def __init__(self, hidden: int = 128) -> None:
        super().__init__()
        self.lstm = nn.LSTM(28, hidden, batch_first=True)
        self.out = nn.Linear(hidden, 10)

    def forward(self, x: Tensor) -> Tensor:
        _, (state, _) = self.lstm(x)
        y: Tensor = self.out(state[0])
        return y


def train(x: Tensor, labels: Tensor, epochs: int, seed: int) -> RowReader:
    """The reader, trained with AdamW and a falling rate."""
    torch.manual_seed(seed)
    model = RowReader()
    steps = epochs * (len(x) // 128)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(128)[: len(x) // 128]:
            optimizer.zero_grad()
            F.cross_entropy(model(x[rows]), labels[rows]).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    return model.eval()


def measure(methods: list[str], rank: int, quick: bool, seed: int) -> dict[str, Any]:
    """The rows of all methods at the size of SVD of ``rank``."""
    images = mnist_in(data_folder() / "mnist")
    step = 6 if quick else 1
    parts = [
        (torch.from_numpy(x.copy()).float()[:, 0] / 256, torch.from_numpy(y)) for x, y in (images.train, images.test)
    ]
    (x, labels), (test_x, test_labels) = parts
    model = train(x[: len(x) // step], labels[: len(x) // step], 2 if quick else 10, seed)
    recipe = make_recipe(
        method=methods[0], settings={"rank": rank}, target=("lstm",), epochs=1 if quick else 4, seed=seed
    )
    few = slice(0, 1000 if quick else 20000)
    held = slice(0, 1000 if quick else None)
    result = compare(
        recipe, methods, model=model, data=(x[few], labels[few]), eval_data=(test_x[held], test_labels[held])
    )
    report = result.report
    sides = [("original", report.before), (report.method, report.after)]
    sides += [(baseline.name, baseline.side) for baseline in report.baselines]
    rows = [
        {
            "name": name,
            "params": side.params,
            "dense_params": side.dense_params,
            "macs": side.macs,
            "onnx_bytes": side.size_bytes.get("model.onnx"),
            "error": side.error,
            "latency_ms": side.latency_ms["onnxruntime"]["1"].median,
        }
        for name, side in sides
    ]
    return {**facts(seed), "rank": rank, "wall_time_s": report.wall_time_s, "rows": rows}


def main() -> int:
    """Measure, print, keep; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="1,000 images, one or two epochs; nothing kept")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--methods", default=METHODS, help="the first is SVD; the others get its size")
    parser.add_argument("--rank", type=int, default=4, help="of the SVD")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    result = measure(options.methods.split(","), options.rank, options.quick, options.seed)
    if options.json:
        print(json.dumps(result, indent=2))
    else:
        for row in result["rows"]:
            print(
                f"{row['name']:10} {row['dense_params']:>9,} dense params {row['error']:7.2%} error"
                f"  {row['macs']:>11,} MACs  {row['latency_ms']:.3f} ms"
            )
    if not options.quick and options.methods == METHODS:
        keep("lstm", result)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
