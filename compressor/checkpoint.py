"""What is kept of a training under way, beside the output, so that a run that is cut off goes on from there."""

from __future__ import annotations

import glob
import hashlib
import os
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from compressor.errors import reason
from compressor.recipe import Recipe

if TYPE_CHECKING:
    from compressor.distill import Distillation, Distilled


def checkpoint_of(output: str | Path | None, recipe: Recipe) -> Path | None:
    """The file for the work of ``recipe`` whose output is ``output``."""
    if output is None:
        return None
    target = Path(os.path.abspath(output))
    return target.parent / f".{target.name}.checkpoint-{recipe.digest()}"


def forget(checkpoint: Path) -> None:
    """Remove the checkpoints of all runs that had this output."""
    for file in checkpoint.parent.glob(glob.escape(checkpoint.name.rpartition("-")[0]) + "-*"):
        file.unlink(missing_ok=True)


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """All that training may change."""
    kept = model.state_dict(keep_vars=True).items()
    frozen = {name for name, value in kept if isinstance(value, nn.Parameter) and not value.requires_grad}
    return {name: value.detach().clone() for name, value in kept if name not in frozen}


def save(path: Path, run: Distillation, result: Distilled, best: dict[str, Tensor]) -> None:
    """Write all of ``run`` to ``path``; where that fails the run goes on, and ``result`` notes it."""
    state = {
        "origin": run.origin,
        "student": snapshot(run.student),
        "best": best,
        "optimizer": run.optimizer.state_dict(),
        "step": run.step,
        "schedules": [schedule.state_dict() for schedule in run.schedules],
        "random": torch.get_rng_state(),
        "device_random": torch.cuda.get_rng_state(run.device) if run.device.type == "cuda" else None,
        "result": {"epochs": result.epochs, "losses": result.losses, "best_epoch": result.best_epoch},
    }
    partial = path.with_name(path.name + ".partial")
    try:
        torch.save(state, partial)
        partial.replace(path)
    except (OSError, RuntimeError) as error:  # torch says RuntimeError where the disk is full
        partial.unlink(missing_ok=True)
        note = f"the training could not be kept to be taken up again: {reason(error)}"
        result.notes += [note] if note not in result.notes else []


def read(path: Path | None, run: Distillation, result: Distilled) -> dict[str, Any] | None:
    """The state kept in ``path``; None where there is none of this network, or none that can be read."""
    if path is None or not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True)
        return state if state["origin"] == run.origin else None
    except (OSError, EOFError, RuntimeError, KeyError, pickle.UnpicklingError) as error:
        result.notes.append(f"the training began anew, what was kept of it could not be read: {reason(error)}")
        return None


def take_up(state: dict[str, Any], run: Distillation, result: Distilled) -> None:
    """Go on from ``state``."""
    run.student.load_state_dict(state["student"], strict=False)
    run.optimizer.load_state_dict(state["optimizer"])
    run.step = state["step"]
    for schedule, kept in zip(run.schedules, state["schedules"], strict=True):
        schedule.load_state_dict(kept)
    run.anneal(run.step / run.steps)
    run.settled = all(layer.is_settled for layer in run.layers)
    torch.set_rng_state(state["random"])
    if state["device_random"] is not None:
        torch.cuda.set_rng_state(state["device_random"], run.device)
    result.epochs, result.losses, result.best_epoch = (state["result"][k] for k in ("epochs", "losses", "best_epoch"))


def fingerprint(model: nn.Module) -> str:
    """Of all numbers of ``model``: the recipe does not know them where code made it."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
