"""What is particular to Monarch: the product it is named after, its counts, the optimum of each block."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from compressor.layers import Metric, lbfgs, method
from compressor.layers.monarch import Monarch, MonarchConfig, _Fit
from compressor_kernels import native


def data(rows: int, width: int, seed: int = 3) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def metric_of(width: int) -> Metric:
    x = data(3 * width, width) @ data(width, width, 5)
    return Metric(x.T @ x / len(x), torch.zeros(width, dtype=torch.float64))


def blocks_of(weight: torch.Tensor, k: int) -> dict[tuple[int, int], torch.Tensor]:
    """The blocks that the definition says have rank s: outputs of one class mod k, neighbouring inputs."""
    p = -(-weight.shape[1] // k)
    return {(i, j): weight[j::k, i * p : (i + 1) * p] for i in range(k) for j in range(k)}


def test_monarch_is_block_diagonal_permutation_block_diagonal_permutation() -> None:
    k, layer = 3, Monarch(9, 9, bias=False, blocks=3).double()
    shuffle = torch.eye(9, dtype=torch.float64)[torch.arange(9).reshape(k, k).T.flatten()]
    first, second = torch.block_diag(*layer.first), torch.block_diag(*layer.second)
    torch.testing.assert_close(layer.dense()[0], shuffle.T @ second @ shuffle @ first)


def test_every_block_has_the_rank_asked_for_and_the_whole_has_more() -> None:
    weight = Monarch(20, 15, bias=False, blocks=4, rank=2).double().dense()[0].detach()
    for block in blocks_of(weight, 4).values():
        assert int(torch.linalg.matrix_rank(block)) == min(2, *block.shape)
    assert int(torch.linalg.matrix_rank(weight)) > 4


def test_counts_are_those_written_down_and_those_of_the_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "is_loaded", lambda: False)  # the counter sees torch's own products
    layer = Monarch(10, 7, blocks=3, rank=2)  # p = 4, q = 3
    assert layer.params() == 3 * 6 * 4 + 3 * 3 * 6 + 7
    with FlopCounterMode(display=False) as counter:
        layer(torch.ones(5, 10))
    assert counter.get_total_flops() == 2 * 5 * layer.macs()


@pytest.mark.parametrize(
    ("sides", "blocks"), [((1024, 1024), 32), ((384, 1536), 16), ((97, 5), 2), ((800, 500), 20), ((1, 1), 1)]
)
def test_blocks_are_near_the_root_and_divide_both_sides_where_they_can(sides: tuple[int, int], blocks: int) -> None:
    assert MonarchConfig().blocks_for(*sides) == blocks


def test_a_budget_below_rank_one_takes_fewer_blocks_and_one_above_takes_rank() -> None:
    def config(params: int) -> MonarchConfig:
        return Monarch.config_for_params(64, 64, False, params, MonarchConfig())

    assert config(2 * 8 * 64).model_dump() == {"blocks": 8, "rank": 1}
    assert config(2 * 8 * 64 - 1).model_dump() == {"blocks": 7, "rank": 1}
    assert config(4 * 8 * 64).model_dump() == {"blocks": 8, "rank": 2}


@pytest.mark.parametrize("size", [(20, 12), (11, 13)])
def test_in_a_metric_of_independent_blocks_the_error_is_the_tail_of_every_block(size: tuple[int, int]) -> None:
    (width, out), k, s = size, 3, 2
    weight, p = data(out, width), -(-width // k)
    for sigma in (torch.eye(width, dtype=torch.float64), metric_of(width).covariance):
        parts = [sigma[i * p : (i + 1) * p, i * p : (i + 1) * p] for i in range(k)]
        metric = Metric(torch.block_diag(*parts), torch.zeros(width, dtype=torch.float64))
        layer = Monarch.from_dense(weight, None, MonarchConfig(blocks=k, rank=s), metric)
        roots = [Metric(part, metric.mean).root() for part in parts]
        tail = [torch.linalg.svdvals(block @ roots[i])[s:] for (i, _), block in blocks_of(weight, k).items()]
        expected = float(torch.cat(tail).norm() / (weight @ metric.root()).norm())
        assert metric.relative_error(weight, layer.dense()[0].detach()) == pytest.approx(expected, rel=1e-6)


def test_a_map_of_its_own_kind_is_found_again_in_any_metric() -> None:
    own = Monarch(20, 15, bias=False, blocks=4, rank=2).double()
    weight, metric = own.dense()[0].detach(), metric_of(20)
    again = Monarch.from_dense(weight, None, own.config, metric)
    assert metric.relative_error(weight, again.dense()[0].detach()) < 1e-6


def test_no_sweep_raises_the_error_and_the_error_it_says_is_the_error_made() -> None:
    weight, metric, layer = data(15, 20), metric_of(20), Monarch(20, 15, bias=False, blocks=4, rank=2).double()
    fit = _Fit(layer, weight, metric)
    factors = fit.start(fit.own)
    before = float(fit.loss(factors))
    for _ in range(20):
        factors, reached = fit.sweep(factors)
        assert float(reached) <= before
        before = float(reached)
        layer.first.data, layer.second.data = factors[0].reshape(layer.first.shape), factors[1]
        missed = (weight - layer.dense()[0].detach()) @ metric.root()
        assert before == pytest.approx(float(missed.square().sum()), rel=1e-9)


def test_the_second_factor_is_the_least_squares_optimum_for_the_first() -> None:
    weight, metric = data(12, 12), metric_of(12)
    fit = _Fit(Monarch(12, 12, bias=False, blocks=3).double(), weight, metric)
    (lower, upper), reached = fit.sweep(fit.start(fit.own))
    root, missed = metric.root(), 0.0
    for j in range(3):  # features of class j: its three hidden numbers, as rows over all inputs
        hidden = torch.block_diag(*(lower[i, j] for i in range(3)))
        solution = torch.linalg.lstsq((hidden @ root).T, (weight[j::3] @ root).T).solution
        torch.testing.assert_close(upper[j], solution.T)
        missed += float(((weight[j::3] - solution.T @ hidden) @ root).square().sum())
    assert float(reached) == pytest.approx(missed)


@pytest.mark.slow
def test_the_fit_is_as_near_as_the_best_of_long_descents_from_random_starts() -> None:
    weight, metric = data(16, 16), metric_of(16)
    fit, ends = _Fit(Monarch(16, 16, bias=False, blocks=4).double(), weight, metric), []
    for seed in range(4):
        free = [torch.nn.Parameter(data(*f.shape[:2], seed).new_zeros(f.shape)) for f in fit.start(fit.own)]
        for part in free:
            part.data = 0.3 * data(1, part.numel(), seed).reshape(part.shape)
        lbfgs.minimise(free, lambda free=free: fit.loss(tuple(free)) / fit.total, 400)
        ends.append(float((fit.loss(tuple(free)) / fit.total).detach()) ** 0.5)
    layer = Monarch.from_dense(weight, None, method("monarch").config({"blocks": 4}), metric)
    assert metric.relative_error(weight, layer.dense()[0].detach()) < 1.02 * min(ends)
