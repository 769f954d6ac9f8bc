"""What is particular to sparse FC: its formula and loss, which weights the fit keeps, what is left once finished."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from compressor.errors import CompressorError
from compressor.layers import Metric, Pruned, SparseFC


def metric_of(width: int) -> Metric:
    x = torch.randn(3 * width, width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = x * torch.linspace(1, 0.1, width, dtype=torch.float64)
    return Metric(x.T @ x / len(x), torch.zeros(width, dtype=torch.float64))


def weights(out_features: int, in_features: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(out_features, in_features, generator=generator, dtype=torch.float64)


def fitted(weight: Tensor, metric: Metric, bias: Tensor | None = None, **settings: Any) -> SparseFC:
    return SparseFC.from_dense(weight, bias, SparseFC.Config(**settings), metric)


def spread_out(in_features: int, out_features: int, **settings: Any) -> SparseFC:
    """A layer from scratch whose places are far enough apart for zeros."""
    layer = SparseFC(in_features, out_features, **settings).double()
    with torch.no_grad():
        layer.u *= 300
        layer.v *= 300
    return layer


def test_the_weights_are_free_factors_times_a_kernel_that_ends_at_distance_one() -> None:
    layer = spread_out(6, 5, d=3)
    u, v, factors = layer.u.tolist(), layer.v.tolist(), layer.factors.tolist()
    expected = [
        [
            factors[j][i] * max(0.0, 1 - sum((a - b) ** 2 for a, b in zip(u[i], v[j], strict=True)))
            for i in range(6)
        ]
        for j in range(5)
    ]  # fmt: skip
    weight = layer.weight().detach()
    torch.testing.assert_close(weight, torch.tensor(expected, dtype=torch.float64))
    assert 0 < int((weight == 0).sum()) < 30


def test_from_scratch_every_weight_is_there_and_factors_and_places_are_stored() -> None:
    layer = SparseFC(300, 200, d=5)
    torch.testing.assert_close(layer.weight(), layer.factors, rtol=1e-3, atol=1e-4)
    assert layer.params() == layer.trained_params() == 300 * 200 + 5 * (300 + 200) + 200
    assert layer.macs() == 300 * 200


def test_the_loss_is_that_of_equation_8_with_a_growing_share_of_its_second_term() -> None:
    layer = spread_out(6, 5, d=3, l2=0.3, l0=0.7)
    k = layer.kernel().detach()
    free, overlap = 0.3 * float(layer.factors.detach().square().sum()), 0.7 * float(k.square().sum())
    for done, share in ((0.0, 0.0), (0.25, 0.5), (0.5, 1.0), (1.0, 1.0)):
        layer.anneal(done)
        penalty = layer.penalty()
        assert penalty is not None
        assert float(penalty.detach()) == pytest.approx(free + share * overlap)
        assert layer.is_settled == (done >= 0.5)
    assert SparseFC(6, 5).penalty() is None
    assert SparseFC(6, 5).is_settled


def test_the_loss_thins_the_support() -> None:
    layer = spread_out(20, 15, d=3, l0=1.0)
    before = int((layer.weight() != 0).sum())
    layer.anneal(1.0)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        penalty = layer.penalty()
        assert penalty is not None
        penalty.backward()
        optimizer.step()
    assert int((layer.weight() != 0).sum()) < before / 2


@pytest.mark.parametrize("settings", [{"density": 0.3}, {"count": 50, "d": 2}, {"density": 1.0}])
def test_the_fit_keeps_so_many_weights_with_the_best_values_in_the_metric(settings: dict[str, Any]) -> None:
    weight, metric = weights(11, 13), metric_of(13)
    layer = fitted(weight, metric, **settings)
    mask = layer.weight() != 0
    assert int(mask.sum()) == settings.get("count", round(settings.get("density", 0) * 143))
    assert float(layer.kernel().detach()[mask].min()) > 0.099
    root, best = metric.root(), torch.zeros_like(weight)
    for j, kept in enumerate(mask):
        best[j, kept] = torch.linalg.lstsq(root[:, kept], root @ weight[j]).solution
    torch.testing.assert_close(layer.weight().detach(), best, rtol=1e-6, atol=1e-6)


def test_the_fit_brings_together_what_belongs_together() -> None:
    blocks = torch.block_diag(*weights(12, 5).abs().add(0.5).split(4)).double()  # 3 blocks of 4 x 5
    generator = torch.Generator().manual_seed(4)
    rows, columns = torch.randperm(12, generator=generator), torch.randperm(15, generator=generator)
    weight = blocks[rows][:, columns]
    layer = fitted(weight, Metric.identity(15), count=60)
    torch.testing.assert_close(layer.weight().detach(), weight)


def test_a_finished_layer_is_the_same_map_in_sparse_rows() -> None:
    weight, bias, metric = weights(11, 13), weights(1, 11)[0], metric_of(13)
    layer = fitted(weight, metric, bias, density=0.3)
    lean = layer.finished()
    assert isinstance(lean, Pruned)
    with torch.no_grad():
        for mine, its in zip(layer.dense(), lean.dense(), strict=True):
            torch.testing.assert_close(its, mine)
    assert lean.macs() == round(0.3 * 143)
    assert lean.params() < weight.numel()


def test_what_the_fit_left_out_stays_zero_while_the_rest_is_trained() -> None:
    layer = fitted(weights(31, 23), metric_of(23), density=0.3)
    zero = layer.weight() == 0
    within = torch.cdist(layer.v, layer.u).square() < 1
    assert bool((zero & within).any())  # some of them have a kernel that is not zero
    optimizer = torch.optim.SGD(layer.parameters(), lr=1e-5)
    before = layer.weight().detach().clone()
    for _ in range(5):
        optimizer.zero_grad()
        layer(torch.ones(3, 23, dtype=torch.float64)).square().sum().backward()
        optimizer.step()
    after = layer.weight().detach()
    assert bool((after[~zero] != before[~zero]).any())
    assert int((after != 0).sum()) > 0.8 * int((~zero).sum())
    assert bool((after[zero] == 0).all())


def test_more_weights_than_there_are_cannot_be_kept() -> None:
    with pytest.raises(CompressorError, match=r"count=144 is more than the 143 weights of 13 -> 11"):
        fitted(weights(11, 13), metric_of(13), count=144)
