"""Moments are streamed exactly, and the target compensates what the compressed prefix did."""

from __future__ import annotations

import torch
from torch import nn

from compressor.calibrate import Moments, moments
from compressor.prefix import Prefix


def test_streamed_moments_equal_those_of_all_rows_at_once() -> None:
    torch.manual_seed(0)
    y, z = torch.randn(101, 7) + 3, torch.randn(101, 7) - 2
    streamed = Moments(7)
    for a, b in zip(y.split(13), z.split(13), strict=True):
        streamed.update(a, b)
    y, z = y.double(), z.double()
    torch.testing.assert_close(streamed.second, z.T @ z / 101)
    torch.testing.assert_close(streamed.cross, y.T @ z / 101)
    torch.testing.assert_close(streamed.mean, y.mean(0))


def test_the_target_is_the_weight_itself_where_both_networks_give_the_same() -> None:
    torch.manual_seed(0)
    seen = Moments(5)
    rows = torch.randn(64, 5)
    seen.update(rows, rows)
    weight, bias = torch.randn(3, 5), torch.randn(3)
    target, target_bias, metric = seen.target(weight, bias)
    assert torch.equal(target, weight)
    torch.testing.assert_close(target_bias, bias)
    torch.testing.assert_close(metric.covariance, torch.cov(rows.double().T, correction=0))


def test_the_target_undoes_a_linear_error_made_before_the_site() -> None:
    torch.manual_seed(0)
    y = torch.randn(4000, 6)
    distortion = torch.eye(6) + 0.3 * torch.randn(6, 6)
    y_compressed = y @ distortion.T + 0.7
    seen = Moments(6)
    seen.update(y, y_compressed)
    weight, bias = torch.randn(4, 6), torch.randn(4)
    target, target_bias, _ = seen.target(weight, bias)
    assert target_bias is not None
    wanted = y @ weight.T + bias
    error = (y_compressed @ target.T + target_bias - wanted).norm() / wanted.norm()
    untouched = (y_compressed @ weight.T + bias - wanted).norm() / wanted.norm()
    assert error < 0.1 * untouched


def test_without_a_bias_the_metric_is_the_plain_second_moment() -> None:
    rows = torch.randn(50, 4) + 5
    seen = Moments(4)
    seen.update(rows, rows)
    _, bias, metric = seen.target(torch.randn(2, 4), None)
    assert bias is None
    torch.testing.assert_close(metric.covariance, rows.double().T @ rows.double() / 50)


def test_moments_of_a_compressed_prefix_come_from_both_networks() -> None:
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    student = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    x = torch.randn(30, 3)
    seen = moments("1", Prefix(teacher), Prefix(student), [(x,)], same_prefix=False)
    with torch.no_grad():
        torch.testing.assert_close(seen.mean, teacher[0](x).double().mean(0))
        torch.testing.assert_close(seen.mean_compressed, student[0](x).double().mean(0))
