"""Half-precision storage: numbers of 16 bits on disk, computed in float32 as before."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from compressor.errors import CompressorError

if TYPE_CHECKING:
    import onnx

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
_SMALL = 64  # numbers: what is smaller is stored as it is in graphs, where each costs a node


def rounded(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy of ``model`` whose parameters and stored buffers are what ``dtype`` can hold, still in float32.

    CompressorError, with its name, for a tensor with numbers beyond the range of ``dtype``.
    """
    model = copy.deepcopy(model)
    with torch.no_grad():
        for name, value in _stored(model):
            half = value.to(dtype)
            if not torch.isfinite(half).all() and torch.isfinite(value).all():
                raise CompressorError(
                    f"'{name}' holds numbers up to {float(value.abs().max()):.3g}, beyond what"
                    f" {str(dtype).removeprefix('torch.')} can; store bfloat16 instead"
                )
            value.copy_(half)
    return model


def _stored(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The float32 tensors that a file holds, each once."""
    seen: set[int] = set()
    for name, value in model.state_dict(keep_vars=True).items():
        if isinstance(value, Tensor) and value.dtype == torch.float32 and id(value) not in seen:
            seen.add(id(value))
            yield name, value


def held_in(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy of ``model`` that holds its larger parameters in ``dtype`` and computes in float32, to be traced.

    Recurrent modules keep theirs: they are read by address.
    """
    model = copy.deepcopy(model)
    for module in list(model.modules()):
        if isinstance(module, nn.RNNBase | nn.MultiheadAttention):
            continue
        for name, value in list(module.named_parameters(recurse=False)):
            if value.dtype == torch.float32 and value.numel() >= _SMALL:
                _hold(module, name, nn.Parameter(value.detach().to(dtype), requires_grad=False))
    return model


def _hold(module: nn.Module, name: str, half: nn.Parameter) -> None:
    """Have ``module`` give ``half``, which it holds, as its parameter ``name`` in float32.

    Not as a parametrization of torch's, whose containers take no parameter by the name of ``values``.
    """
    held = f"{name}_{str(half.dtype).removeprefix('torch.')}"
    delattr(module, name)
    module.register_parameter(held, half)
    kind = type(module)
    module.__class__ = type(kind.__name__, (kind,), {name: property(lambda self: getattr(self, held).float())})


def hold_onnx_in(proto: onnx.ModelProto, dtype: str) -> None:
    """Store the larger float32 initialisers of ``proto`` in ``dtype``, each with a Cast behind it, in place."""
    from onnx import TensorProto, helper

    kind = {"float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}[dtype]
    casts = []
    for tensor in proto.graph.initializer:
        values = _float32(tensor)
        if values is None or values.numel() < _SMALL:
            continue
        name, half = tensor.name, values.to(DTYPES[dtype])
        raw = half.contiguous().view(torch.int16).numpy().tobytes()
        tensor.CopyFrom(TensorProto(name=f"{name}_{dtype}", data_type=kind, dims=tensor.dims, raw_data=raw))
        casts.append(helper.make_node("Cast", [tensor.name], [name], name=f"{name}_widened", to=TensorProto.FLOAT))
    nodes = [*casts, *proto.graph.node]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)


def _float32(tensor: Any) -> Tensor | None:
    from onnx import TensorProto, numpy_helper

    if tensor.data_type != TensorProto.FLOAT:
        return None
    return torch.from_numpy(numpy_helper.to_array(tensor).copy())
