"""Matrix products, convolutions, poolings, norms and resizing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from compressor_converters.onnx_in.operators.table import Node, operator, plain
from compressor_converters.onnx_in.view import attribute, integer, integers, number

plain(MatMul=torch.matmul)
_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TURNED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_POOL = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


@operator("Gemm")
def _gemm(node: Node, _opset: int, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    a = a.T if integer(node, "transA") else a
    b = b.T if integer(node, "transB") else b
    out = number(node, "alpha", 1.0) * (a @ b)
    return out if c is None else out + number(node, "beta", 1.0) * c


@operator("Einsum")
def _einsum(node: Node, _opset: int, *inputs: Tensor) -> Tensor:
    equation = attribute(node, "equation")
    assert isinstance(equation, bytes)
    out: Tensor = torch.einsum(equation.decode(), *inputs)
    return out


def _ends(node: Node, x: Tensor, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> list[int]:
    """What is put around each axis, all beginnings and then all ends."""
    how = attribute(node, "auto_pad", b"NOTSET")
    if how == b"NOTSET":
        return integers(node, "pads") or [0] * (2 * len(kernel))
    if how == b"VALID":
        return [0] * (2 * len(kernel))
    begin, end = [], []
    for size, k, stride, dilation in zip(x.shape[2:], kernel, strides, dilations, strict=True):
        total = max(0, (-(-size // stride) - 1) * stride + dilation * (k - 1) + 1 - size)
        small, large = total // 2, total - total // 2
        begin.append(small if how == b"SAME_UPPER" else large)
        end.append(large if how == b"SAME_UPPER" else small)
    return [*begin, *end]


def _padded(x: Tensor, ends: Sequence[int], value: float = 0.0) -> Tensor:
    half = len(ends) // 2
    order = [size for axis in reversed(range(half)) for size in (ends[axis], ends[half + axis])]
    return F.pad(x, order, value=value) if any(order) else x


def _window(node: Node, sizes: Sequence[int]) -> tuple[list[int], list[int]]:
    ones = [1] * len(sizes)
    return integers(node, "strides") or ones, integers(node, "dilations") or ones


@operator("Conv")
def _conv(node: Node, _opset: int, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    kernel = list(w.shape[2:])
    strides, dilations = _window(node, kernel)
    x = _padded(x, _ends(node, x, kernel, strides, dilations))
    out: Tensor = _CONV[len(kernel)](x, w, b, strides, 0, dilations, integer(node, "group", 1))
    return out


@operator("ConvTranspose")
def _conv_transpose(node: Node, _opset: int, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    kernel = list(w.shape[2:])
    strides, dilations = _window(node, kernel)
    if attribute(node, "auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID") or integers(node, "output_shape"):
        raise NotImplementedError("ConvTranspose with auto_pad or output_shape")
    pads, n = integers(node, "pads") or [0] * (2 * len(kernel)), len(kernel)
    extra = integers(node, "output_padding") or [0] * n
    out: Tensor = _TURNED[n](x, w, b, strides, 0, extra, integer(node, "group", 1), dilations)
    for axis in range(n):
        size = out.shape[axis + 2] - pads[axis] - pads[n + axis]
        out = out.narrow(axis + 2, pads[axis], size)
    return out


@operator("MaxPool")
def _max_pool(node: Node, _opset: int, x: Tensor) -> Tensor:
    kernel = integers(node, "kernel_shape")
    strides, dilations = _window(node, kernel)
    if len(node.output) > 1:
        raise NotImplementedError("MaxPool with indices")
    x = _padded(x, _beyond(node, x, kernel, strides, dilations), -torch.inf)
    out: Tensor = _POOL[len(kernel)](x, kernel, strides, 0, dilations)
    return out


def _beyond(node: Node, x: Tensor, kernel: list[int], strides: list[int], dilations: list[int]) -> list[int]:
    """What is put around each axis, with what ``ceil_mode`` adds at the ends."""
    ends, n = _ends(node, x, kernel, strides, dilations), len(kernel)
    if not integer(node, "ceil_mode"):
        return ends
    for axis in range(n):
        size = x.shape[axis + 2] + ends[axis] + ends[n + axis]
        reach = dilations[axis] * (kernel[axis] - 1) + 1
        steps = -(-(size - reach) // strides[axis])
        if steps * strides[axis] >= x.shape[axis + 2] + ends[axis]:
            steps -= 1  # a window that would begin in the padding at the end is left out
        ends[n + axis] += max(0, steps * strides[axis] + reach - size)
    return ends


@operator("AveragePool")
def _average_pool(node: Node, _opset: int, x: Tensor) -> Tensor:
    kernel = integers(node, "kernel_shape")
    strides, dilations = _window(node, kernel)
    if any(one != 1 for one in dilations):
        raise NotImplementedError("AveragePool with dilations")
    ends = _beyond(node, x, kernel, strides, dilations)
    given = _ends(node, x, kernel, strides, dilations)
    counted = _padded(torch.ones_like(x[:1, :1]), given, float(integer(node, "count_include_pad")))
    counted = _padded(counted, [all_ - own for all_, own in zip(ends, given, strict=True)])
    pool: Any = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}[len(kernel)]
    out: Tensor = pool(_padded(x, ends), kernel, strides) / pool(counted, kernel, strides)
    return out


@operator("GlobalAveragePool")
def _global_average(_node: Node, _opset: int, x: Tensor) -> Tensor:
    return x.mean(list(range(2, x.ndim)), keepdim=True)


@operator("GlobalMaxPool")
def _global_max(_node: Node, _opset: int, x: Tensor) -> Tensor:
    return x.amax(list(range(2, x.ndim)), keepdim=True)


# --- norms --------------------------------------------------------------------------------------


@operator("BatchNormalization")
def _batch_norm(
    node: Node, _opset: int, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor
) -> Tensor:
    if integer(node, "training_mode"):
        raise NotImplementedError("BatchNormalization in training mode")
    return F.batch_norm(x, mean, variance, scale, bias, False, 0.0, number(node, "epsilon", 1e-5))


@operator("InstanceNormalization")
def _instance_norm(node: Node, _opset: int, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return F.instance_norm(x, weight=scale, bias=bias, eps=number(node, "epsilon", 1e-5))


@operator("LayerNormalization")
def _layer_norm(node: Node, _opset: int, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    if len([name for name in node.output if name]) > 1:
        raise NotImplementedError("LayerNormalization with its statistics as outputs")
    axis = integer(node, "axis", -1) % x.ndim
    axes = list(range(axis, x.ndim))
    centred = x - x.mean(axes, keepdim=True)
    out = centred / (centred.square().mean(axes, keepdim=True) + number(node, "epsilon", 1e-5)).sqrt() * scale
    return out if bias is None else out + bias


@operator("RMSNormalization")
def _rms_norm(node: Node, _opset: int, x: Tensor, scale: Tensor) -> Tensor:
    axes = list(range(integer(node, "axis", -1) % x.ndim, x.ndim))
    return x / (x.square().mean(axes, keepdim=True) + number(node, "epsilon", 1e-5)).sqrt() * scale


@operator("LpNormalization")
def _lp_norm(node: Node, _opset: int, x: Tensor) -> Tensor:
    axis, p = integer(node, "axis", -1), integer(node, "p", 2)
    size = torch.linalg.vector_norm(x, p, axis, keepdim=True)
    return torch.where(size == 0, 0, x / size)


@operator("Resize")
def _resize(
    node: Node, opset: int, x: Tensor, roi: Tensor | None = None, scales: Tensor | None = None,
    sizes: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """The usual cases: whole axes of space, nearest with floor, or linear from the middles or the corners."""
    mode = attribute(node, "mode", b"nearest")
    where = attribute(node, "coordinate_transformation_mode", b"half_pixel" if opset > 10 else b"asymmetric")
    rounding = attribute(node, "nearest_mode", b"round_prefer_floor" if opset > 10 else b"floor")
    if opset == 10:
        scales = roi
    if integers(node, "axes") or integer(node, "antialias"):
        raise NotImplementedError("Resize with axes or antialias")
    if sizes is not None and sizes.numel():
        target = [int(size) for size in sizes.tolist()[2:]]
    else:
        assert scales is not None
        if list(scales.tolist()[:2]) != [1.0, 1.0]:
            raise NotImplementedError("Resize of the batch or the channels")
        exact = [size * scale for size, scale in zip(x.shape[2:], scales.tolist()[2:], strict=True)]
        target = [int(size) for size in exact]
        if mode == b"linear" and target != exact:
            raise NotImplementedError("Resize to a size that is rounded")
    middle = (b"round_prefer_floor", b"round_prefer_ceil")
    whole = all(new % old == 0 for new, old in zip(target, x.shape[2:], strict=True))
    if mode == b"nearest" and (
        (where == b"asymmetric" and rounding == b"floor") or (whole and where == b"half_pixel" and rounding in middle)
    ):
        return F.interpolate(x, target, mode="nearest")
    names = {3: "linear", 4: "bilinear", 5: "trilinear"}
    usual = where in (b"half_pixel", b"align_corners") or (where == b"pytorch_half_pixel" and min(target) > 1)
    if mode == b"linear" and usual:
        return F.interpolate(x, target, mode=names[x.ndim], align_corners=where == b"align_corners")
    raise NotImplementedError(f"Resize {mode!r} {where!r} {rounding!r}")
