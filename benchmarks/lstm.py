"""An LSTM that reads MNIST row by row (28 steps of 28 pixels, 128 hidden units), trained here, then three methods.

Both dense maps of the LSTM are replaced, the recurrent one too, at the size of the first method; each network is
distilled equally. Nothing is chosen by the test images. Writes ``benchmarks/results/lstm.json``. Needs the data folder
(``COMPRESSOR_DATA``, default ``../shared/data``).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from comparison import row, sides
from facts import facts, keep, parser, show
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
    epochs = 1 if quick else 4
    recipe = make_recipe(method=methods[0], settings={"rank": rank}, target=("lstm",), epochs=epochs, seed=seed)
    few = slice(0, 1000 if quick else 20000)
    held = slice(0, 1000 if quick else None)
    result = compare(
        recipe, methods, model=model, data=(x[few], labels[few]), eval_data=(test_x[held], test_labels[held])
    )
    report = result.report
    rows = [{**row(name, side), "error": side.error} for name, side, _ in sides(report)]
    return {**facts(seed), "rank": rank, "epochs": epochs, "wall_time_s": report.wall_time_s, "rows": rows}


def main() -> int:
    """Measure, print, keep; the exit status."""
    arguments = parser(__doc__, quick="1,000 images, one or two epochs; nothing kept")
    arguments.add_argument("--methods", default=METHODS, help="the first is SVD; the others get its size")
    arguments.add_argument("--rank", type=int, default=4, help="of the SVD")
    options = arguments.parse_args()
    result = measure(options.methods.split(","), options.rank, options.quick, options.seed)
    lines = (
        f"{found['name']:10} {found['dense_params']:>9,} dense params {found['error']:7.2%} error"
        f"  {found['macs']:>11,} MACs  {found['latency_ms']:.3f} ms"
        for found in result["rows"]
    )
    show(result, lines, as_json=options.json)
    if not options.quick and options.methods == METHODS:
        keep("lstm", result)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
