"""What is particular to BLAST: its blocks, what they contain, its counts, the optimum of each factor."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from compressor.layers import Metric, lbfgs, method
from compressor.layers.blast import BLAST, BLASTConfig, _Fit


def data(*shape: int, seed: int = 3) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def metric_of(width: int) -> Metric:
    x = data(3 * width, width) @ data(width, width, seed=5)
    return Metric(x.T @ x / len(x), torch.zeros(width, dtype=torch.float64))


def error(layer: BLAST, weight: torch.Tensor, metric: Metric) -> float:
    return metric.relative_error(weight, layer.dense()[0].detach())


@pytest.mark.parametrize("size", [(12, 9), (13, 7)])
def test_every_block_is_its_shared_factors_around_its_own_diagonal(size: tuple[int, int]) -> None:
    layer = BLAST(*size, bias=False, blocks=3, rank=4).double()
    rows = [torch.cat([layer.u[i] @ torch.diag(layer.s[i, j]) @ layer.v[j] for j in range(3)], 1) for i in range(3)]
    torch.testing.assert_close(layer.dense()[0], torch.cat(rows)[: size[1], : size[0]])


def test_low_rank_and_block_diagonal_maps_are_special_cases() -> None:
    layer = BLAST(12, 8, bias=False, blocks=4, rank=3).double()
    with torch.no_grad():
        layer.s.copy_(torch.eye(4)[:, :, None].expand(4, 4, 3))
        own = torch.block_diag(*(u @ v for u, v in zip(layer.u, layer.v, strict=True)))
        torch.testing.assert_close(layer.dense()[0], own)
        layer.s.fill_(1)
        assert int(torch.linalg.matrix_rank(layer.dense()[0])) == 3


def test_counts_are_those_written_down_and_those_of_the_products() -> None:
    layer = BLAST(10, 7, blocks=3, rank=2)  # blocks of 3 × 4
    assert layer.params() == 3 * 3 * 2 + 3 * 3 * 2 + 3 * 4 * 2 + 7
    with FlopCounterMode(display=False) as counter:
        layer(torch.ones(5, 10))
    assert counter.get_total_flops() == 2 * 5 * layer.macs()
    assert [layer.kind(name) for name in ("u", "s", "v", "bias")] == ["dense", "diagonal", "dense", "bias"]


@pytest.mark.parametrize(("sides", "blocks"), [((4096, 4096), 8), ((384, 384), 6), ((97, 5), 2), ((1, 1), 1)])
def test_diagonals_are_a_small_part_of_what_is_stored(sides: tuple[int, int], blocks: int) -> None:
    assert BLASTConfig().blocks_for(*sides) == blocks


def test_a_budget_is_spent_on_rank_and_on_fewer_blocks_only_where_it_must() -> None:
    def config(params: int) -> dict[str, int]:
        return BLAST.config_for_params(32, 64, True, params + 64, BLASTConfig(blocks=4)).model_dump()

    assert config(5 * (32 + 64 + 16)) == {"blocks": 4, "rank": 5}
    assert config(5 * (32 + 64 + 16) - 1) == {"blocks": 4, "rank": 4}
    assert config(32 + 64 + 4) == {"blocks": 2, "rank": 1}


@pytest.mark.parametrize("size", [(20, 12), (11, 13)])
def test_the_fit_starts_at_the_best_map_of_its_rank_and_only_gets_nearer(size: tuple[int, int]) -> None:
    weight, metric = data(*size[::-1]), metric_of(size[0])
    layer = BLAST.from_dense(weight, None, BLASTConfig(blocks=3, rank=3), metric)
    tail = torch.linalg.svdvals(weight @ metric.root())
    low_rank = float(tail[3:].norm() / tail.norm())
    fit = _Fit(layer, weight, metric)
    assert float(fit.loss(fit.low_rank) / fit.total) == pytest.approx(low_rank**2, rel=1e-6)
    assert error(layer, weight, metric) < 0.95 * low_rank


@pytest.mark.parametrize("size", [(20, 15), (13, 7)])
def test_no_sweep_raises_the_error_and_the_error_it_says_is_the_error_made(size: tuple[int, int]) -> None:
    weight, metric = data(*size[::-1]), metric_of(size[0])
    layer = BLAST(*size, bias=False, blocks=3, rank=3).double()
    fit = _Fit(layer, weight, metric)
    factors = tuple(parameter.detach() for parameter in (layer.u, layer.s, layer.v))
    before = float(fit.loss(factors))
    for _ in range(20):
        factors, reached = fit.sweep(factors)
        assert float(reached) <= before * (1 + 1e-12)
        before = float(reached)
        layer.u.data, layer.s.data, layer.v.data = factors
        missed = (weight - layer.dense()[0].detach()) @ metric.root()
        assert before == pytest.approx(float(missed.square().sum()), rel=1e-8)
        assert before == pytest.approx(float(fit.loss(factors)), rel=1e-8)


@pytest.mark.parametrize("part", ["u", "s", "v"])
def test_each_part_reaches_the_least_squares_optimum_for_the_others(part: str) -> None:
    weight, metric, layer = data(7, 13), metric_of(13), BLAST(13, 7, bias=False, blocks=2, rank=3).double()
    fit = _Fit(layer, weight, metric)
    u, s, v = (parameter.detach().clone() for parameter in (layer.u, layer.s, layer.v))
    u[-1, -1] = 0  # 7 outputs in blocks of 4: the last is none
    if part == "u":
        (u, s, v), _ = fit.sweep((u, s, v))
    else:  # `improve` moves v[1] before s[:, 1]
        kept = s.clone()
        fit.improve(1, u, s, v, u.mT @ u)
        s = kept if part == "v" else s
    values = {"u": u, "s": s, "v": v}
    own = {"u": (slice(None),), "s": (slice(None), 1), "v": (1,)}[part]

    def seen(free: torch.Tensor) -> torch.Tensor:
        layer.u.data, layer.s.data, layer.v.data = ({**values, part: free}[name] for name in ("u", "s", "v"))
        return (layer.dense()[0].detach() @ metric.root()).flatten()

    others = values[part].clone()
    others[own] = 0
    columns = []
    for index in range(others[own].numel()):
        unit = torch.zeros(others[own].numel(), dtype=torch.float64)
        unit[index] = 1
        moved = others.clone()
        moved[own] = unit.reshape(others[own].shape)
        columns.append(seen(moved) - seen(others))
    aim = (weight @ metric.root()).flatten() - seen(others)
    free = torch.linalg.lstsq(torch.stack(columns, 1), aim, driver="gelsd").solution
    optimum = (torch.stack(columns, 1) @ free - aim).norm()
    torch.testing.assert_close((seen(values[part]) - seen(others) - aim).norm(), optimum)


@pytest.mark.slow
def test_the_fit_is_about_as_near_as_the_best_of_long_descents_from_random_starts() -> None:
    weight, metric, ends = data(16, 16), metric_of(16), []
    config = method("blast").config({"blocks": 4, "rank": 4})
    layer = BLAST.from_dense(weight, None, config, metric)
    fit = _Fit(layer, weight, metric)
    for seed in range(4):
        free = [torch.nn.Parameter(0.3 * data(*part.shape, seed=seed)) for part in (layer.u, layer.s, layer.v)]
        lbfgs.minimise(free, lambda free=free: fit.loss(tuple(free)) / fit.total, 400)
        ends.append(float((fit.loss(tuple(free)) / fit.total).detach()) ** 0.5)
    assert error(layer, weight, metric) < 1.05 * min(ends)
