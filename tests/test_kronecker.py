"""What is particular to Kronecker products: the map itself, its counts, the optimum of each factor."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from compressor.layers import Metric, lbfgs, method
from compressor.layers.kronecker import Kronecker, KroneckerConfig, _Fit


def data(*shape: int, seed: int = 3) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def metric_of(width: int) -> Metric:
    x = data(3 * width, width) @ data(width, width, seed=5)
    return Metric(x.T @ x / len(x), torch.zeros(width, dtype=torch.float64))


def error(layer: Kronecker, weight: torch.Tensor, metric: Metric) -> float:
    return metric.relative_error(weight, layer.dense()[0].detach())


@pytest.mark.parametrize("size", [(12, 20), (13, 7)])
def test_the_map_is_the_sum_of_kronecker_products_cut_to_size(size: tuple[int, int]) -> None:
    layer = Kronecker(*size, bias=False, terms=3).double()
    whole = sum(torch.kron(a, b) for a, b in zip(layer.a, layer.b, strict=True))
    torch.testing.assert_close(layer.dense()[0], whole[: size[1], : size[0]])


@pytest.mark.parametrize(
    ("sides", "shapes"),
    [
        ((1024, 1024), ((32, 32), (32, 32))),
        ((384, 1536), ((32, 16), (48, 24))),
        ((800, 500), ((20, 25), (25, 32))),
        ((97, 13), ((3, 7), (5, 14))),
        ((1, 2), ((1, 1), (2, 1))),
    ],
)
def test_factors_are_near_the_root_and_pad_little(sides: tuple[int, int], shapes: object) -> None:
    assert KroneckerConfig().shapes(*sides) == shapes


def test_counts_are_those_written_down_and_those_of_the_products() -> None:
    layer = Kronecker(10, 7, terms=3, out_factor=3, in_factor=2)  # B is 3 × 5
    assert layer.params() == 3 * (3 * 2 + 3 * 5) + 7
    with FlopCounterMode(display=False) as counter:
        layer(torch.ones(5, 10))
    assert counter.get_total_flops() == 2 * 5 * layer.macs()


def test_a_large_budget_is_used_without_more_work_than_the_dense_layer() -> None:
    for share in (0.02, 0.1, 0.5):
        budget = int(share * 384 * 1536)
        config = Kronecker.config_for_params(384, 1536, True, budget, KroneckerConfig())
        with torch.device("meta"):
            layer = Kronecker(384, 1536, config=config)
        assert layer.macs() <= 384 * 1536
        assert 0.8 * budget <= layer.params() <= budget
    asked = Kronecker.config_for_params(384, 1536, True, 300_000, KroneckerConfig(out_factor=32, in_factor=16))
    assert (asked.out_factor, asked.in_factor, asked.terms) == (32, 16, (300_000 - 1536) // (32 * 16 + 48 * 24))


def test_in_a_metric_that_is_a_product_the_error_is_the_tail_of_the_rearranged_matrix() -> None:
    weight, ones = data(12, 20), torch.eye(4, dtype=torch.float64)
    for sigma1, sigma2 in ((ones, torch.eye(5).double()), (metric_of(4).covariance, metric_of(5).covariance)):
        metric = Metric(torch.kron(sigma1, sigma2), torch.zeros(20, dtype=torch.float64))
        config = method("kronecker").config({"terms": 2, "out_factor": 3, "in_factor": 4})
        seen = (weight @ metric.root()).reshape(3, 4, 4, 5).transpose(1, 2).reshape(12, 20)
        tail = torch.linalg.svdvals(seen)
        layer = Kronecker.from_dense(weight, None, config, metric)
        assert error(layer, weight, metric) == pytest.approx(float(tail[2:].norm() / tail.norm()), rel=1e-6)
        start = _Fit(layer, weight, metric).start(sigma1, sigma2)
        layer.a.data, layer.b.data = start
        assert error(layer, weight, metric) == pytest.approx(float(tail[2:].norm() / tail.norm()), rel=1e-4)


def test_one_term_for_the_weights_alone_is_the_best_that_any_descent_finds() -> None:
    weight, metric, ends = data(6, 6), Metric.identity(6), []
    for seed in range(10):
        a, b = (torch.nn.Parameter(data(*shape, seed=seed)) for shape in ((2, 2), (3, 3)))
        lbfgs.minimise([a, b], lambda a=a, b=b: (weight - torch.kron(a, b)).square().sum(), 300)
        ends.append(float((weight - torch.kron(a, b).detach()).norm() / weight.norm()))
    config = KroneckerConfig(out_factor=2, in_factor=2)
    assert error(Kronecker.from_dense(weight, None, config, metric), weight, metric) == pytest.approx(min(ends))


@pytest.mark.parametrize("size", [(20, 15), (13, 7)])
def test_a_map_of_its_own_kind_is_found_again_in_any_metric(size: tuple[int, int]) -> None:
    own = Kronecker(*size, bias=False, terms=2).double()
    with torch.no_grad():
        if size == (13, 7):  # what is cut off leaves holes in the rearranged matrix: nothing there
            own.b[:, -1], own.b[..., 3:] = 0, 0
    weight, metric = own.dense()[0].detach(), metric_of(size[0])
    assert error(Kronecker.from_dense(weight, None, own.config, metric), weight, metric) < 1e-6


@pytest.mark.parametrize("size", [(20, 15), (13, 7), (5, 9)])
def test_no_sweep_raises_the_error_and_the_error_it_says_is_the_error_made(size: tuple[int, int]) -> None:
    weight, metric = data(*size[::-1]), metric_of(size[0])
    layer = Kronecker(*size, bias=False, terms=2, out_factor=4).double()
    fit = _Fit(layer, weight, metric)
    factors = fit.start(torch.eye(fit.w.shape[2]).double(), torch.eye(fit.w.shape[3]).double())
    before = float(fit.loss(factors))
    for _ in range(20):
        factors, reached = fit.sweep(factors)
        assert float(reached) <= before * (1 + 1e-12)
        before = float(reached)
        layer.a.data, layer.b.data = factors
        missed = (weight - layer.dense()[0].detach()) @ metric.root()
        assert before == pytest.approx(float(missed.square().sum()), rel=1e-8)
        assert before == pytest.approx(float(fit.loss(factors)), rel=1e-8)


def test_the_right_factors_are_the_least_squares_optimum_for_the_left_ones() -> None:
    weight, metric, layer = data(7, 13), metric_of(13), Kronecker(13, 7, bias=False, terms=2).double()
    fit = _Fit(layer, weight, metric)
    a, b = layer.a.detach(), layer.b.detach()
    (a, b), _ = fit.sweep((a, b))
    columns = []
    for index in range(b.numel()):
        unit = torch.zeros(b.numel(), dtype=torch.float64)
        unit[index] = 1
        layer.a.data, layer.b.data = a, unit.reshape(b.shape)
        columns.append((layer.dense()[0].detach() @ metric.root()).flatten())
    free = torch.linalg.lstsq(torch.stack(columns, 1), (weight @ metric.root()).flatten(), driver="gelsd").solution
    layer.b.data = free.reshape(b.shape)
    optimum = error(layer, weight, metric)
    layer.b.data = b
    assert error(layer, weight, metric) == pytest.approx(optimum, rel=1e-8)
