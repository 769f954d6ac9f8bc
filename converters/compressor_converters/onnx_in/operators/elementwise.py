"""Operators that work number by number, with the usual spreading of axes."""

from __future__ import annotations

from functools import reduce
from typing import Any

import onnx
import torch
import torch.nn.functional as F
from torch import Tensor

from compressor_converters.onnx_in.operators.table import Node, operator, plain
from compressor_converters.onnx_in.view import attribute, integer, number

TYPES: dict[int, torch.dtype] = {
    onnx.TensorProto.FLOAT: torch.float32, onnx.TensorProto.DOUBLE: torch.float64,
    onnx.TensorProto.FLOAT16: torch.float16, onnx.TensorProto.BFLOAT16: torch.bfloat16,
    onnx.TensorProto.INT64: torch.int64, onnx.TensorProto.INT32: torch.int32, onnx.TensorProto.INT16: torch.int16,
    onnx.TensorProto.INT8: torch.int8, onnx.TensorProto.UINT8: torch.uint8, onnx.TensorProto.BOOL: torch.bool,
}  # fmt: skip

plain(
    Relu=F.relu, Sigmoid=torch.sigmoid, Tanh=torch.tanh, Exp=torch.exp, Log=torch.log, Sqrt=torch.sqrt,
    Reciprocal=torch.reciprocal, Neg=torch.neg, Abs=torch.abs, Erf=torch.erf, Sin=torch.sin, Cos=torch.cos,
    Floor=torch.floor, Ceil=torch.ceil, Round=torch.round, Sign=torch.sign, Not=torch.logical_not, IsNaN=torch.isnan,
    Softsign=F.softsign, Identity=lambda x: x, HardSwish=F.hardswish, Mish=F.mish, Tan=torch.tan, Atan=torch.atan,
    Add=torch.add, Sub=torch.sub, Mul=torch.mul, And=torch.logical_and, Or=torch.logical_or, Xor=torch.logical_xor,
    Equal=torch.eq, Less=torch.lt, LessOrEqual=torch.le, Greater=torch.gt, GreaterOrEqual=torch.ge,
    Softplus=lambda x: F.softplus(x, threshold=1e9), PRelu=lambda x, slope: torch.where(x < 0, x * slope, x),
)  # fmt: skip


@operator("Div")
def _div(_node: Node, _opset: int, x: Tensor, y: Tensor) -> Tensor:
    return x / y if x.is_floating_point() else torch.div(x, y, rounding_mode="trunc")


@operator("Mod")
def _mod(node: Node, _opset: int, x: Tensor, y: Tensor) -> Tensor:
    return torch.fmod(x, y) if integer(node, "fmod") else torch.remainder(x, y)


@operator("Pow")
def _pow(_node: Node, _opset: int, x: Tensor, y: Tensor) -> Tensor:
    return torch.pow(x, y).to(x.dtype)


@operator("Where")
def _where(_node: Node, _opset: int, condition: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return torch.where(condition, x, y)


@operator("Max")
def _max(_node: Node, _opset: int, *inputs: Tensor) -> Tensor:
    return reduce(torch.maximum, inputs)


@operator("Min")
def _min(_node: Node, _opset: int, *inputs: Tensor) -> Tensor:
    return reduce(torch.minimum, inputs)


@operator("Sum")
def _sum(_node: Node, _opset: int, *inputs: Tensor) -> Tensor:
    return reduce(torch.add, inputs)


@operator("Mean")
def _mean(_node: Node, _opset: int, *inputs: Tensor) -> Tensor:
    return reduce(torch.add, inputs) / len(inputs)


@operator("Clip")
def _clip(node: Node, opset: int, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    if opset < 11:
        return x.clamp(number(node, "min", -3.4e38), number(node, "max", 3.4e38))
    x = x if low is None else torch.maximum(x, low.to(x))
    return x if high is None else torch.minimum(x, high.to(x))


@operator("LeakyRelu")
def _leaky_relu(node: Node, _opset: int, x: Tensor) -> Tensor:
    return F.leaky_relu(x, number(node, "alpha", 0.01))


@operator("Elu")
def _elu(node: Node, _opset: int, x: Tensor) -> Tensor:
    return F.elu(x, number(node, "alpha", 1.0))


@operator("Celu")
def _celu(node: Node, _opset: int, x: Tensor) -> Tensor:
    return F.celu(x, number(node, "alpha", 1.0))


@operator("Selu")
def _selu(node: Node, _opset: int, x: Tensor) -> Tensor:
    alpha, gamma = number(node, "alpha", 1.67326319217681884765625), number(node, "gamma", 1.05070102214813232421875)
    return gamma * F.elu(x, alpha)


@operator("HardSigmoid")
def _hard_sigmoid(node: Node, _opset: int, x: Tensor) -> Tensor:
    return (x * number(node, "alpha", 0.2) + number(node, "beta", 0.5)).clamp(0, 1)


@operator("Gelu")
def _gelu(node: Node, _opset: int, x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh" if attribute(node, "approximate", b"none") == b"tanh" else "none")


@operator("Swish")
def _swish(node: Node, _opset: int, x: Tensor) -> Tensor:
    return x * torch.sigmoid(number(node, "alpha", 1.0) * x)


@operator("Cast")
def _cast(node: Node, _opset: int, x: Tensor) -> Tensor:
    kind = integer(node, "to")
    if kind not in TYPES:
        raise NotImplementedError(f"Cast to {onnx.TensorProto.DataType.Name(kind)}")
    return x.to(TYPES[kind])


@operator("CastLike")
def _cast_like(_node: Node, _opset: int, x: Tensor, other: Tensor) -> Tensor:
    return x.to(other.dtype)


@operator("Dropout")
def _dropout(node: Node, _opset: int, x: Tensor, ratio: Tensor | None = None, training: Tensor | None = None) -> Any:
    """As it is in a trained network: nothing is dropped."""
    if training is not None and bool(training):
        raise NotImplementedError("Dropout in training mode")
    return (x, torch.ones_like(x, dtype=torch.bool)) if len(node.output) > 1 else x
