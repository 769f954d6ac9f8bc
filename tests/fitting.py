"""Fitting and distilling a small network: what the tests of both share."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import Tensor, nn

from compressor.data import as_dataset
from compressor.distill import distill
from compressor.fit import fit
from compressor.plan import make_plan
from compressor.progress import Limit, silent
from compressor.sites import find_runs, find_sites
from compressor.training import Training


def fitted(teacher: nn.Module, x: Tensor | None, settings: dict[str, object]) -> tuple[nn.Module, list[float | None]]:
    example = (torch.zeros(2, 20),)
    sites = find_sites(teacher, example)
    runs = find_runs(teacher, example)
    plan = make_plan(sites, runs, "svd", settings, target=("0", "2", "4"))
    student = copy.deepcopy(teacher)
    data = None if x is None else as_dataset(x, ("x",))
    known = {site.name: site for site in sites}
    results = fit(student, teacher, plan, known, None, data, seed=0, limit=Limit(), progress=silent)
    return student, [result.error for result in results]


def off(student: nn.Module, teacher: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        return float((student(x) - teacher(x)).norm() / teacher(x).norm())


def distilled(
    teacher: nn.Module, x: Tensor, *, checkpoint: Path | None = None, limit: Limit | None = None, **how: object
) -> tuple[nn.Module, list[float]]:
    student, _ = fitted(teacher, x, {"rank": 3})
    sites = find_sites(teacher, (torch.zeros(2, 20),))
    plan = make_plan(sites, None, "svd", {"rank": 3}, target=("0", "2", "4"))
    result = distill(
        student, teacher, plan.replaced, as_dataset(x, ("x",)), Training(**how), seed=0,  # type: ignore[arg-type]
        limit=limit or Limit(), progress=silent, checkpoint=checkpoint,
    )  # fmt: skip
    return student, result.losses
