"""The spectrum of a layer, and its drawing: error against parameters."""

from __future__ import annotations

import pytest
import torch

from compressor.layers import Metric, methods, truncation
from compressor.measure import low_rank_errors
from compressor.report import LayerRow, Stand
from compressor.report.spectra import HEIGHT, WIDTH, _spectrum


def case(out_features: int, in_features: int) -> tuple[torch.Tensor, Metric]:
    generator = torch.Generator().manual_seed(0)
    weight, x = (torch.randn(n, in_features, generator=generator).double() for n in (out_features, 3 * in_features))
    return weight, Metric(x.T @ x / len(x), torch.zeros(in_features).double())


@pytest.mark.parametrize("shape", [(7, 13), (13, 7), (1, 5), (11, 11)])
def test_spectrum_is_the_error_that_low_rank_reaches_in_the_metric(shape: tuple[int, int]) -> None:
    weight, metric = case(*shape)
    curve = low_rank_errors(weight, metric)
    assert curve[0][0] == 1
    assert curve[-1] == (min(shape), pytest.approx(0, abs=1e-6))
    svd = methods()["svd"]
    for rank, error in curve[:-1]:
        layer = svd.layer.from_dense(weight, None, svd.config({"rank": rank}), metric)
        assert error == pytest.approx(metric.relative_error(weight, layer.dense()[0].detach()), abs=1e-7)


def test_spectrum_of_a_wide_map_ends_at_the_ranks_that_were_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, metric = case(40, 40)
    whole = dict(low_rank_errors(weight, metric))
    monkeypatch.setattr("compressor.measure.spectrum._MOST", 5)
    short = dict(low_rank_errors(weight, metric))
    assert max(short) == 5
    for rank, error in short.items():
        assert error == pytest.approx(whole[rank], rel=1e-2)
    assert low_rank_errors(torch.zeros(3, 4), Metric.identity(4)) == []
    assert truncation.leading(torch.eye(3).double(), 5)[0].tolist() == [1, 1, 1]


def test_methods_stand_where_their_figures_are_and_inside_the_drawing() -> None:
    stands = [Stand(method="near", params=100, error=0.25), Stand(method="far", params=10_000, error=0.75)]
    stands.append(Stand(method="lost", params=1_000, error=2.0))
    row = LayerRow(
        name="fc", sites=["fc"], in_features=9, out_features=9, params_before=90, params_after=100, macs_before=81,
        macs_after=81, low_rank=[(1, 0.9), (9, 0.0)], stands=stands,
    )  # fmt: skip
    drawn = _spectrum(row)
    near, far, lost = drawn.points
    assert near.x < lost.x < far.x
    assert lost.x - near.x == pytest.approx(far.x - lost.x, abs=0.2)  # a decade each
    assert lost.y < far.y < near.y  # errors of 1 and more at the top
    assert all(0 < point.x < WIDTH and 0 < point.y < HEIGHT for point in drawn.points)
    assert [figure for _, figure in drawn.x_ticks] == ["100", "1,000", "10,000"]
    assert {figure: x for x, figure in drawn.x_ticks}["1,000"] == lost.x
    assert "far: 10,000 parameters, error 0.750" in drawn.said
