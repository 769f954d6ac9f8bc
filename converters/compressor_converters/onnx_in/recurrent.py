"""LSTM, GRU and RNN nodes as modules: their input and recurrent maps are `nn.Linear` children.

For a node called ``lstm``: ``lstm.ih`` maps the input of all time steps in one call, ``lstm.hh`` the hidden state, once
a step; ``_reverse`` is added for the backward direction. A GRU that resets the state before the product
(``linear_before_reset`` 0) has two recurrent maps: ``hh`` for the two gates, ``hn`` for what the state is reset for.
Gates keep the order of the file. What is written in other words than `find_recurrent` knows is left as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from compressor_converters.onnx_in.maps import module_name
from compressor_converters.onnx_in.read import as_tensor
from compressor_converters.onnx_in.segment import Segment
from compressor_converters.onnx_in.view import View, attribute, integer, is_standard

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_ACTIVATIONS = {"LSTM": [["sigmoid", "tanh", "tanh"]], "GRU": [["sigmoid", "tanh"]], "RNN": [["tanh"], ["relu"]]}
_ENDS = {b"forward": ("",), b"reverse": ("_reverse",), b"bidirectional": ("", "_reverse")}
_SCAN_FROM = 9  # the opset from which a loop over time can be written
_FLOATS = (torch.float32, torch.float16)

States = tuple[Tensor, ...]  # the hidden state (batch, hidden), and the cell's of an LSTM
Maps = Sequence[Callable[[Tensor], Tensor]]  # hh, and hn where there is one
Step = Callable[[Tensor, States, Maps], States]


# --- one step: the states after it, from what ih gave for it (batch, gates * hidden) -------------


def _lstm(given: Tensor, states: States, maps: Maps) -> States:
    i, o, f, c = (given + maps[0](states[0])).chunk(4, -1)
    cell = f.sigmoid() * states[1] + i.sigmoid() * c.tanh()
    return o.sigmoid() * cell.tanh(), cell


def _gru_reset_after(given: Tensor, states: States, maps: Maps) -> States:
    (z, r, n), (z_kept, r_kept, n_kept) = given.chunk(3, -1), maps[0](states[0]).chunk(3, -1)
    update = (z + z_kept).sigmoid()
    new = (n + (r + r_kept).sigmoid() * n_kept).tanh()
    return ((1 - update) * new + update * states[0],)


def _gru_reset_before(given: Tensor, states: States, maps: Maps) -> States:
    (z, r, n), (z_kept, r_kept) = given.chunk(3, -1), maps[0](states[0]).chunk(2, -1)
    update = (z + z_kept).sigmoid()
    new = (n + maps[1]((r + r_kept).sigmoid() * states[0])).tanh()
    return ((1 - update) * new + update * states[0],)


def _rnn_tanh(given: Tensor, states: States, maps: Maps) -> States:
    return ((given + maps[0](states[0])).tanh(),)


def _rnn_relu(given: Tensor, states: States, maps: Maps) -> States:
    return ((given + maps[0](states[0])).relu(),)


# --- the modules --------------------------------------------------------------------------------


class OpenStep(nn.Module):
    """One time step in one direction: ``forward(given, *states)``, or with ``valid (batch, 1)`` behind them.

    Rows that are not valid keep their states and give zeros. Returns the states, and where ``valid`` is given also the
    output, which is the hidden state otherwise.
    """

    def __init__(self, step: Step, maps: Sequence[nn.Module], states: int) -> None:
        super().__init__()
        self.step, self.states, self.maps = step, states, nn.ModuleList(maps)

    def forward(self, given: Tensor, *rest: Tensor) -> States:
        states = rest[: self.states]
        made = self.step(given, states, list(self.maps))
        if len(rest) == self.states:
            return made
        valid = rest[-1]
        kept = tuple(torch.where(valid, new, old) for new, old in zip(made, states, strict=True))
        return *kept, torch.where(valid, made[0], torch.zeros_like(made[0]))


class OpenNode(nn.Module):
    """One node, called with what it reads: ``x (time, batch, in)``, lengths ``(batch,)`` and states
    ``(directions, batch, hidden)``, each None where it is not given. Returns what the node does: all outputs
    ``(time, directions, batch, hidden)`` and the last states."""  # fmt: skip

    def __init__(self, node: onnx.NodeProto, linears: Mapping[str, nn.Linear]) -> None:
        super().__init__()
        self.kind, self.ends = node.op_type, _ENDS[_direction(node)]
        self.states = 2 if self.kind == "LSTM" else 1
        self.step = _step_of(node)
        for name, linear in linears.items():
            self.add_module(name, linear)
        self.hidden = linears[f"hh{self.ends[0]}"].in_features

    def map(self, name: str) -> Any:
        """The map ``name``: `nn.Linear`, or the structured layer that replaced it."""
        return self.get_submodule(name)

    def one_step(self, end: str) -> OpenStep:
        """A step in the direction that ``end`` stands for, with the maps as they are now."""
        names = [name for name in (f"hh{end}", f"hn{end}") if name in self._modules]
        return OpenStep(self.step, [self.map(name) for name in names], self.states)

    def forward(
        self, x: Tensor, lengths: Tensor | None = None, h: Tensor | None = None, c: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        steps, zeros = range(len(x)), x.new_zeros(x.shape[1], self.hidden)
        valid = () if lengths is None else (torch.arange(len(x), device=x.device)[:, None, None] < lengths[:, None],)
        outputs, finals = [], []
        for d, end in enumerate(self.ends):
            given = self.map(f"ih{end}")(x)  # (time, batch, gates * hidden)
            states = tuple(zeros if state is None else state[d] for state in (h, c)[: self.states])
            step, ys = self.one_step(end), []
            for t in reversed(steps) if end else steps:
                made = step(given[t], *states, *(mask[t] for mask in valid))
                states = made[: self.states]
                ys.append(made[-1] if valid else made[0])
            outputs.append(torch.stack(ys[::-1] if end else ys))
            finals.append(states)
        return torch.stack(outputs, 1), *(torch.stack(parts) for parts in zip(*finals, strict=True))


def _step_of(node: onnx.NodeProto) -> Step:
    if node.op_type == "LSTM":
        return _lstm
    if node.op_type == "GRU":
        return _gru_reset_after if integer(node, "linear_before_reset") else _gru_reset_before
    return _rnn_relu if "relu" in _activations(node) else _rnn_tanh


# --- the nodes of a graph -----------------------------------------------------------------------


@dataclass(frozen=True)
class Loop:
    """One node that the module ``module`` stands for; names in ``reads`` and ``makes`` are empty where it has none."""

    module: str
    node: int
    reads: tuple[str, str, str, str]  # x, lengths, hidden and cell states
    makes: tuple[str, ...]
    weights: tuple[str, ...]  # constants of the graph that the maps are made of

    @property
    def nodes(self) -> tuple[int, ...]:
        """The nodes that it stands for."""
        return (self.node,)

    @property
    def inputs(self) -> list[str]:
        """The values that it takes."""
        return [name for name in self.reads if name]

    @property
    def outputs(self) -> list[str]:
        """The values that it gives."""
        return [name for name in self.makes if name]

    def run(self, module: nn.Module, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the module makes of ``values``, in the type that the graph has there."""
        device = next((p.device for p in module.parameters()), None)
        made = module(*(_wide(values[name].to(device)) if name else None for name in self.reads))
        kind = values[self.reads[0]].dtype
        return {name: y.to(kind) for name, y in zip(self.makes, made, strict=False) if name}


