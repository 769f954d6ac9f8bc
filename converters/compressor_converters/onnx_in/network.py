"""An ONNX graph as a torch module: its dense maps are `nn.Linear` children, all else runs in onnxruntime.

So what works on modules (sites, calibration, fit, distillation, the report) works on graphs. Where gradients are
asked for, the parts between trained modules run in torch (`compressor_converters.onnx_in.operators`).
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from compressor.errors import reason
from compressor_converters.onnx_in.maps import DenseMap, find_maps, unique_names
from compressor_converters.onnx_in.read import OnnxFile, as_tensor
from compressor_converters.onnx_in.recurrent import Loop, OpenNode, find_recurrent, keys, linears
from compressor_converters.onnx_in.room import bounded
from compressor_converters.onnx_in.segment import Segment
from compressor_converters.onnx_in.steps import Call, cut, find_activations, last_reads, name_activations
from compressor_converters.onnx_in.stored import numbers_outside, other_readers
from compressor_converters.onnx_in.torch_run import NoGradientError, TorchRun
from compressor_converters.onnx_in.view import View
from compressor_converters.stepwise import Stepwise

_TORCH = {
    np.dtype(one): kind
    for one, kind in (
        (np.float32, torch.float32), (np.float64, torch.float64), (np.float16, torch.float16), (np.int64, torch.int64),
        (np.int32, torch.int32), (np.int16, torch.int16), (np.int8, torch.int8), (np.uint8, torch.uint8),
        (np.bool_, torch.bool),
    )
}  # fmt: skip


Run = Callable[[Sequence[Tensor]], dict[str, Tensor]]  # one call of the graph: its outputs, by name
_AGREE = 1e-3  # of the largest output


@dataclass(frozen=True)
class Input:
    """One input of a graph; a size is None where the graph leaves it open, or gives it a name (``names``)."""

    name: str
    dtype: torch.dtype
    sizes: tuple[int | None, ...] | None  # None where not even the number of axes is known
    names: tuple[str, ...]


class Holder(nn.Module):
    """Keeps weights that other nodes of the graph read too, so that a dense map with such a weight is seen as tied."""

    def __init__(self, weights: Sequence[nn.Parameter]) -> None:
        super().__init__()
        for i, weight in enumerate(weights):
            self.register_parameter(f"weight_{i}", weight)


class OnnxNetwork(Stepwise):
    """The graph of an ONNX file, called with its inputs in their order.

    The first axis of an input counts examples. A graph for a fixed number of rows is called as often as need be; an
    input with one axis more than the graph's is one call's whole input for each example. Returns the outputs, those
    of floating point first; only one: itself. Nothing but modules that were put in is ever trained.
    """

    def __init__(self, file: OnnxFile) -> None:
        super().__init__()
        self.view = View(file)
        self.inputs = [_input(value) for value in self.view.inputs]
        if not self.inputs:
            raise ValueError("the graph has no inputs, so that it always gives the same; give one that takes examples")
        maps = find_maps(self.view)
        taken = [one.name for one in maps]
        first: dict[tuple[Any, ...], str] = {}
        weights: dict[Any, nn.Parameter] = {}
        calls: list[Call] = []
        for one in maps:
            key = (one.weight_key, one.bias_key, one.scale, one.bias_scale)
            if key not in first:
                first[key] = one.name
                _add(self, one.name, _linear(one, self.view, weights))
            calls.append(Call(first[key], one.nodes, one.input, one.output, one))
        self.loops, self.left = self._open_loops(weights, taken)
        taken += [loop.module for loop in self.loops]
        activations = find_activations(self.view, maps)
        names = name_activations(self.view, activations, taken)
        for name, (i, module) in zip(names, activations, strict=True):
            _add(self, name, module)
            node = self.view.nodes[i]
            calls.append(Call(name, (i,), node.input[0], node.output[0], None))
        self.calls = sorted(calls, key=lambda call: call.nodes[-1])
        self.steps = cut(self.view, self.opened)
        self._done = last_reads(self.steps, self.view.outputs)
        self._torch = TorchRun(self.view)
        self.rows = self._fixed_rows()  # rows of one call; None: any number
        self._rows_were_tried = self.rows is not None
        self.ranks: dict[str, int] = {}  # axes of what enters each module, once it was called
        self._hold_others(maps, weights)
        self.eval().requires_grad_(False)

    def __deepcopy__(self, memo: dict[int, Any]) -> OnnxNetwork:
        """Modules of its own on the same frozen weights, graph and sessions."""
        for kept in (*(p for p in self.parameters() if not p.requires_grad), self.view, self._torch):
            memo[id(kept)] = kept
        other = type(self).__new__(type(self))
        memo[id(self)] = other
        other.__dict__ = copy.deepcopy(self.__dict__, memo)
        return other

    # --- running --------------------------------------------------------------------------------

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        return self.in_order(self.by_call(inputs, self._run))

    def by_call(self, inputs: Sequence[Tensor], run: Run) -> dict[str, Tensor]:
        """All outputs for all examples, by name, from as many calls of ``run`` as the graph's rows ask for."""
        if len(inputs) != len(self.inputs):
            names = ", ".join(one.name for one in self.inputs)
            raise ValueError(f"the graph takes {len(self.inputs)} inputs ({names}), {len(inputs)} were given")
        given = [one.to(spec.dtype) for one, spec in zip(inputs, self.inputs, strict=True)]
        whole = [self.is_whole(x, spec) for x, spec in zip(given, self.inputs, strict=True)]
        rows = len(given[0])
        if any(whole):
            calls = [[x[i] if w else x[i : i + 1] for x, w in zip(given, whole, strict=True)] for i in range(rows)]
            return self._joined([run(call) for call in calls], [1] * rows)
        if not self._rows_were_tried and rows > 1:
            self.rows = None if self._takes_rows([x[:2] for x in given]) else 1
            self._rows_were_tried = True
        if self.rows is None or rows == self.rows:
            return run(given)
        sizes = [min(self.rows, rows - start) for start in range(0, rows, self.rows)]
        calls = [[_part(x, n * self.rows, self.rows) for x in given] for n in range(len(sizes))]
        return self._joined([run(call) for call in calls], sizes)

    def bounded(self, inputs: Sequence[Tensor]) -> AbstractContextManager[None]:
        """Within, running the whole graph on ``inputs`` takes no more than its room, else RoomError."""
        return bounded(self.view.file.path, self.view.nbytes + sum(x.nbytes for x in inputs))

    def passes(self, inputs: Sequence[Tensor]) -> int:
        """How many calls of the graph ``inputs`` are."""
        if any(self.is_whole(x, spec) for x, spec in zip(inputs, self.inputs, strict=True)):
            return len(inputs[0])
        return 1 if self.rows is None else -(-len(inputs[0]) // self.rows)

    def one_call(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...] | None:
        """``inputs`` as one call of the graph takes them, filled up to its rows; None where they are more."""
        if self.passes(inputs) > 1:
            return None
        whole = [self.is_whole(x, spec) for x, spec in zip(inputs, self.inputs, strict=True)]
        given = [x.to(spec.dtype) for x, spec in zip(inputs, self.inputs, strict=True)]
        if any(whole) or self.rows is None:
            return tuple(x[0] if w else x for x, w in zip(given, whole, strict=True))
        return tuple(_part(x, 0, self.rows) for x in given)

    def is_whole(self, x: Tensor, spec: Input) -> bool:
        """Whether each row of ``x`` is the whole input of one call."""
        return spec.sizes is not None and x.ndim == len(spec.sizes) + 1

    def in_order(self, found: Mapping[str, Tensor]) -> Tensor | tuple[Tensor, ...]:
        """The outputs, those of floating point first; only one: itself."""
        out = sorted(found.values(), key=lambda value: not value.is_floating_point())
        return out[0] if len(out) == 1 else tuple(out)

    def _run(self, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
        """The outputs of one call of the graph, by name."""
        values = {spec.name: x for spec, x in zip(self.inputs, inputs, strict=True)}
        start, question = 0, self.question if self._rows_were_tried else None
        if question is not None:
            start, values = question.begin(values)
        for n, step in enumerate(self.steps[start:], start):
            if question is not None:
                question.reached(n, values)
            if isinstance(step, Call):
                self.ranks[step.module] = values[step.input].ndim
            if not isinstance(step, Segment):
                values.update(step.run(self.get_submodule(step.module), values))
            elif torch.is_grad_enabled() and any(values[name].requires_grad for name in step.inputs):
                values.update(self._torch.run(step, values))
            else:
                values.update(step.run(values))
            for name in self._done.get(n, ()):
                values.pop(name, None)
            if question is not None and n == question.last:
                break
        return {name: values[name] for name in self.view.outputs if name in values}

    def steps_calling(self, name: str) -> tuple[int, int]:
        """The first and the last step that call the module ``name``; ValueError where none does."""
        owners = {name, name.rpartition(".")[0]}  # the maps of a recurrent node are inside of its module
        found = [n for n, step in enumerate(self.steps) if not isinstance(step, Segment) and step.module in owners]
        if not found:
            raise ValueError(f"'{name}' is never called")
        return found[0], found[-1]

    def _joined(self, found: Sequence[Mapping[str, Tensor]], sizes: Sequence[int]) -> dict[str, Tensor]:
        """The outputs of several calls together: along the first axis where it counts rows, else along a new one."""
        out = {}
        for name in found[0]:
            parts = [one[name] for one in found]
            if any(part.shape != parts[0].shape for part in parts):
                raise RuntimeError(f"the output '{name}' has another shape for another example")
            rowwise = parts[0].ndim > 0 and len(parts[0]) == (self.rows or 1)
            rows = [part[:size] for part, size in zip(parts, sizes, strict=True)] if rowwise else []
            out[name] = torch.cat(rows) if rowwise else torch.stack(parts)
        return out

    def _takes_rows(self, two: Sequence[Tensor]) -> bool:
        """Whether two rows in one call give what each gives in a call of its own."""
        with torch.no_grad():
            apart = [self._run([x[i : i + 1] for x in two]) for i in range(2)]
            try:
                both = self._run(two)
            except RuntimeError:
                return False
        floats = [name for name in both if both[name].is_floating_point()] or list(both)
        return any(both[name].ndim and len(both[name]) == 2 for name in floats) and all(
            both[name].shape == (joined := torch.cat([one[name] for one in apart])).shape
            and torch.allclose(both[name].double(), joined.double(), rtol=1e-3, atol=1e-4)
            for name in floats
            if both[name].ndim
        )

    def _fixed_rows(self) -> int | None:
        """The rows that the graph is written for; one where an input's first axis does not count examples."""
        first = [None if spec.sizes is None else spec.sizes[0] if spec.sizes else 1 for spec in self.inputs]
        fixed = {size for size in first if size is not None}
        return None if not fixed else fixed.pop() if len(fixed) == 1 and None not in first else 1

    # --- what it holds --------------------------------------------------------------------------

    @property
    def maps(self) -> list[DenseMap]:
        """The dense maps of the graph."""
        return [call.dense for call in self.calls if call.dense is not None]

    @property
    def is_half(self) -> bool:
        """Whether it computes in half precision: with such inputs, or weights of dense maps."""
        kinds = [self.view.dtype(one.weight) for one in self.maps]
        return any(spec.dtype == torch.float16 for spec in self.inputs) or np.dtype(np.float16) in kinds

    @property
    def opened(self) -> list[Call | Loop]:
        """What modules stand for."""
        return [*self.calls, *self.loops]

    def opened_node(self, loop: Loop) -> OpenNode:
        """The module of a recurrent node."""
        module = self.get_submodule(loop.module)
        assert isinstance(module, OpenNode)
        return module

    def chains(self) -> list[tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]]:
        """Runs of dense maps with only activations between, and the activations after each; longest possible."""
        times = Counter(call.module for call in self.calls)
        after = {call.input: call for call in self.calls if self.view.only_reader(call.input) is not None}
        follows: dict[str, str] = {}
        passed: dict[str, tuple[str, ...]] = {}
        for call in self.calls:
            if call.dense is None:
                continue
            names, value = [], call.output
            while (act := after.get(value)) is not None and act.dense is None:
                names.append(act.module)
                value = act.output
            passed.setdefault(call.module, tuple(names))
            end = after.get(value)
            if end is None or end.dense is None or not _joins(call.dense, end.dense):
                continue
            if times[call.module] == times[end.module] == 1:
                follows[call.module] = end.module
        found = []
        for start in dict.fromkeys(call.module for call in self.calls if call.dense is not None):
            if start in follows.values():
                continue
            chain = [start]
            while chain[-1] in follows:
                chain.append(follows[chain[-1]])
            found.append((tuple(chain), tuple(passed[name] for name in chain)))
        return found

    def obstacle(self, inputs: Sequence[Tensor]) -> str | None:
        """Why the network cannot be trained as a whole, in words; None where it can.

        The parts run in torch must give what onnxruntime gives, and the output must depend on what is trained.
        """
        try:
            with torch.enable_grad():
                got = self(*inputs)
        except (NoGradientError, RuntimeError, ValueError, TypeError, IndexError) as error:
            return reason(error)
        with torch.no_grad():
            wanted = self(*inputs)
        pair = [one if isinstance(one, Tensor) else one[0] for one in (got, wanted)]
        if not pair[0].requires_grad:
            return "its main output does not depend on the layers that were replaced"
        off = float((pair[0] - pair[1]).detach().abs().max() / pair[1].abs().max().clamp_min(1e-12))
        return None if off <= _AGREE else f"the parts run in torch differ from onnxruntime by {off:.1e}"

    def numbers_outside(self) -> int:
        """Numbers stored in the graph's constants beside the weights and biases of the dense maps."""
        names = [name for one in self.maps for name in (one.weight, one.bias) if name]
        return numbers_outside(self.view, [*names, *(name for loop in self.loops for name in loop.weights)])

    def _open_loops(
        self, weights: dict[Any, nn.Parameter], taken: Collection[str]
    ) -> tuple[list[Loop], dict[str, str]]:
        """The recurrent nodes whose maps are modules now, and of the others why they are not."""
        found, left = find_recurrent(self.view)
        loops = []
        for name, (loop, stored) in zip(unique_names([loop.module for loop, _ in found], taken), found, strict=True):
            loops.append(replace(loop, module=name))
            _add(self, name, OpenNode(self.view.nodes[loop.node], linears(self.view, loop, stored, weights)))
        return loops, left

    def _hold_others(self, maps: Sequence[DenseMap], weights: Mapping[Any, nn.Parameter]) -> None:
        """Weights whose stored tensor is read by something that is no dense map are held by a module named after it."""
        own = {i for one in self.opened for i in one.nodes}
        kept: list[tuple[str, list[Any]]] = [(one.weight, [one.weight_key]) for one in maps]
        for loop in self.loops:
            for name, start in zip(loop.weights, keys(self.view, loop), strict=False):
                kept.append((name, [key for key in weights if isinstance(key, tuple) and key[: len(start)] == start]))
        for name, held in kept:
            readers = other_readers(self.view, name, own)
            if not readers:
                continue
            node = self.view.nodes[min(readers)]
            where = f"read_by_{node.op_type}_{min(readers)}"
            if where not in self._modules:
                self.add_module(where, Holder([]))
            holder = self.get_submodule(where)
            for key in held:
                if key in weights:
                    holder.register_parameter(f"weight_{len(holder._parameters)}", weights[key])


def _joins(one: DenseMap, other: DenseMap) -> bool:
    """Whether the second map takes the rows that the first one gives, feature for feature."""
    return one.is_channels == other.is_channels and all(stride == 1 for stride in other.strides)


def _input(value: onnx.ValueInfoProto) -> Input:
    kind = value.type.tensor_type
    is_known = kind.elem_type in onnx.TensorProto.DataType.values() and kind.elem_type != onnx.TensorProto.UNDEFINED
    dtype = _TORCH.get(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))) if is_known else None
    if dtype is None:
        raise ValueError(f"its input '{value.name}' is no tensor of numbers")
    sizes = tuple(d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in kind.shape.dim)
    return Input(
        value.name, dtype, sizes if kind.HasField("shape") else None, tuple(d.dim_param for d in kind.shape.dim)
    )


