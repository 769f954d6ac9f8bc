"""Operators that move numbers about, pick some of them, or take many to one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from compressor_converters.onnx_in.operators.table import Node, operator
from compressor_converters.onnx_in.read import as_tensor
from compressor_converters.onnx_in.view import attribute, integer, integers


def _ints(x: Tensor | None) -> list[int]:
    return [] if x is None else [int(one) for one in x.reshape(-1).tolist()]


def _axes(node: Node, given: Tensor | None) -> list[int]:
    """Axes from the second input, or from the attribute as older versions have it."""
    return _ints(given) if given is not None else integers(node, "axes")


@operator("Shape")
def _shape(node: Node, _opset: int, x: Tensor) -> Tensor:
    end = attribute(node, "end")
    assert end is None or isinstance(end, int)
    return torch.tensor(list(x.shape)[integer(node, "start") : end], dtype=torch.int64)


@operator("Size")
def _size(_node: Node, _opset: int, x: Tensor) -> Tensor:
    return torch.tensor(x.numel())


@operator("Reshape")
def _reshape(node: Node, _opset: int, x: Tensor, shape: Tensor) -> Tensor:
    keep = not integer(node, "allowzero")
    return x.reshape([x.shape[i] if keep and size == 0 else size for i, size in enumerate(_ints(shape))])


@operator("Flatten")
def _flatten(node: Node, _opset: int, x: Tensor) -> Tensor:
    axis = integer(node, "axis", 1)
    axis += x.ndim if axis < 0 else 0
    return x.reshape(int(torch.Size(x.shape[:axis]).numel()), -1)


@operator("Transpose")
def _transpose(node: Node, _opset: int, x: Tensor) -> Tensor:
    return x.permute(integers(node, "perm") or list(reversed(range(x.ndim))))


@operator("Squeeze")
def _squeeze(node: Node, _opset: int, x: Tensor, axes: Tensor | None = None) -> Tensor:
    wanted = _axes(node, axes)
    return x.squeeze(tuple(wanted)) if wanted else x.squeeze()


@operator("Unsqueeze")
def _unsqueeze(node: Node, _opset: int, x: Tensor, axes: Tensor | None = None) -> Tensor:
    wanted = _axes(node, axes)
    for axis in sorted(axis % (x.ndim + len(wanted)) for axis in wanted):
        x = x.unsqueeze(axis)
    return x


@operator("Concat")
def _concat(node: Node, _opset: int, *inputs: Tensor) -> Tensor:
    return torch.cat(inputs, integer(node, "axis"))


@operator("Split")
def _split(node: Node, _opset: int, x: Tensor, sizes: Tensor | None = None) -> Any:
    axis = integer(node, "axis")
    wanted = _ints(sizes) or integers(node, "split")
    if not wanted:
        count = len(node.output)
        size = -(-x.shape[axis] // count)
        wanted = [size] * (count - 1) + [x.shape[axis] - size * (count - 1)]
    return torch.split(x, wanted, axis)


@operator("Slice")
def _slice(
    node: Node, _opset: int, x: Tensor, starts: Tensor | None = None, ends: Tensor | None = None,
    axes: Tensor | None = None, steps: Tensor | None = None,
) -> Tensor:  # fmt: skip
    begin = _ints(starts) if starts is not None else integers(node, "starts")
    end = _ints(ends) if ends is not None else integers(node, "ends")
    along = _axes(node, axes) or list(range(len(begin)))
    for axis, first, last, step in zip(along, begin, end, _ints(steps) or [1] * len(begin), strict=True):
        size = x.shape[axis]
        picked = range(size)[slice(first, None if step < 0 and last < -size else last, step)]
        if step == 1:
            x = x.narrow(axis, picked.start if len(picked) else 0, len(picked))
        else:
            x = x.index_select(axis, torch.tensor(list(picked), dtype=torch.int64, device=x.device))
    return x


@operator("Gather")
def _gather(node: Node, _opset: int, x: Tensor, indices: Tensor) -> Tensor:
    axis = integer(node, "axis") % x.ndim
    flat = indices.reshape(-1).long()
    picked = x.index_select(axis, torch.where(flat < 0, flat + x.shape[axis], flat).to(x.device))
    return picked.reshape([*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]])  # of a vector, a single number


@operator("GatherElements")
def _gather_elements(node: Node, _opset: int, x: Tensor, indices: Tensor) -> Tensor:
    axis = integer(node, "axis")
    return x.gather(axis, torch.where(indices < 0, indices + x.shape[axis], indices).long())


@operator("Expand")
def _expand(_node: Node, _opset: int, x: Tensor, shape: Tensor) -> Tensor:
    return x.broadcast_to(np.broadcast_shapes(tuple(x.shape), tuple(_ints(shape))))


@operator("Tile")
def _tile(_node: Node, _opset: int, x: Tensor, repeats: Tensor) -> Tensor:
    return x.repeat(_ints(repeats))


@operator("Pad")
def _pad(
    node: Node, opset: int, x: Tensor, pads: Tensor | None = None, value: Tensor | None = None,
    axes: Tensor | None = None,
) -> Tensor:  # fmt: skip
    mode = attribute(node, "mode", b"constant")
    sizes = _ints(pads) if opset >= 11 else integers(node, "pads")
    along = [axis % x.ndim for axis in _ints(axes)] or list(range(x.ndim))
    half = len(sizes) // 2
    ends = {axis: (sizes[i], sizes[half + i]) for i, axis in enumerate(along)}
    order = [size for axis in reversed(range(x.ndim)) for size in ends.get(axis, (0, 0))]
    if mode == b"constant":
        filled = float(value) if value is not None and value.numel() else float(attribute(node, "value", 0.0))  # type: ignore[arg-type]
        return F.pad(x, order, value=filled)
    while len(order) > 2 and order[-2:] == [0, 0]:
        order = order[:-2]
    names = {b"reflect": "reflect", b"edge": "replicate", b"wrap": "circular"}
    assert isinstance(mode, bytes)
    lead = x.ndim - len(order) // 2
    folded = x.reshape(1, -1, *x.shape[lead:]) if lead != 2 else x
    out = F.pad(folded, order, mode=names[mode])
    return out.reshape(*x.shape[:lead], *out.shape[2:])


@operator("ConstantOfShape")
def _constant_of_shape(node: Node, _opset: int, shape: Tensor) -> Tensor:
    import onnx

    value: Any = attribute(node, "value")
    one = torch.zeros(1) if value is None else as_tensor(onnx.numpy_helper.to_array(value))
    return one.reshape(()).expand(_ints(shape)).clone()


@operator("Range")
def _range(_node: Node, _opset: int, start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    return torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype)


@operator("Trilu")
def _trilu(node: Node, _opset: int, x: Tensor, k: Tensor | None = None) -> Tensor:
    return (torch.triu if integer(node, "upper", 1) else torch.tril)(x, 0 if k is None else int(k))


@operator("DepthToSpace")
def _depth_to_space(node: Node, _opset: int, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    b = integer(node, "blocksize")
    if attribute(node, "mode", b"DCR") == b"CRD":
        return x.reshape(n, c // b**2, b, b, h, w).permute(0, 1, 4, 2, 5, 3).reshape(n, c // b**2, h * b, w * b)
    return x.reshape(n, b, b, c // b**2, h, w).permute(0, 3, 4, 1, 5, 2).reshape(n, c // b**2, h * b, w * b)


@operator("SpaceToDepth")
def _space_to_depth(node: Node, _opset: int, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    b = integer(node, "blocksize")
    if attribute(node, "mode", b"DCR") != b"DCR":
        raise NotImplementedError("SpaceToDepth with another order")
    return x.reshape(n, c, h // b, b, w // b, b).permute(0, 3, 5, 1, 2, 4).reshape(n, c * b**2, h // b, w // b)


# --- many to one --------------------------------------------------------------------------------


def _reduction(reduce: Callable[[Tensor, list[int], bool], Tensor]) -> Callable[..., Tensor]:
    def reduced(node: Node, _opset: int, x: Tensor, axes: Tensor | None = None) -> Tensor:
        along = _axes(node, axes)
        if not along and integer(node, "noop_with_empty_axes"):
            return x
        out = reduce(x, along or list(range(x.ndim)), bool(integer(node, "keepdims", 1)))
        return out.to(x.dtype)

    return reduced


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted((axis % x.ndim for axis in axes), reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


operator("ReduceMean")(_reduction(lambda x, axes, keep: x.mean(axes, keepdim=keep)))
operator("ReduceSum")(_reduction(lambda x, axes, keep: x.sum(axes, keepdim=keep)))
operator("ReduceMax")(_reduction(lambda x, axes, keep: x.amax(axes, keepdim=keep)))
operator("ReduceMin")(_reduction(lambda x, axes, keep: x.amin(axes, keepdim=keep)))
operator("ReduceL1")(_reduction(lambda x, axes, keep: x.abs().sum(axes, keepdim=keep)))
operator("ReduceL2")(_reduction(lambda x, axes, keep: x.square().sum(axes, keepdim=keep).sqrt()))
operator("ReduceSumSquare")(_reduction(lambda x, axes, keep: x.square().sum(axes, keepdim=keep)))
operator("ReduceLogSumExp")(_reduction(lambda x, axes, keep: x.logsumexp(axes, keepdim=keep)))
operator("ReduceProd")(_reduction(_product))


@operator("ArgMax", "ArgMin")
def _arg(node: Node, _opset: int, x: Tensor) -> Tensor:
    if integer(node, "select_last_index"):
        raise NotImplementedError(f"{node.op_type} with select_last_index")
    pick = torch.argmax if node.op_type == "ArgMax" else torch.argmin
    return pick(x, integer(node, "axis"), keepdim=bool(integer(node, "keepdims", 1)))


@operator("CumSum")
def _cumulated(node: Node, _opset: int, x: Tensor, axis: Tensor) -> Tensor:
    along = int(axis)
    x = x.flip(along) if integer(node, "reverse") else x
    out = x.cumsum(along).to(x.dtype)
    out = out - x if integer(node, "exclusive") else out
    return out.flip(along) if integer(node, "reverse") else out


@operator("Softmax", "LogSoftmax")
def _softmax(node: Node, opset: int, x: Tensor) -> Tensor:
    take = torch.softmax if node.op_type == "Softmax" else torch.log_softmax
    if opset >= 13:
        return take(x, integer(node, "axis", -1))
    axis = integer(node, "axis", 1) % max(1, x.ndim)
    return take(x.reshape(*x.shape[:axis], -1), -1).reshape(x.shape)
