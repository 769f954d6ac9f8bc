"""Recurrent networks with their input and recurrent maps as modules of their own.

For layer 0 of an LSTM called ``lstm``: ``lstm.ih_l0`` maps the input of all time steps in one call,
``lstm.hh_l0`` the hidden state, once a step; ``_reverse`` is added for the backward direction, and ``lstm.hr_l0``
is the projection of the hidden state where there is one. The steps are a loop in Python: slower than the
fused module, and a graph exported from it is for sequences of one length (the batch stays free).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressor_converters.opening.kind import Kind, dense

States = tuple[Tensor, ...]  # the hidden state, and the cell's for an LSTM


class OpenRecurrent(nn.Module):
    """`nn.RNN`, `nn.GRU` or `nn.LSTM` as its dense maps and the steps between; called as they are.

    Packed sequences are refused.
    """

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.mode: str = module.mode
        self.input_size, self.hidden_size = int(module.input_size), int(module.hidden_size)
        self.num_layers, self.bias = int(module.num_layers), bool(module.bias)
        self.batch_first, self.bidirectional = bool(module.batch_first), bool(module.bidirectional)
        self.dropout, self.proj_size = float(module.dropout), int(module.proj_size)
        for place in self.places():
            for side in ("ih", "hh"):
                bias = getattr(module, f"bias_{side}_{place}") if self.bias else None
                self.add_module(f"{side}_{place}", dense(getattr(module, f"weight_{side}_{place}"), bias))
            if self.proj_size:
                self.add_module(f"hr_{place}", dense(getattr(module, f"weight_hr_{place}"), None))

    def places(self) -> list[str]:
        """The ends of the names of the maps, layer by layer: ``l0``, ``l0_reverse``, ``l1`` …"""
        return [f"l{layer}{end}" for layer in range(self.num_layers) for end in self._ends()]

    def _ends(self) -> Sequence[str]:
        return ("", "_reverse") if self.bidirectional else ("",)

    def forward(self, input: Tensor, hx: Any = None) -> tuple[Tensor, Any]:
        if isinstance(input, nn.utils.rnn.PackedSequence):
            raise ValueError("packed sequences are not taken by an opened recurrent network; give padded ones")
        batched = input.ndim == 3
        if not batched:
            input = input.unsqueeze(1)
        elif self.batch_first:
            input = input.transpose(0, 1)
        states = self._start(input, hx, batched)  # each (layers * directions, batch, features)
        x, ends = input, self._ends()
        last: list[States] = []
        for layer in range(self.num_layers):
            outputs = []
            for end in ends:
                start = tuple(state[len(last)] for state in states)
                y, final = self._run(x, f"l{layer}{end}", start, backwards=end != "")
                outputs.append(y)
                last.append(final)
            x = torch.cat(outputs, -1)
            if layer + 1 < self.num_layers:
                x = F.dropout(x, self.dropout, self.training)
        finals = tuple(torch.stack(parts) for parts in zip(*last, strict=True))
        if not batched:
            x, finals = x.squeeze(1), tuple(final.squeeze(1) for final in finals)
        elif self.batch_first:
            x = x.transpose(0, 1)
        return x, finals if self.mode == "LSTM" else finals[0]

    def _start(self, x: Tensor, hx: Any, batched: bool) -> States:
        rows = self.num_layers * len(self._ends())
        widths = [self.proj_size or self.hidden_size, *([self.hidden_size] if self.mode == "LSTM" else [])]
        if hx is None:
            return tuple(x.new_zeros(rows, x.shape[1], width) for width in widths)
        given = tuple(hx) if self.mode == "LSTM" else (hx,)
        states = given if batched else tuple(state.unsqueeze(1) for state in given)
        for state, width in zip(states, widths, strict=True):
            if tuple(state.shape) != (rows, x.shape[1], width):
                raise ValueError(f"a state is {tuple(state.shape)}, not {(rows, x.shape[1], width)}")
        return states

    def _run(self, x: Tensor, place: str, states: States, *, backwards: bool) -> tuple[Tensor, States]:
        """All steps of one layer in one direction: outputs ``(time, batch, features)``, final states."""
        given = self.get_submodule(f"ih_{place}")(x)
        recurrent = self.get_submodule(f"hh_{place}")
        project = self.get_submodule(f"hr_{place}") if self.proj_size else None
        outputs = []
        for step in reversed(given.unbind(0)) if backwards else given.unbind(0):
            states = self._step(step, recurrent(states[0]), states)
            if project is not None:
                states = (project(states[0]), *states[1:])
            outputs.append(states[0])
        return torch.stack(outputs[::-1] if backwards else outputs), states

    def _step(self, given: Tensor, kept: Tensor, states: States) -> States:
        """The states after one step, from the two maps' results ``(batch, gates * hidden)``."""
        if self.mode == "LSTM":
            i, f, g, o = (given + kept).chunk(4, -1)
            cell = f.sigmoid() * states[1] + i.sigmoid() * g.tanh()
            return o.sigmoid() * cell.tanh(), cell
        if self.mode == "GRU":
            r, z, n = given.chunk(3, -1)
            r_kept, z_kept, n_kept = kept.chunk(3, -1)
            update = (z + z_kept).sigmoid()
            new = (n + (r + r_kept).sigmoid() * n_kept).tanh()
            return ((1 - update) * new + update * states[0],)
        return ((given + kept).relu() if self.mode == "RNN_RELU" else (given + kept).tanh(),)

    def flatten_parameters(self) -> None:
        """Nothing: there is no fused buffer here. Networks call it on the module that this one stands for."""

    def extra_repr(self) -> str:
        return f"{self.mode}, {self.input_size}, {self.hidden_size}, num_layers={self.num_layers}"


def _takes(module: nn.Module) -> bool:
    return type(module) in (nn.RNN, nn.GRU, nn.LSTM)


def _write_back(opened: Any, module: Any) -> None:
    with torch.no_grad():
        for place in opened.places():
            for side in ("ih", "hh", "hr") if opened.proj_size else ("ih", "hh"):
                linear = opened.get_submodule(f"{side}_{place}")
                getattr(module, f"weight_{side}_{place}").copy_(linear.weight)
                if linear.bias is not None:
                    getattr(module, f"bias_{side}_{place}").copy_(linear.bias)


RECURRENT = Kind("recurrent", OpenRecurrent, _takes, OpenRecurrent, _write_back)