def _linear(one: DenseMap, view: View, weights: dict[Any, nn.Parameter]) -> nn.Linear:
    """The map as a module; equal weights are the same parameter.

    Biases are not, though on the same memory: exporters store equal ones, zeros for instance, once.
    """
    w, b = one.dense(view)
    with torch.device("meta"):
        linear = nn.Linear(w.shape[1], w.shape[0], bias=b is not None)
    key = one.weight_key if one.scale == 1 else (one.weight_key, one.scale)
    kind = np.float32 if w.dtype == np.float16 else w.dtype
    if key not in weights:
        weights[key] = nn.Parameter(_as_view(w.astype(kind, copy=False)), requires_grad=False)
    linear.weight = weights[key]
    if b is not None:
        linear.bias = nn.Parameter(as_tensor(b.astype(kind, copy=False)), requires_grad=False)
    return linear


def _as_view(array: Any) -> Tensor:
    """A matrix as a tensor on the same memory; one that is stored turned, turned."""
    return as_tensor(array.T).T if array.ndim == 2 and not array.flags.c_contiguous else as_tensor(array)


def _add(network: nn.Module, name: str, module: nn.Module) -> None:
    """Put ``module`` at ``name`` with containers on the way."""
    owner = network
    *parents, last = name.split(".")
    for part in parents:
        if part not in owner._modules:
            owner.add_module(part, nn.Module())
        owner = owner.get_submodule(part)
    owner.add_module(last, module)


def _part(x: Tensor, start: int, rows: int) -> Tensor:
    """``rows`` rows from ``start`` on; the last one again where there are fewer."""
    part = x[start : start + rows]
    return part if len(part) == rows else torch.cat([part, part[-1:].expand(rows - len(part), *part.shape[1:])])
