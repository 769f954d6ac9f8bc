"""An extensible 2-D map of digits, drawn with test images that the network never saw (Müller et al., 3.3, fig. 5).

784-500-500-K400-500-(10 or 784): the units of the kernelized layer lie on a grid of 20x20; what lies below a level
between their mean and their maximum is cut (eq. 9), and an image's place is the centre of mass of the rest (eq. 10).
Trained as a classifier and as an autoencoder, three epochs each; the source's layers are four times as wide. Written
beside the results: a PNG of each. Figures are not printed in the source; what is counted here is how often the
nearest of 5,000 mapped training images has the class of a test image.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from classification import Split, error, flat, mnist, outputs, train
from experiment import RESULTS, Experiment, Figure, Runs, Values, main
from facts import pyplot
from torch import Tensor, nn

from compressor.layers import KernelNet

SIDE, WIDTH, EPOCHS, LEVEL = 20, 500, 3, 0.5


class Peak(nn.Module):
    """``max(0, x − (η max + (1 − η) mean))``, eq. 9."""

    def forward(self, x: Tensor) -> Tensor:
        """``(..., units)``."""
        level = LEVEL * x.amax(-1, keepdim=True) + (1 - LEVEL) * x.mean(-1, keepdim=True)
        return (x - level).relu()


def network(outputs: int, width: int = WIDTH) -> nn.Sequential:
    """Below the map, the map, and above it."""
    below = [nn.Linear(784, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
    kernel = KernelNet(width, SIDE**2, kernel="gaussian", d=2, out_grid=f"{SIDE}x{SIDE}", learn=False, spacing=0.3)
    above = [nn.Linear(SIDE**2, width), nn.ReLU(), nn.Linear(width, outputs)]
    return nn.Sequential(nn.Sequential(*below, kernel, Peak()), nn.Sequential(*above))


def places(model: nn.Sequential, x: Tensor) -> Tensor:
    """Centre of mass of the map for each image, ``(n, 2)``, eq. 10."""
    seen = outputs(model[0], x)
    kernel = next(layer for layer in model[0] if isinstance(layer, KernelNet))
    with torch.no_grad():
        return seen @ kernel.places()[1] / seen.sum(1, keepdim=True).clamp_min(1e-9)


def nearest_agree(model: nn.Sequential, data: Split, test: Split) -> float:
    """Share of the test images whose nearest mapped training image is of their class."""
    own, known = places(model, test[0]), places(model, data[0][:5000])
    found = torch.cat([torch.cdist(part, known).argmin(1) for part in own.split(1000)])
    return float((data[1][found] == test[1]).float().mean())


def draw(model: nn.Sequential, test: Split, name: str) -> None:
    """Points by class on the left, some of the images at their places on the right."""
    plt: Any = pyplot()
    if plt is None:
        return
    at = places(model, test[0])
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 6))
    left.scatter(at[:, 1], -at[:, 0], c=test[1], cmap="tab10", s=2)
    for place, image in list(zip(at, test[0], strict=True))[:600]:
        across, up = float(place[1]), -float(place[0])
        size = 0.09
        box = (across - size, across + size, up - size, up + size)
        right.imshow(image.reshape(28, 28), cmap="gray_r", extent=box, alpha=0.7)
    for axes in (left, right):
        axes.set(xlim=(float(at[:, 1].min()), float(at[:, 1].max())), aspect="equal", xticks=[], yticks=[])
        axes.set_ylim(-float(at[:, 0].max()), -float(at[:, 0].min()))
    figure.suptitle(f"MNIST test images, never seen: {name}")
    figure.tight_layout()
    figure.savefig(RESULTS / f"kernel_map_{name}.png", dpi=100, metadata={"Software": None})


def measure(runs: Runs) -> None:
    """The classifier and the autoencoder."""
    data, test = (flat(split) for split in mnist(runs))

    def run(name: str) -> Values:
        classifier = name == "classifier"
        model = network(10 if classifier else 784, 50 if runs.quick else WIDTH)

        def reconstruction(given: Tensor, _: Tensor, inputs: Tensor) -> Tensor:
            return nn.functional.binary_cross_entropy_with_logits(given, inputs)

        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        curve = train(
            model, data, epochs=1 if runs.quick else EPOCHS, optimizer=optimizer, seed=runs.seed, cosine=True,
            loss_of=None if classifier else reconstruction,
        )  # fmt: skip
        if not runs.quick:
            draw(model, test, name)
        found = {"nearest_agree": nearest_agree(model, data, test), "curve": curve}
        return {**found, "test_error": error(model, test)} if classifier else found

    for name in ("classifier", "autoencoder"):
        runs.take(name, lambda name=name: run(name))


def figures(runs: Mapping[str, Values]) -> list[Figure]:
    """Figure 5 has no numbers."""
    rows = []
    for name in ("classifier", "autoencoder"):
        run = runs.get(name)
        shown = (
            None
            if run is None
            else f"kernel_map_{name}.png; nearest neighbour on it right for {run['nearest_agree']:.1%}"
        )
        rows.append(Figure("K fig. 5", f"2-D map of unseen digits, {name}", "a picture", shown))
    return rows


EXPERIMENT = Experiment(6, "kernel_map", "KernelNet: the extensible 2-D map", 3, measure, figures)

if __name__ == "__main__":
    raise SystemExit(main(EXPERIMENT, __doc__))
