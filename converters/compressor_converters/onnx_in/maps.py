"""Dense maps in an ONNX graph: ``Gemm``, ``MatMul`` (+ ``Add``) with a constant weight, 1×1 ``Conv``.

The weight may stand behind ``Transpose``, ``Identity``, ``Cast``, ``DequantizeLinear``, ``Reshape`` and the like.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np
import onnx
from torch import nn

from compressor_converters.onnx_in.read import Array
from compressor_converters.onnx_in.view import View, attribute, integer, integers, is_standard, number

_FLOATS = (np.dtype(np.float32), np.dtype(np.float16), np.dtype(np.float64))
_TAKEN = {"training", "view", "inputs", "calls", "loops", "left", "steps", "rows", "ranks", "order", "maps", "opened",
          "hidden"}  # of the network itself  # fmt: skip


@dataclass(frozen=True)
class DenseMap:
    """One place where ``y = x Wᵀ + b`` is computed; ``weight`` and ``bias`` name constants of the graph.

    ``x`` has the features last, or second where ``is_channels``: then only every ``strides``-th position counts.
    """

    name: str
    nodes: tuple[int, ...]  # what computes it, in order
    input: str
    output: str
    weight: str
    bias: str | None
    weight_key: int  # equal keys, equal numbers
    bias_key: int | None
    weight_is_in_out: bool = False  # the constant is W turned
    scale: float = 1.0  # of the weight
    bias_scale: float = 1.0
    is_channels: bool = False
    strides: tuple[int, ...] = ()

    def dense(self, view: View) -> tuple[Array, Array | None]:
        """``weight (out, in)``, ``bias (out,)`` or None; the numbers of the file where nothing need be changed."""
        w = view.value(self.weight)
        w = w.T if self.weight_is_in_out else w.reshape(w.shape[:2]) if self.is_channels else w
        w = w if self.scale == 1 else (w * np.asarray(self.scale, w.dtype))
        if self.bias is None:
            return w, None
        b = view.value(self.bias)
        b = b if self.bias_scale == 1 else b * np.asarray(self.bias_scale, b.dtype)
        return w, np.ascontiguousarray(np.broadcast_to(b.reshape(-1), (w.shape[0],)))


def find_maps(view: View) -> list[DenseMap]:
    """All dense maps of the graph, in its order; what lies in branches and loops is not looked at."""
    found = [one for i in range(len(view.nodes)) if i not in view.constant_nodes and (one := _map_at(view, i))]
    names = unique_names([one.name for one in found])
    return [DenseMap(**{**one.__dict__, "name": name}) for one, name in zip(found, names, strict=True)]


def _map_at(view: View, i: int) -> DenseMap | None:
    node = view.nodes[i]
    if is_standard(node, "Gemm"):
        return _gemm(view, i, node)
    if is_standard(node, "MatMul"):
        return _matmul(view, i, node)
    if is_standard(node, "Conv"):
        return _convolution(view, i, node)
    return None


def _is_matrix(view: View, name: str, axes: int = 2) -> bool:
    """Whether ``name`` is a constant of ``axes`` axes and floating point, more than one number wide."""
    if view.key(name) is None:
        return False
    shape = view.shape(name)
    return shape is not None and len(shape) == axes and min(shape) >= 1 and view.dtype(name) in _FLOATS


def _gemm(view: View, i: int, node: onnx.NodeProto) -> DenseMap | None:
    x, w, b = (*node.input, "")[:3]
    if integer(node, "transA") or not _is_matrix(view, w) or view.key(x) is not None:
        return None
    if b and (view.key(b) is None or not _is_row(view, b)):
        return None
    in_out, key = not integer(node, "transB"), view.key(w)
    assert key is not None
    return DenseMap(
        _name(node, w), (i,), x, node.output[0], w, b or None, view.turned(key) if in_out else key,
        view.key(b) if b else None, weight_is_in_out=in_out, scale=number(node, "alpha", 1.0),
        bias_scale=number(node, "beta", 1.0),
    )  # fmt: skip


def _matmul(view: View, i: int, node: onnx.NodeProto) -> DenseMap | None:
    x, w = node.input
    if not _is_matrix(view, w) or view.key(x) is not None:
        return None
    stored = view.key(w)
    assert stored is not None
    key = view.turned(stored)
    name, output = _name(node, w), node.output[0]
    after = view.only_reader(output)
    add = view.nodes[after] if after is not None else None
    if after is not None and add is not None and is_standard(add, "Add"):
        b = next((one for one in add.input if one != output), "")
        width = (view.shape(w) or (0, 0))[1]
        if b and view.key(b) is not None and _is_row(view, b, width):
            return DenseMap(name, (i, after), x, add.output[0], w, b, key, view.key(b), weight_is_in_out=True)
    return DenseMap(name, (i,), x, output, w, None, key, None, weight_is_in_out=True)


def _is_row(view: View, name: str, width: int | None = None) -> bool:
    """Whether the constant ``name`` is one number for each feature, and adds no axis."""
    shape = view.shape(name) or ()
    if width is None:  # Gemm: anything that spreads along the rows
        return len(shape) <= 1 or (len(shape) == 2 and shape[0] == 1)
    return len(shape) == 1 and shape[0] == width


def _convolution(view: View, i: int, node: onnx.NodeProto) -> DenseMap | None:
    x, w, b = (*node.input, "")[:3]
    shape = view.shape(w) if view.key(w) is not None else None
    if shape is None or len(shape) < 3 or not _is_matrix(view, w, len(shape)) or view.key(x) is not None:
        return None
    padded = any(integers(node, "pads")) or attribute(node, "auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID")
    same = attribute(node, "auto_pad", b"NOTSET") in (b"SAME_UPPER", b"SAME_LOWER")  # adds nothing to a 1×1 kernel
    if any(size != 1 for size in shape[2:]) or integer(node, "group", 1) != 1 or (padded and not same):
        return None
    if b and (view.key(b) is None or len(view.shape(b) or ()) != 1):
        return None
    key = view.key(w)
    assert key is not None
    return DenseMap(
        _name(node, w), (i,), x, node.output[0], w, b or None, key, view.key(b) if b else None, is_channels=True,
        strides=tuple(integers(node, "strides") or [1] * (len(shape) - 2)),
    )  # fmt: skip


# --- names --------------------------------------------------------------------------------------


def _name(node: onnx.NodeProto, weight: str) -> str:
    """What to call the map: as the node is called, less its operator; else as its weight; else as its output."""
    given = node.name or weight
    if not node.name and "::" in weight:  # a name that the exporter made up
        given = node.output[0]
    return module_name(given, node.op_type)


def module_name(given: str, kind: str) -> str:
    """``given`` with dots between its parts and nothing in it that a name of a module cannot hold."""
    parts = [re.sub(r"\W+", "_", part).strip("_") for part in re.split(r"[/.]+", given)]
    parts = [f"{part}_" if hasattr(nn.Module, part) or part in _TAKEN else part for part in parts if part]
    last = re.sub(r"_\d+$", "", parts[-1]) if parts else ""
    if len(parts) > 1 and last in (kind, "MatMul", "weight", "kernel", "ReadVariableOp"):
        parts.pop()
    return ".".join(parts) or kind


def unique_names(wanted: Iterable[str], taken: Collection[str] = ()) -> list[str]:
    """``wanted`` with numbers where two are alike, or one would be a part of another; the same beside ``taken``."""
    wanted = [name.replace(".", "_") if any(name.startswith(f"{one}.") for one in taken) else name for name in wanted]
    parents = {name[: match.start()] for name in (*taken, *wanted) for match in re.finditer(r"\.", name)}
    used = set(taken)
    out = []
    for name in wanted:
        base = f"{name}_map" if name in parents else name
        free, number = base, 1
        while free in used or free in parents:
            number += 1
            free = f"{base}_{number}"
        used.add(free)
        out.append(free)
    return out
