"""``.pte``: a program for ExecuTorch, torch's runtime for phones; written where the package executorch is installed."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compressor.errors import CompressorError, reason
from compressor_converters.pt2 import export


def save_pte(model: nn.Module, example: tuple[Tensor, ...], path: Path) -> None:
    """Write ``model`` in the portable operators, for the sizes of ``example``."""
    exir = _module("executorch.exir", path)
    try:
        program, _ = export(_signed(model), example, dynamic_batch=False)
        whole = exir.to_edge(program).to_executorch()
    except Exception as error:  # torch and executorch raise many kinds; the reason is passed on
        raise CompressorError(
            f"the model cannot be written as {path.name}, unless --dense expands it: {reason(error)}"
        ) from error
    path.write_bytes(whole.buffer)


def _signed(model: nn.Module) -> nn.Module:
    """A copy of ``model`` whose tables of places are signed: the runtime does not know uint16."""
    model = copy.deepcopy(model)
    for module in model.modules():
        for held in (module._buffers, vars(module)):
            for name, value in held.items():
                if isinstance(value, Tensor) and value.dtype == torch.uint16:
                    held[name] = value.to(torch.int32)
    return model


def run_pte(path: Path) -> Callable[[tuple[Tensor, ...]], Tensor]:
    """What ExecuTorch makes of a batch; the program takes batches of one size, so rows are filled up to it."""
    runtime = _module("executorch.runtime", path).Runtime.get()
    method = runtime.load_program(path).load_method("forward")
    rows = int(method.metadata.input_tensor_meta(0).sizes()[0])

    def run(batch: tuple[Tensor, ...]) -> Tensor:
        have = len(batch[0])
        filled = [torch.cat([x, x[:1].expand(rows - have, *x.shape[1:])]) for x in batch]
        try:
            output: Tensor = method.execute(filled)[0]
        except RuntimeError as error:
            raise CompressorError(f"ExecuTorch does not run {path.name}: {reason(error)}") from None
        return output[:have]

    return run


def _module(name: str, path: Path) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise CompressorError(
            f"{path.name} needs the package executorch, with all that it needs ({reason(error)}): pip install"
            " 'structured-compress[pte]'"
        ) from None
