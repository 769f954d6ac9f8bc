"""Parameters and multiply-adds of Müller, Martel, Indiveri 2018, table 4 (MovieLens-1M), from shapes alone.

An item autoencoder: a film's ratings by 6,040 users in, 500 hidden units (once or twice), 6,040 ratings out, with
biases. MACs: of the inputs only 10 are rated, all outputs are wanted. What the settings in the text give:

- KernelNet has d = 50, and λ for each input.
- Sparse FC has d = 5 in the text and in the authors' code; the table's 6.70 and 7.00 M are those of d = 50. Its MACs
  (2.77 and 2.23 M) are those of the trained support: no shape gives them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import nn

from compressor.layers import KernelNet, SparseFC, StructuredLayer

USERS, HIDDEN, RATED = 6040, 500, 10

Make = Callable[[int, int], nn.Module]


def autoencoder(make: Make, hidden_layers: int) -> list[nn.Module]:
    sizes = [USERS, *[HIDDEN] * hidden_layers, USERS]
    with torch.device("meta"):
        return [make(*ends) for ends in itertools.pairwise(sizes)]


def kernelnet(in_features: int, out_features: int) -> nn.Module:
    return KernelNet(in_features, out_features, kernel="tanh", d=50)


def sparse_fc(d: int) -> Make:
    return lambda in_features, out_features: SparseFC(in_features, out_features, d=d)


def params(layers: list[nn.Module]) -> int:
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


@pytest.mark.parametrize(
    ("make", "hidden_layers", "expected"),
    [
        (nn.Linear, 1, "6.05"),
        (nn.Linear, 2, "6.30"),
        (kernelnet, 1, "0.67"),
        (kernelnet, 2, "0.72"),
        (sparse_fc(50), 1, "6.70"),
        (sparse_fc(50), 2, "7.00"),
    ],
)
def test_parameters_are_those_of_the_table(make: Make, hidden_layers: int, expected: str) -> None:
    assert printed(params(autoencoder(make, hidden_layers))) == expected


@pytest.mark.parametrize("make", [nn.Linear, kernelnet, sparse_fc(5)])
@pytest.mark.parametrize(("hidden_layers", "expected"), [(1, "3.03"), (2, "3.28")])
def test_multiply_adds_before_pruning_are_those_of_the_dense_network_in_the_table(
    make: Make, hidden_layers: int, expected: str
) -> None:
    assert printed(macs(autoencoder(make, hidden_layers))) == expected


def test_sparse_fc_at_the_dimension_that_the_text_names_has_fewer_parameters_than_the_table() -> None:
    assert [params(autoencoder(sparse_fc(5), layers)) for layers in (1, 2)] == [6_111_940, 6_367_440]