def find_recurrent(view: View) -> tuple[list[tuple[Loop, list[Tensor]]], dict[str, str]]:
    """The nodes whose weights are dense maps, each named as it would be alone, with W, R and B; why others are not."""
    found: list[tuple[Loop, list[Tensor]]] = []
    left: dict[str, str] = {}
    for i, node in enumerate(view.nodes):
        if not is_standard(node, *GATES) or i in view.constant_nodes:
            continue
        name = module_name(node.name or next(filter(None, node.output), ""), node.op_type)
        why = _obstacle(view, node)
        weights, why = _weights(view, node) if why is None else ([], why)
        if why is not None:
            left[f"{node.op_type} '{node.name or name}'"] = why
            continue
        x, w, r, b, lengths, h, c = (*node.input, *[""] * 7)[:7]
        reads = (x, lengths, h, c if node.op_type == "LSTM" else "")
        found.append((Loop(name, i, reads, tuple(node.output), tuple(filter(None, (w, r, b)))), weights))
    return found, left


def linears(view: View, loop: Loop, stored: Sequence[Tensor], weights: dict[Any, nn.Parameter]) -> dict[str, nn.Linear]:
    """The maps of ``loop``, of the constants ``stored``; equal weights are one parameter, in ``weights`` by `keys`."""
    node, (w, r, *bias) = view.nodes[loop.node], stored
    gates, hidden = GATES[node.op_type], r.shape[2]
    cuts = [("hh", 0, gates)]
    if node.op_type == "GRU" and not integer(node, "linear_before_reset"):
        cuts = [("hh", 0, 2), ("hn", 2, 3)]
    found = {}
    for d, end in enumerate(_ENDS[_direction(node)]):
        for name, first, last in (("ih", 0, gates), *cuts):
            given, rows = name == "ih", slice(first * hidden, last * hidden)
            own = bias[0][d, 0 if given else gates * hidden :][rows] if bias else None  # both maps' stand in one row
            key = (*keys(view, loop)[0 if given else 1], d, first)
            found[name + end] = _linear((w if given else r)[d, rows], own, key, weights)
    return found


