"""Fitting on what the compressed prefix really gives."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from fitting import fitted, off
from torch import Tensor, nn

from compressor import compress
from compressor.imitate import imitate
from compressor.progress import Limit
from compressor.sites import structured


def test_fitting_in_the_metric_of_the_data_is_better_on_the_data_than_fitting_the_weights(
    teacher: nn.Module, inputs: Tensor
) -> None:
    aware, _ = fitted(teacher, inputs, {"rank": 5})
    plain, _ = fitted(teacher, None, {"rank": 5})
    assert off(aware, teacher, inputs) < 0.7 * off(plain, teacher, inputs)


def test_compensating_the_prefix_is_better_than_fitting_each_layer_on_the_original_inputs(
    teacher: nn.Module, inputs: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    compensated, _ = fitted(teacher, inputs, {"rank": 5})
    import compressor.fit as module

    original = module.moments
    monkeypatch.setattr(module, "moments", lambda *a, **k: original(*a, **{**k, "same_prefix": True}))
    blind, _ = fitted(teacher, inputs, {"rank": 5})
    assert off(compensated, teacher, inputs) < off(blind, teacher, inputs)


def test_a_block_with_one_row_has_none_to_train_on_and_stays_as_it_was_fitted() -> None:
    layer = nn.Linear(5, 3)
    before = copy.deepcopy(layer.state_dict())
    error = imitate(layer, torch.relu, torch.randn(1, 5), torch.rand(1, 3), seed=0, limit=Limit())
    assert math.isfinite(error)
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())


class Long(nn.Module):
    """A map of many rows an example, which remembers how many examples came together."""

    together: ClassVar[list[int]] = []

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(20, 20)

    def forward(self, x: Tensor) -> Tensor:
        self.together.append(x.shape[0])
        return self.fc(x)


def test_few_examples_go_through_together_where_each_is_long(tmp_path: Path) -> None:
    x = torch.randn(40, 16384, 20)
    result = compress(
        Long().eval(), "svd", settings={"rank": 2}, target=("fc",), data=x, epochs=0, threads=1, output=tmp_path / "out"
    )
    assert max(n for n in Long.together if isinstance(n, int)) <= 8  # that many are traced
    assert Long.together.count(4) > 8  # 2 ** 16 rows at once
    assert result.report.after.fidelity is not None
    assert list(result.report.after.latency_ms["torch"]) == ["1"]
    assert any("not timed at batch 32" in note for note in result.report.notes)


def test_the_error_reported_is_that_of_the_layer_in_its_metric(teacher: nn.Sequential, inputs: Tensor) -> None:
    student, errors = fitted(teacher, inputs, {"rank": 5})
    first = teacher[0](inputs)
    with torch.no_grad():
        missed = (student[0](inputs) - first).norm() / (first - first.mean(0)).norm()
    assert errors[0] == pytest.approx(float(missed), rel=1e-3)


def test_a_full_rank_fit_changes_nothing(teacher: nn.Module, inputs: Tensor) -> None:
    student, _ = fitted(teacher, inputs, {"energy": 1.0})
    assert list(structured(student)) == []  # not smaller, so kept dense
    assert off(student, teacher, inputs) == 0
