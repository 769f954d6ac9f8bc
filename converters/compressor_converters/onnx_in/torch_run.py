"""Runs parts of a graph in torch, where a gradient must pass through them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from compressor.errors import CompressorError
from compressor_converters.onnx_in.operators import OPERATORS
from compressor_converters.onnx_in.read import as_tensor
from compressor_converters.onnx_in.segment import Segment, with_constants
from compressor_converters.onnx_in.view import STANDARD, View


class NoGradientError(CompressorError):
    """An operator that a gradient would have to pass has none here."""


class TorchRun:
    """Node by node; what depends on no trained parameter and has no operator here is left to onnxruntime."""

    def __init__(self, view: View) -> None:
        self.view = view
        self._constants: dict[str, Tensor] = {}
        self._alone: dict[int, Segment] = {}
        self._reads: dict[int, tuple[list[int], list[str]]] = {}  # by segment, which live as long as the view

    def run(self, segment: Segment, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the nodes of ``segment`` make of ``values``. NoGradientError where one cannot be passed."""
        found = {name: values[name] for name in segment.inputs}
        device = next(iter(found.values())).device if found else None
        if id(segment) not in self._reads:
            self._reads[id(segment)] = with_constants(self.view, segment.nodes)
        nodes, stored = self._reads[id(segment)]
        for name in stored:
            if name not in self._constants:
                self._constants[name] = as_tensor(self.view.file.array(self.view.initializers[name]))
        for i in nodes:
            node = self.view.nodes[i]
            if i in self.view.constant_nodes and all(name in self._constants for name in node.output if name):
                continue
            inputs = [self._value(name, found) if name else None for name in node.input]
            made = self._call(i, inputs, found, device)
            target = self._constants if i in self.view.constant_nodes else found
            target.update({name: y for name, y in zip(node.output, made, strict=False) if name})
        return {name: found[name] for name in segment.outputs}

    def _value(self, name: str, found: Mapping[str, Tensor]) -> Tensor:
        return found[name] if name in found else self._constants[name]

    def _call(self, i: int, inputs: list[Tensor | None], found: Mapping[str, Tensor], device: Any) -> tuple[Any, ...]:
        node = self.view.nodes[i]
        trained = any(x is not None and x.requires_grad for x in inputs)
        function = OPERATORS.get(node.op_type) if node.domain in STANDARD else None
        if node.op_type == "Constant" and node.domain in STANDARD:
            return (as_tensor(self.view.value(node.output[0])),)
        if function is not None:
            if device is not None and device.type != "cpu":
                inputs = [x.to(device) if x is not None and x.is_floating_point() else x for x in inputs]
            try:
                made = function(node, self.view.file.opset, *inputs)
                return made if isinstance(made, tuple | list) else (made,)  # type: ignore[return-value]
            except NotImplementedError as error:
                if trained:
                    raise NoGradientError(f"no gradient passes {error}") from None
        if trained:
            raise NoGradientError(f"no gradient passes the operator {node.op_type} ('{node.name or node.output[0]}')")
        return self._left(i, found)

    def _left(self, i: int, found: Mapping[str, Tensor]) -> tuple[Any, ...]:
        """What onnxruntime makes of a single node."""
        node = self.view.nodes[i]
        if i not in self._alone:
            known = self._constants.keys()
            reads = [name for name in sorted(self.view.read_by[i]) if name in found]
            assert all(name in found or name in known for name in self.view.read_by[i])
            self._alone[i] = Segment(self.view, [i], reads, [name for name in node.output if name])
        made = self._alone[i].run(found)
        return tuple(made.get(name) for name in node.output)
