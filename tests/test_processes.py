"""Training by several processes: what torch sends between them, and what it cannot."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from native_oracle import data, layer
from torch import Tensor, nn
from torch.multiprocessing import spawn
from torch.nn.functional import mse_loss
from torch.nn.parallel import DistributedDataParallel

pytestmark = pytest.mark.slow
SIDE = 300  # its columns take two bytes


def network() -> nn.Module:
    layers = [layer("acdc", {"depth": 3}, SIDE, SIDE), layer("fastfood", {}, SIDE, SIDE), layer("pruned", {}, SIDE, 8)]
    return nn.Sequential(*layers).double()


def gradients_after_three_steps(model: nn.Module, x: Tensor, target: Tensor) -> list[Tensor | None]:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    for _ in range(3):
        optimizer.zero_grad()
        mse_loss(model(x), target).backward()
        optimizer.step()
    return [parameter.grad for parameter in model.parameters()]


def train_a_half(rank: int, model: nn.Module, x: Tensor, target: Tensor, folder: Path) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    model = copy.deepcopy(model)  # what comes from another process is shared with it
    parallel = DistributedDataParallel(model, broadcast_buffers=False)
    torch.save(gradients_after_three_steps(parallel, x[rank::2], target[rank::2]), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_train_as_one_does_on_both_batches(tmp_path: Path) -> None:
    model, x, target = network(), data(8, SIDE).double(), data(8, 8, seed=1).double()
    assert any(buffer.dtype is torch.uint16 for buffer in model.buffers())
    spawn(train_a_half, args=(model, x, target, tmp_path), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    torch.testing.assert_close(first, gradients_after_three_steps(network(), x, target))
