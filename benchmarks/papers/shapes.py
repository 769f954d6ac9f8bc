"""The sources' tables by shape: the parameters and multiply-adds of every row that a formula gives, untrained.

Moczulski 2019, tables 3.1 to 3.5 (LeNet and CaffeNet, biases not counted), and Müller, Martel, Indiveri 2018, table 4
(MovieLens-1M). Exact to the digit that the formula gives; the source's number is printed beside it.

Table 4 is an item autoencoder: a film's ratings by 6,040 users in, 500 hidden units (once or twice), 6,040 ratings
out, with biases. MACs: of the inputs only 10 are rated, all outputs are wanted. KernelNet has d = 50, and λ for each
input. Sparse FC has d = 5 in the text and in the authors' code; the table's 6.70 and 7.00 M are those of d = 50. Its
MACs (2.77 and 2.23 M) are those of the trained support: no shape gives them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

import torch
from experiment import Experiment, Figure, Runs, Values, main
from torch import nn
from zoo import CaffeLeNet, CaffeNet

from compressor.layers import KernelNet, SparseFC, StructuredLayer, method

USERS, HIDDEN, RATED = 6040, 500, 10
_CUT = "the source cuts digits off where it could round"

Make = Callable[[int, int], nn.Module]


def autoencoder(make: Make, hidden_layers: int) -> list[nn.Module]:
    """The layers of the item autoencoder, uncounted on the meta device."""
    sizes = [USERS, *[HIDDEN] * hidden_layers, USERS]
    with torch.device("meta"):
        return [make(*ends) for ends in itertools.pairwise(sizes)]


def kernelnet(in_features: int, out_features: int) -> nn.Module:
    """As in the text: tanh, d = 50."""
    return KernelNet(in_features, out_features, kernel="tanh", d=50)


def sparse_fc(d: int) -> Make:
    """Sparse FC with places of ``d`` coordinates."""
    return lambda in_features, out_features: SparseFC(in_features, out_features, d=d)


def params(layers: list[nn.Module]) -> int:
    """Numbers that are stored."""
    return sum(
        layer.params() if isinstance(layer, StructuredLayer) else sum(p.numel() for p in layer.parameters())
        for layer in layers
    )


def macs(layers: list[nn.Module]) -> int:
    """The first layer reads as many columns as there are ratings."""
    counts = [
        layer.macs() if isinstance(layer, StructuredLayer) else layer.in_features * layer.out_features  # type: ignore[operator]
        for layer in layers
    ]
    return counts[0] * RATED // USERS + sum(counts[1:])


def printed(count: int) -> str:
    """Millions with two digits, halves up, as the table has them."""
    return f"{(count + 5_000) // 10_000 / 100:.2f}"


def _weights(model: nn.Module) -> int:
    return sum(p.numel() for name, p in model.named_parameters() if name.endswith("weight"))


def _svd(share: int) -> int:
    """CaffeNet's three dense layers, each cut to ``min(in, out) / share``."""
    ends = ((9216, 4096), (4096, 4096), (4096, 1000))
    with torch.device("meta"):
        return sum(method("svd").layer(a, b, bias=False, rank=min(a, b) // share).params() for a, b in ends)


def _fastfood(in_features: int, out_features: int, width: int, rank: int | None = None) -> int:
    settings = {"features": "relu", "width": width, "readout_rank": rank}
    with torch.device("meta"):
        return method("fastfood").layer(in_features, out_features, bias=False, **settings).trained_params()


def counts() -> dict[str, tuple[str, str, int, str]]:
    """By name: source, printed, ours, remark."""
    with torch.device("meta"):
        lenet, caffenet = _weights(CaffeLeNet()), CaffeNet(bias=False)
        acdc = method("acdc").layer(9216, 9216, depth=12, relu=True, size=9216).trained_params()
    dense = sum(p.numel() for name, p in caffenet.named_parameters() if name.startswith("fc"))
    convolutions = _weights(CaffeNet(bias=False)) - dense
    lenet_convolutions = lenet - 405_000
    found = {
        "LeNet, reference": ("M tab. 3.1", "430,500", lenet, ""),
        "LeNet, Fastfood 1024": (
            "M tab. 3.1", "38,821", lenet_convolutions + _fastfood(800, 10, 1024), "the source swaps two digits",
        ),
        "LeNet, Fastfood 2048": ("M tab. 3.1", "52,124", lenet_convolutions + _fastfood(800, 10, 2048), ""),
        "CaffeNet, dense layers": ("M 3.9.7", "58,621,952", dense, ""),
        "CaffeNet, convolutions": (
            "M 3.9.7", "27,232", convolutions, "the source's count does not follow from the shapes of the network",
        ),
        "Adaptive Fastfood 16": ("M tab. 3.3", "16.4 M", _fastfood(9216, 1000, 16384), ""),
        "Adaptive Fastfood 32": (
            "M tab. 3.3", "32.8 M", _fastfood(9216, 1000, 32768), _CUT,
        ),
        "Adaptive Fastfood 32 (F-600)": ("M tab. 3.4", "20.3 M", _fastfood(9216, 1000, 32768, 600), _CUT),
        "SVD-half": ("M tab. 3.4", "46.6 M", _svd(2), ""),
        "SVD-quarter": ("M tab. 3.4", "23.4 M", _svd(4), "9216-1024-4096-1024-4096-250-1000 gives this"),
        "ACDC, 12 layers": ("M 3.10.7", "165,888", acdc, "the source counts half the width of the layer, 4608"),
        "ACDC, dense layers in all": (
            "M tab. 3.5", "9.7 M", acdc + 9216 * 1000, "12 layers and softmax at width 9216; the rest is not said",
        ),
    }  # fmt: skip
    makes: dict[str, tuple[Make, tuple[str, str], tuple[str, str]]] = {
        "I-AutoRec": (nn.Linear, ("6.05 M", "6.30 M"), ("3.03 M", "3.28 M")),
        "I-KernelNet": (kernelnet, ("0.67 M", "0.72 M"), ("3.03 M", "3.28 M")),
        "Sparse FC, d = 50": (sparse_fc(50), ("6.70 M", "7.00 M"), ("2.77 M", "2.23 M")),
        "Sparse FC, d = 5": (sparse_fc(5), ("6.70 M", "7.00 M"), ("2.77 M", "2.23 M")),
    }
    for name, (make, stored, multiplied) in makes.items():
        for hidden in (1, 2):
            layers = autoencoder(make, hidden)
            d = "table has d = 50's count" if name.endswith("= 5") else ""
            found[f"{name} ({hidden}), params"] = ("K tab. 4", stored[hidden - 1], params(layers), d)
            support = "before training; the table's is of the trained support" if name.startswith("Sparse") else ""
            found[f"{name} ({hidden}), MACs"] = ("K tab. 4", multiplied[hidden - 1], macs(layers), support)
    return found


def agrees(shown: str, count: int) -> bool:
    """Whether ``count`` rounds to what was printed."""
    if not shown.endswith(" M"):
        return shown == f"{count:,}"
    digits = len(shown.removesuffix(" M").partition(".")[2])
    step = 10 ** (6 - digits)
    return shown.removesuffix(" M") == f"{(count + step // 2) // step / 10**digits:.{digits}f}"


def measure(runs: Runs) -> None:
    """Count everything."""
    runs.take("counts", lambda: {"count": {name: row[2] for name, row in counts().items()}})


def figures(runs: Mapping[str, Values]) -> list[Figure]:
    """A row for each number of the tables."""
    kept = runs["counts"]["count"] if "counts" in runs else {}
    rows = []
    for name, (source, shown, _, remark) in counts().items():
        ours = kept.get(name)
        reached = None if ours is None else agrees(shown, ours)
        rows.append(Figure(source, name, shown, None if ours is None else f"{ours:,}", reached, remark))
    return rows


EXPERIMENT = Experiment(9, "shapes", "The tables by shape: parameters and MACs", 0.1, measure, figures)

if __name__ == "__main__":
    raise SystemExit(main(EXPERIMENT, __doc__))