def keys(view: View, loop: Loop) -> list[tuple[object, ...]]:
    """How the keys of the input maps' weights begin, and those of the recurrent ones: equal for equal constants."""
    known = [view.key(name) for name in loop.weights[:2]]
    return [("loop", name if key is None else key) for name, key in zip(loop.weights, known, strict=False)]


def _linear(weight: Tensor, bias: Tensor | None, key: Any, weights: dict[Any, nn.Parameter]) -> nn.Linear:
    with torch.device("meta"):
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    if key not in weights:
        weights[key] = nn.Parameter(_wide(weight), requires_grad=False)
    linear.weight = weights[key]
    if bias is not None:
        linear.bias = nn.Parameter(_wide(bias).clone(), requires_grad=False)
    return linear


def _wide(values: Tensor) -> Tensor:
    return values.float() if values.dtype == torch.float16 else values


def _constants(view: View, names: Sequence[str]) -> list[Tensor]:
    """The numbers of constants: read, or computed by onnxruntime where exporters cut and join what they store."""
    made = [name for name in names if view.key(name) is None]
    found = Segment(view, [view.maker[name] for name in made], [], made).run({}) if made else {}
    return [found[name] if name in found else as_tensor(view.value(name)) for name in names]


# --- what is left as it is ----------------------------------------------------------------------


def _obstacle(view: View, node: onnx.NodeProto) -> str | None:
    """Why the weights of ``node`` are no dense maps, in words; None where they are."""
    inputs = (*node.input, *[""] * 8)[:8]
    direction = _direction(node)
    said = {
        f"it has the attribute {name}": attribute(node, name) is not None
        for name in ("clip", "activation_alpha", "activation_beta")
    }
    said |= {
        "its forget gate is tied to the input gate": integer(node, "input_forget") != 0,
        "it has peepholes": bool(inputs[7]),
        "it takes the batch first, which onnxruntime does not run": integer(node, "layout") != 0,
        f"opset {view.file.opset} has no loop to write it as": view.file.opset < _SCAN_FROM,
        f"its direction is {direction!r}": direction not in _ENDS,
        f"its activations are {', '.join(_activations(node))}": direction in _ENDS and not _is_plain(node),
        "its weights are computed": not all(_is_constant(view, name) for name in inputs[1:3])
        or not (_is_constant(view, inputs[3]) or not inputs[3]),
    }
    return next((why for why, is_so in said.items() if is_so), None)


def _weights(view: View, node: onnx.NodeProto) -> tuple[list[Tensor], str | None]:
    """W, R and B where there is one, and why they are not what the node asks for."""
    try:
        w, r, *bias = found = _constants(view, [name for name in node.input[1:4] if name])
    except RuntimeError:
        return [], "its weights cannot be computed"
    hidden = integer(node, "hidden_size", r.shape[-1] if r.ndim else 0)
    directions, rows = len(_ENDS[_direction(node)]), GATES[node.op_type] * hidden
    fits = w.ndim == 3 and tuple(w.shape[:2]) == (directions, rows) and w.numel() > 0
    fits = fits and tuple(r.shape) == (directions, rows, hidden)
    if not fits or (bias and tuple(bias[0].shape) != (directions, 2 * rows)):
        return [], "its weights do not have the sizes that its attributes say"
    kinds = {one.dtype for one in found}
    return found, None if len(kinds) == 1 and kinds <= set(_FLOATS) else "its weights are not all float32, or float16"


def _is_constant(view: View, name: str) -> bool:
    return name in view.initializers or view.key(name) is not None or view.maker.get(name) in view.constant_nodes


def _direction(node: onnx.NodeProto) -> bytes:
    found = attribute(node, "direction", b"forward")
    return found if isinstance(found, bytes) else b""


def _activations(node: onnx.NodeProto) -> list[str]:
    found = attribute(node, "activations")
    return [one.decode().lower() for one in found] if isinstance(found, list | tuple) else []


def _is_plain(node: onnx.NodeProto) -> bool:
    """Whether the activations are those that `_step_of` takes, the same in both directions."""
    times, found = len(_ENDS[_direction(node)]), _activations(node)
    return not found or any(found == wanted * times for wanted in _ACTIVATIONS[node.op_type])
