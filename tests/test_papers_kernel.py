"""Parameters and multiply-adds of Müller, Martel, Indiveri 2018, table 4 (MovieLens-1M), from shapes alone.

What is counted, and how, stands in ``benchmarks/papers/shapes.py``.
"""

from __future__ import annotations

import pytest
from shapes import Make, autoencoder, kernelnet, macs, params, printed, sparse_fc
from torch import nn


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
