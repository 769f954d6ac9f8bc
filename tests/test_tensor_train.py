"""What is particular to tensor trains: the product of cores, its counts, TT-SVD, the optimum of each core."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from compressor.errors import CompressorError
from compressor.layers import Metric, lbfgs, method
from compressor.layers.factoring import balanced_factors
from compressor.layers.kronecker import Kronecker, KroneckerConfig
from compressor.layers.tensor_train import TensorTrain, TensorTrainConfig, _Fit


def data(*shape: int, seed: int = 3) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def metric_of(width: int) -> Metric:
    x = data(3 * width, width) @ data(width, width, seed=5)
    return Metric(x.T @ x / len(x), torch.zeros(width, dtype=torch.float64))


def error(layer: TensorTrain | Kronecker, weight: torch.Tensor, metric: Metric) -> float:
    return metric.relative_error(weight, layer.dense()[0].detach())


def test_every_weight_is_a_product_of_small_matrices() -> None:
    layer = TensorTrain(11, 7, bias=False, in_dims="2x3x2", out_dims="3x1x3", rank=4).double()
    dense, cores = layer.dense()[0], list(layer.cores)
    torch.testing.assert_close(layer(torch.eye(11, dtype=torch.float64)).T, dense)
    places = itertools.product(
        enumerate(itertools.product(range(3), range(1), range(3))),
        enumerate(itertools.product(range(2), range(3), range(2))),
    )
    for (row, outs), (column, ins) in places:
        if row < 7 and column < 11:
            chain = [core[:, m, n] for core, m, n in zip(cores, outs, ins, strict=True)]
            torch.testing.assert_close(dense[row, column], torch.linalg.multi_dot(chain)[0, 0])


@pytest.mark.parametrize(
    ("n", "count", "factors"),
    [(4096, 3, (16, 16, 16)), (384, 3, (6, 8, 8)), (97, 3, (4, 5, 5)), (800, 4, (4, 5, 5, 8)), (1, 3, (1, 1, 1))],
)
def test_sides_are_factored_evenly_with_little_padding(n: int, count: int, factors: tuple[int, ...]) -> None:
    assert balanced_factors(n, count) == factors


def test_counts_are_those_written_down_and_those_of_the_products() -> None:
    layer = TensorTrain(30, 20, in_dims="2x3x5", out_dims="5x2x2", rank=4)
    assert layer.params() == 1 * 5 * 2 * 4 + 4 * 2 * 3 * 4 + 4 * 2 * 5 * 1 + 20
    assert layer.macs() == 15 * (10 * 4) + 5 * 5 * (6 * 16) + 10 * (10 * 4)
    with FlopCounterMode(display=False) as counter:
        layer(torch.ones(7, 30))
    assert counter.get_total_flops() == 2 * 7 * layer.macs()


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"in_dims": "4x4", "out_dims": "2x2x2"}, "the same number of cores"),
        ({"in_dims": "4x4", "order": 3}, "the same number of cores"),
        ({"in_dims": "16"}, "two or more"),
        ({"in_dims": "4x0"}, "two or more"),
        ({"in_dims": "4xfour"}, "valid integer"),
    ],
)
def test_dims_that_make_no_sense_are_refused(settings: dict[str, object], why: str) -> None:
    with pytest.raises(CompressorError, match=why):
        method("tensor_train").config(settings)


def test_dims_too_small_for_the_layer_are_refused_with_both_sizes() -> None:
    with pytest.raises(CompressorError, match="in_dims=3x4 hold 12, the layer's in is 13"):
        TensorTrain(13, 5, in_dims="3x4")


def test_a_budget_takes_the_cores_that_use_more_of_it_without_more_work_than_the_dense_layer() -> None:
    def layer(budget: int, **settings: object) -> TensorTrain:
        config = TensorTrain.config_for_params(1024, 1024, False, budget, TensorTrainConfig(**settings))
        with torch.device("meta"):
            return TensorTrain(1024, 1024, bias=False, config=config)

    small, large, asked = layer(5_000), layer(60_000), layer(60_000, order=3)
    assert [len(tried.cores) for tried in (small, large, asked)] == [3, 2, 3]
    assert 4_000 < small.params() <= 5_000
    assert 30_000 < large.params() <= 60_000
    assert max(small.macs(), large.macs()) <= 1024**2 < asked.macs()


def test_full_ranks_hold_every_map() -> None:
    weight = data(6, 8)
    layer = TensorTrain.from_dense(weight, None, TensorTrainConfig(rank=99), Metric.identity(8))
    torch.testing.assert_close(layer.dense()[0].detach(), weight)


def test_two_cores_are_as_near_as_a_sum_of_kronecker_products() -> None:
    weight, ones, errors = data(12, 20), Metric.identity(20), []
    config = TensorTrainConfig(in_dims=(4, 5), out_dims=(3, 4), rank=3)
    errors.append(error(TensorTrain.from_dense(weight, None, config, ones), weight, ones))
    terms = KroneckerConfig(terms=3, out_factor=3, in_factor=4)
    errors.append(error(Kronecker.from_dense(weight, None, terms, ones), weight, ones))
    tail = torch.linalg.svdvals(weight.reshape(3, 4, 4, 5).transpose(1, 2).reshape(12, 20))
    assert errors == pytest.approx([float(tail[3:].norm() / tail.norm())] * 2, rel=1e-6)


@pytest.mark.parametrize("product", [False, True], ids=["plain", "product"])
def test_the_start_is_within_the_bound_of_tt_svd_in_its_own_metric(product: bool) -> None:
    weight, sigmas = data(12, 12), [torch.eye(n, dtype=torch.float64) for n in (2, 3, 2)]
    if product:
        sigmas = [metric_of(n).covariance for n in (2, 3, 2)]
    metric = Metric(torch.kron(torch.kron(*sigmas[:2]), sigmas[2]), torch.zeros(12, dtype=torch.float64))
    layer = TensorTrain(12, 12, bias=False, in_dims="2x3x2", out_dims="3x2x2", rank=3).double()
    fit = _Fit(layer, weight, metric)
    start = fit.start(sigmas)
    for a, b in zip(fit.traces(), sigmas, strict=True):
        torch.testing.assert_close(a / a.trace(), b / b.trace())
    seen = (weight @ metric.root()).reshape(3, 2, 2, 2, 3, 2).permute(0, 3, 1, 4, 2, 5)
    tails = [torch.linalg.svdvals(seen.reshape(rows, -1))[3:].square().sum() for rows in (6, 36)]
    missed = float(fit.loss(start))
    assert float(max(tails)) * (1 - 1e-5) <= missed <= float(sum(tails)) * (1 + 1e-5)


@pytest.mark.parametrize("size", [(20, 18), (12, 16)])
def test_a_map_of_its_own_kind_is_found_again_in_any_metric(size: tuple[int, int]) -> None:
    own = TensorTrain(*size, bias=False, rank=3).double()
    weight, metric = own.dense()[0].detach(), metric_of(size[0])
    assert math.prod(core.shape[1] * core.shape[2] for core in own.cores) == weight.numel()  # no padding
    assert error(TensorTrain.from_dense(weight, None, own.config, metric), weight, metric) < 1e-6


@pytest.mark.parametrize("size", [(20, 18), (13, 7), (7, 13)])
def test_no_sweep_raises_the_error_and_the_loss_is_the_error_made(size: tuple[int, int]) -> None:
    weight, metric = data(*size[::-1]), metric_of(size[0])
    layer = TensorTrain(*size, bias=False, rank=3).double()
    fit = _Fit(layer, weight, metric)
    cores = tuple(core.detach() for core in layer.cores)
    before = float(fit.loss(cores))
    for _ in range(20):
        cores, reached = fit.sweep(cores)
        for core, values in zip(layer.cores, cores, strict=True):
            core.data = values
        missed = (weight - layer.dense()[0].detach()) @ metric.root()
        assert float(fit.loss(cores)) == pytest.approx(float(missed.square().sum()), rel=1e-8)
        assert float(missed.square().sum()) * (1 - 1e-12) <= float(reached) <= before * (1 + 1e-12)
        before = float(reached)


def test_outputs_that_padding_adds_do_not_draw_the_others_away() -> None:
    metric, layer = metric_of(7), TensorTrain(7, 13, bias=False, rank=2).double()  # 13 in 2 × 2 × 4
    fit = _Fit(layer, layer.dense()[0].detach(), metric)
    cores = tuple(core.detach() for core in layer.cores)
    for _ in range(3):
        cores, _ = fit.sweep(cores)
    assert float(fit.loss(cores) / fit.total) < 1e-12


def test_the_last_core_is_the_least_squares_optimum_for_the_others() -> None:
    weight, metric = data(12, 20), metric_of(20)
    layer = TensorTrain(20, 12, bias=False, rank=3).double()
    fit = _Fit(layer, weight, metric)
    cores, _ = fit.sweep(tuple(core.detach() for core in layer.cores))

    def seen(last: torch.Tensor) -> torch.Tensor:
        for core, values in zip(layer.cores, (*cores[:-1], last), strict=True):
            core.data = values
        return (layer.dense()[0].detach() @ metric.root()).flatten()

    units = torch.eye(cores[-1].numel(), dtype=torch.float64)
    columns = torch.stack([seen(unit.reshape(cores[-1].shape)) for unit in units], 1)
    aim = (weight @ metric.root()).flatten()
    free = torch.linalg.lstsq(columns, aim, driver="gelsd").solution
    torch.testing.assert_close((seen(cores[-1]) - aim).norm(), (columns @ free - aim).norm())


@pytest.mark.slow
def test_the_fit_is_about_as_near_as_the_best_of_long_descents_from_random_starts() -> None:
    weight, metric, ends = data(16, 16), metric_of(16), []
    layer = TensorTrain.from_dense(weight, None, method("tensor_train").config({"rank": 4}), metric)
    fit = _Fit(layer, weight, metric)
    for seed in range(4):
        free = [torch.nn.Parameter(0.3 * data(*core.shape, seed=seed + k)) for k, core in enumerate(layer.cores)]
        lbfgs.minimise(free, lambda free=free: fit.loss(tuple(free)) / fit.total, 400)
        ends.append(float((fit.loss(tuple(free)) / fit.total).detach()) ** 0.5)
    assert error(layer, weight, metric) < 1.05 * min(ends)
