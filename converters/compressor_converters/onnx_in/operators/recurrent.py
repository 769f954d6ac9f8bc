"""LSTM and GRU, step by step, in the ways that exporters write them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from compressor_converters.onnx_in.operators.table import Node, operator
from compressor_converters.onnx_in.view import attribute, integer

_DEFAULTS = {"LSTM": [b"Sigmoid", b"Tanh", b"Tanh"], "GRU": [b"Sigmoid", b"Tanh"]}


@operator("LSTM")
def _lstm(
    node: Node, _opset: int, x: Tensor, w: Tensor, r: Tensor, b: Tensor | None = None, lengths: Tensor | None = None,
    h: Tensor | None = None, c: Tensor | None = None, peepholes: Tensor | None = None,
) -> tuple[Tensor, ...]:  # fmt: skip
    if peepholes is not None or integer(node, "input_forget"):
        raise NotImplementedError("LSTM with peepholes or a joint gate")
    x = _checked(node, x, lengths)
    outputs, hs, cs = [], [], []
    for d, backwards in enumerate(_directions(node)):
        bias = w.new_zeros(2 * w.shape[1]) if b is None else b[d]
        given = F.linear(x, w[d], bias[: w.shape[1]] + bias[w.shape[1] :])  # (time, batch, 4 hidden): i, o, f, c
        hidden = _start(h, d, x, r)
        cell = _start(c, d, x, r)
        steps = []
        for t in reversed(range(len(x))) if backwards else range(len(x)):
            i, o, f, g = (given[t] + hidden @ r[d].T).chunk(4, -1)
            cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
            hidden = o.sigmoid() * cell.tanh()
            steps.append(hidden)
        outputs.append(torch.stack(steps[::-1] if backwards else steps))
        hs.append(hidden)
        cs.append(cell)
    return torch.stack(outputs, 1), torch.stack(hs), torch.stack(cs)


@operator("GRU")
def _gru(
    node: Node, _opset: int, x: Tensor, w: Tensor, r: Tensor, b: Tensor | None = None, lengths: Tensor | None = None,
    h: Tensor | None = None,
) -> tuple[Tensor, ...]:  # fmt: skip
    x = _checked(node, x, lengths)
    outputs, hs = [], []
    after = bool(integer(node, "linear_before_reset"))
    for d, backwards in enumerate(_directions(node)):
        size = w.shape[1]
        bias = w.new_zeros(2 * size) if b is None else b[d]
        given = F.linear(x, w[d], bias[:size])  # (time, batch, 3 hidden): z, r, h
        rz, rr, rh = r[d].chunk(3, 0)
        bz, br, bh = bias[size:].chunk(3, 0)
        hidden = _start(h, d, x, r)
        steps = []
        for t in reversed(range(len(x))) if backwards else range(len(x)):
            xz, xr, xh = given[t].chunk(3, -1)
            update = (xz + F.linear(hidden, rz, bz)).sigmoid()
            reset = (xr + F.linear(hidden, rr, br)).sigmoid()
            kept = reset * F.linear(hidden, rh, bh) if after else F.linear(reset * hidden, rh, bh)
            hidden = (1 - update) * (xh + kept).tanh() + update * hidden
            steps.append(hidden)
        outputs.append(torch.stack(steps[::-1] if backwards else steps))
        hs.append(hidden)
    return torch.stack(outputs, 1), torch.stack(hs)


def _checked(node: Node, x: Tensor, lengths: Tensor | None) -> Tensor:
    """``x (time, batch, features)``; NotImplementedError for what is not written here."""
    activations = attribute(node, "activations")
    wanted = _DEFAULTS[node.op_type] * len(_directions(node))
    if activations is not None and list(activations) != wanted:  # type: ignore[call-overload]
        raise NotImplementedError(f"{node.op_type} with other activations")
    if attribute(node, "clip") is not None or integer(node, "layout"):
        raise NotImplementedError(f"{node.op_type} with clip or the batch first")
    if lengths is not None and bool((lengths != len(x)).any()):
        raise NotImplementedError(f"{node.op_type} with lengths that differ")
    return x


def _directions(node: Node) -> list[bool]:
    """For each direction, whether it is backwards."""
    return {b"forward": [False], b"reverse": [True], b"bidirectional": [False, True]}[
        attribute(node, "direction", b"forward")  # type: ignore[index]
    ]


def _start(state: Tensor | None, d: int, x: Tensor, r: Tensor) -> Tensor:
    return x.new_zeros(x.shape[1], r.shape[2]) if state is None else state[d]
