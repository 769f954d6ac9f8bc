"""Inputs that a graph takes, where no data says what they look like: seeded noise, and whole numbers that fit."""

from __future__ import annotations

import torch
from torch import Tensor

from compressor.errors import CompressorError
from compressor_converters.onnx_in.network import Input, OnnxNetwork
from compressor_converters.onnx_in.segment import LoadError
from compressor_converters.onnx_in.view import integer, is_standard

_SIZES = (
    32,
    64,
    128,
    224,
    256,
    320,
    640,
    16,
    48,
    96,
    1,
    512,
    1024,
    16000,
)  # tried for a size that the graph leaves open
_TOKENS = 2  # of a vocabulary that is not known


def make_example(network: OnnxNetwork) -> tuple[Tensor, ...] | None:
    """Two rows of input that the graph was run on, or one where it takes no more; None where nothing tried was taken.

    Sizes that the graph leaves open are tried one after the other, all alike.
    """
    if any(spec.sizes is None for spec in network.inputs):
        return None
    open_sizes = any(None in (spec.sizes or ())[1:] for spec in network.inputs)
    for size in _SIZES if open_sizes else _SIZES[:1]:
        for rows in (2, 1):
            example = tuple(_one(spec, network, rows, size, n) for n, spec in enumerate(network.inputs))
            try:
                with torch.no_grad():
                    found = network(*example)
            except LoadError as error:
                raise CompressorError(f"{network.view.file.path}: {error}") from None
            except RuntimeError:
                continue
            if all(one.numel() for one in ((found,) if isinstance(found, Tensor) else found)):
                return example
    return None


def _one(spec: Input, network: OnnxNetwork, rows: int, size: int, seed: int) -> Tensor:
    """Of one input; where not all inputs count examples along their first axis, whole inputs for each example."""
    assert spec.sizes is not None
    first = {one.sizes[0] if one.sizes else 0 for one in network.inputs}
    apart = () if first <= {None, 1} or len(first) == 1 else (rows,)
    shape = [one if one is not None else (rows if i == 0 and not apart else 1 if i == 0 else size)
             for i, one in enumerate(spec.sizes)]  # fmt: skip
    if shape and not apart and spec.sizes[0] == 1:
        shape[0] = rows  # one row a call, as often as there are rows
    shape = [*apart, *shape]
    generator = torch.Generator().manual_seed(seed)
    if spec.dtype.is_floating_point:
        return torch.randn(shape, generator=generator).to(spec.dtype)
    if spec.dtype == torch.bool or "mask" in spec.name:
        return torch.ones(shape, dtype=spec.dtype)
    if "len" in spec.name:  # of the sequences beside it
        return torch.full(shape, size, dtype=spec.dtype)
    return torch.randint(_vocabulary(spec.name, network), shape, generator=generator).to(spec.dtype)


def _vocabulary(name: str, network: OnnxNetwork) -> int:
    """How many rows the table has that the input picks from."""
    view = network.view
    for i in view.readers.get(name, ()):
        node = view.nodes[i]
        if is_standard(node, "Gather") and node.input[1] == name and integer(node, "axis") == 0:
            shape = view.shape(node.input[0]) if view.key(node.input[0]) else None
            if shape:
                return shape[0]
        if is_standard(node, "Cast", "Unsqueeze", "Squeeze", "Transpose", "Identity"):
            return _vocabulary(node.output[0], network)
    return _TOKENS
