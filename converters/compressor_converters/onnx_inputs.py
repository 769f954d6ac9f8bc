"""Inputs of the shapes that an ONNX file names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from compressor.errors import CompressorError, reason

_TYPES = {
    "tensor(float)": torch.float32, "tensor(double)": torch.float64, "tensor(float16)": torch.float16,
    "tensor(int64)": torch.int64, "tensor(int32)": torch.int32, "tensor(int8)": torch.int8,
    "tensor(uint8)": torch.uint8, "tensor(bool)": torch.bool,
}  # fmt: skip
_LENGTH = 16  # where the file leaves it open


@dataclass(frozen=True)
class Inputs:
    """What a file takes: names, an example, and for each input the axes after the batch that may have any length."""

    names: tuple[str, ...]
    example: tuple[Tensor, ...]
    free: tuple[dict[int, str], ...]


def inputs_of(path: Path, rows: int) -> Inputs:
    """The inputs of the file ``path``; examples of ``rows`` rows where it leaves the batch open.

    Seeded noise, and zeros and ones for whole numbers, which every table of embeddings has; masks hide nothing.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises kinds of its own
        raise CompressorError(f"{path}: onnxruntime does not load it: {reason(error)}") from None
    generator = torch.Generator().manual_seed(0)
    names, example, free = [], [], []
    for given in session.get_inputs():
        if given.type not in _TYPES:
            raise CompressorError(f"{path}: the input '{given.name}' is a {given.type}, which no example is made of")
        dtype, axes = _TYPES[given.type], {}
        sizes = [size if isinstance(size, int) else _LENGTH for size in given.shape]
        if sizes and not isinstance(given.shape[0], int):
            sizes[0] = rows
        axes = {i: str(size) for i, size in enumerate(given.shape) if i and not isinstance(size, int)}
        made = torch.ones(sizes) if "mask" in given.name else torch.randn(sizes, generator=generator)
        example.append(made.to(dtype) if dtype.is_floating_point else (made > 0).to(dtype))
        names.append(given.name)
        free.append(axes)
    return Inputs(tuple(names), tuple(example), tuple(free))
