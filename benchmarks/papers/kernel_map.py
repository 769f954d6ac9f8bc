"""An extensible 2-D map of digits, drawn with test images that the network never saw (Müller et al., 3.3, fig. 5, 6).

784-500-500-K400-500-(10 or 784): the units of the kernelized layer lie on a grid of 20x20; what lies below a level
between their mean and their maximum is cut (eq. 9), and an image's place is the centre of mass of the rest (eq. 10).
Trained as a classifier and as an autoencoder, three epochs each; the source's layers are four times as wide. Written
beside the results: a PNG of each, and one of what the autoencoder constructs in a window of its map. Figures are not
printed in the source; what is counted here is how often the nearest of 5,000 mapped training images has the class of a
test image, and how many of the constructed digits the classifier reads.
The grid is as wide as three of the kernel's lengths: of 1.5, 2, 3 and 6, tried by hand, the one that rebuilt 2,000
held-back training images best; with 6 the units fall into many groups.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, partial
from typing import Any

import torch
from classification import Split, error, flat, mnist, outputs, train
from experiment import RESULTS, Experiment, Figure, Runs, Values, main
from facts import pyplot
from torch import Tensor, nn

from compressor.layers import KernelNet

SIDE, EXTENT, WIDTH, EPOCHS, LEVEL = 20, 3.0, 500, 3, 0.5
DIGITS = 16  # along a side of the window


class Peak(nn.Module):
    """``max(0, x − (η max + (1 − η) mean))``, eq. 9."""

    def forward(self, x: Tensor) -> Tensor:
        """``(..., units)``."""
        level = LEVEL * x.amax(-1, keepdim=True) + (1 - LEVEL) * x.mean(-1, keepdim=True)
        return (x - level).relu()


def kernelized(inputs: int, side: int) -> list[nn.Module]:
    """``side**2`` units on a grid, and what is cut of them; places of inputs are trained, those of units stay."""
    grid, spacing = f"{side}x{side}", EXTENT / side
    return [KernelNet(inputs, side**2, kernel="gaussian", d=2, out_grid=grid, learn=False, spacing=spacing), Peak()]


def network(outputs: int, width: int = WIDTH) -> nn.Sequential:
    """Below the map, the map, and above it."""
    below = [nn.Linear(784, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
    above = [nn.Linear(SIDE**2, width), nn.ReLU(), nn.Linear(width, outputs)]
    return nn.Sequential(nn.Sequential(*below, *kernelized(width, SIDE)), nn.Sequential(*above))


def mapping(model: nn.Sequential) -> KernelNet:
    """The kernelized layer."""
    return next(layer for layer in model[0] if isinstance(layer, KernelNet))


def places(model: nn.Sequential, x: Tensor) -> Tensor:
    """Centre of mass of the map for each image, ``(n, 2)``, eq. 10."""
    seen = outputs(model[0], x)
    with torch.no_grad():
        return seen @ mapping(model).places()[1] / seen.sum(1, keepdim=True).clamp_min(1e-9)


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
    plt.close(figure)


def window(model: nn.Sequential, x: Tensor) -> Tensor:
    """Centres ``(DIGITS**2, 2)``, row by row, between the 10th and the 90th percentile of where ``x`` lies."""
    low, high = (places(model, x).quantile(share, dim=0).tolist() for share in (0.1, 0.9))
    return torch.cartesian_prod(*(torch.linspace(a, b, DIGITS) for a, b in zip(low, high, strict=True)))


@torch.no_grad()
def constructed(model: nn.Sequential, centres: Tensor, mass: float) -> Tensor:
    """What is decoded from the kernel itself about each of ``centres (n, 2)``, eq. 9 applied: ``(n, 784)``, 0 to 1.

    ``mass`` is the sum of such an artificial activation; the source does not give its height.
    """
    return outputs(model[1], bumps(model, centres, mass)).sigmoid()


@torch.no_grad()
def bumps(model: nn.Sequential, centres: Tensor, mass: float) -> Tensor:
    """The artificial activations, ``(n, units)``."""
    kernel = mapping(model)
    found = Peak()(kernel.kernel(kernel.places()[1], centres))
    return found * mass / found.sum(1, keepdim=True)


def read(classifier: nn.Sequential, images: Tensor) -> Tensor:
    """The class of each image that ``classifier`` gives a probability above 0.9, for others −1."""
    probability, label = outputs(classifier, images).softmax(1).max(1)
    return torch.where(probability > 0.9, label, -1)


def travel(model: nn.Sequential, classifier: nn.Sequential, data: Split, test: Split) -> tuple[Tensor, Values]:
    """Digits constructed along the window, and what can be said of them beside images never seen.

    Change: the mean difference of a pixel between neighbours in the window, between a test image and the nearest one
    on the map.
    """
    known = data[0][:5000]
    digits = constructed(model, window(model, known), float(outputs(model[0], known).sum(1).mean()))
    grid = digits.view(DIGITS, DIGITS, -1)
    steps = torch.cat(((grid[1:] - grid[:-1]).flatten(0, 1), (grid[:, 1:] - grid[:, :-1]).flatten(0, 1)))
    unseen = test[0][:5000]
    apart = torch.cdist(*(places(model, unseen),) * 2).fill_diagonal_(torch.inf)
    seen = read(classifier, digits)
    shares = {"read": seen, "read_real": read(classifier, unseen)}
    shares["read_rebuilt"] = read(classifier, outputs(model, unseen).sigmoid())
    return digits, {
        **{name: float((labels >= 0).float().mean()) for name, labels in shares.items()},
        "classes": len(set(seen.tolist()) - {-1}),
        "change": float(steps.abs().mean()),
        "change_real": float((unseen - unseen[apart.argmin(1)]).abs().mean()),
    }


def draw_window(digits: Tensor) -> None:
    """The constructed digits side by side."""
    plt: Any = pyplot()
    if plt is None:
        return
    picture = digits.view(DIGITS, DIGITS, 28, 28).transpose(1, 2).reshape(DIGITS * 28, DIGITS * 28)
    picture = (picture * 15).round() / 15  # a small file
    plt.imsave(RESULTS / "kernel_map_window.png", picture.numpy(), cmap="gray_r", metadata={"Software": None})


def learned(name: str, data: Split, seed: int, *, quick: bool) -> tuple[nn.Sequential, list[float]]:
    """The classifier or the autoencoder, trained, and the loss of each epoch."""
    torch.manual_seed(seed)
    classifier = name == "classifier"
    model = network(10 if classifier else 784, 50 if quick else WIDTH)

    def reconstruction(given: Tensor, _: Tensor, inputs: Tensor) -> Tensor:
        return nn.functional.binary_cross_entropy_with_logits(given, inputs)

    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    curve = train(
        model, data, epochs=1 if quick else EPOCHS, optimizer=optimizer, seed=seed, cosine=True,
        loss_of=None if classifier else reconstruction,
    )  # fmt: skip
    return model, curve


def measure(runs: Runs) -> None:
    """The classifier and the autoencoder, then both for the window."""
    data, test = (flat(split) for split in mnist(runs))
    trained = cache(lambda name: learned(name, data, runs.seed, quick=runs.quick))

    def run(name: str) -> Values:
        model, curve = trained(name)
        if not runs.quick:
            draw(model, test, name)
        found = {"nearest_agree": nearest_agree(model, data, test), "curve": curve}
        return {**found, "test_error": error(model, test)} if name == "classifier" else found

    def constructing() -> Values:
        digits, found = travel(trained("autoencoder")[0], trained("classifier")[0], data, test)
        if not runs.quick:
            draw_window(digits)
        return found

    for name in ("classifier", "autoencoder"):
        runs.take(name, partial(run, name))
    runs.take("window", constructing)


def figures(runs: Mapping[str, Values]) -> list[Figure]:
    """Neither figure has numbers."""
    rows = []
    for name in ("classifier", "autoencoder"):
        run = runs.get(name)
        shown = (
            None
            if run is None
            else f"kernel_map_{name}.png; nearest neighbour on it right for {run['nearest_agree']:.1%}"
        )
        rows.append(Figure("K fig. 5", f"2-D map of unseen digits, {name}", "a picture", shown))
    what = "digits constructed from an artificial Gaussian in a window of the autoencoder's map"
    if "window" not in runs:
        return [*rows, Figure("K fig. 6", what, "a picture", None)]
    run = runs["window"]
    shown = (
        f"kernel_map_window.png; of {DIGITS}×{DIGITS} the classifier reads {run['read']:.1%} with a probability above"
        f" 0.9, {run['classes']} classes (of test images {run['read_real']:.1%}, rebuilt {run['read_rebuilt']:.1%});"
        f" neighbours differ by {run['change']:.4f} a pixel, test images from the nearest on the map by"
        f" {run['change_real']:.4f}"
    )
    why = (
        "window: 10th to 90th percentile of training images; the Gaussian's sum is theirs; activations of images have"
        " three to four peaks (counted by hand), so that one Gaussian is unlike them; tried by hand, grids of 2 and 6"
        " lengths: 47.7 % and 42.6 % read; one run"
    )
    return [*rows, Figure("K fig. 6", what, "a picture", shown, why=why)]


EXPERIMENT = Experiment(6, "kernel_map", "KernelNet: the extensible 2-D map", 4, measure, figures)

if __name__ == "__main__":
    raise SystemExit(main(EXPERIMENT, __doc__))
