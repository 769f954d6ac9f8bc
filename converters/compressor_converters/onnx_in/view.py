"""A graph as it is read: who makes a value, who reads it, and which values are constants."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import onnx

from compressor_converters.onnx_in.read import Array, OnnxFile, external_place, is_external

STANDARD = ("", "ai.onnx")
_LONGEST = 32  # nodes between a stored tensor and what is still taken for a constant weight
_CHAIN = {"Identity", "Transpose", "Cast", "DequantizeLinear", "Reshape", "Squeeze", "Unsqueeze"}


def attribute(node: onnx.NodeProto, name: str, default: object = None) -> object:
    """The value of an attribute of ``node``."""
    for entry in node.attribute:
        if entry.name == name:
            return onnx.helper.get_attribute_value(entry)
    return default


def integer(node: onnx.NodeProto, name: str, default: int = 0) -> int:
    """A whole number among the attributes of ``node``."""
    value = attribute(node, name, default)
    if not isinstance(value, int):
        raise ValueError(f"'{name}' of the node '{node.name or node.op_type}' is no whole number")
    return value


def integers(node: onnx.NodeProto, name: str) -> list[int]:
    """A list of whole numbers among the attributes of ``node``; empty where there is none."""
    value = attribute(node, name)
    return [int(one) for one in value] if isinstance(value, list | tuple) else []


def number(node: onnx.NodeProto, name: str, default: float) -> float:
    """A number among the attributes of ``node``."""
    value = attribute(node, name, default)
    if not isinstance(value, int | float):
        raise ValueError(f"'{name}' of the node '{node.name or node.op_type}' is no number")
    return float(value)


def is_standard(node: onnx.NodeProto, *kinds: str) -> bool:
    """Whether ``node`` is one of the standard operators ``kinds``."""
    return node.domain in STANDARD and node.op_type in kinds


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs in the attributes of ``node``: branches and bodies of loops."""
    for entry in node.attribute:
        if entry.HasField("g"):
            yield entry.g
        yield from entry.graphs


def reads(node: onnx.NodeProto) -> set[str]:
    """All values that ``node`` reads, those that its branches and loops take from outside too."""
    found = {name for name in node.input if name}
    for graph in subgraphs(node):
        own = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
        inner: set[str] = {value.name for value in graph.output}
        for child in graph.node:
            inner |= reads(child)
            own |= set(child.output)
        found |= inner - own
    return found


class View:
    """The graph of a file with its values looked up by name; nothing in it is changed."""

    def __init__(self, file: OnnxFile) -> None:
        self.file = file
        self.graph = file.proto.graph
        self.nodes = list(self.graph.node)
        self.initializers = {tensor.name: tensor for tensor in self.graph.initializer}
        self.inputs = [value for value in self.graph.input if value.name not in self.initializers]
        self.outputs = [value.name for value in self.graph.output]
        self.maker = {name: i for i, node in enumerate(self.nodes) for name in node.output if name}
        self.readers: dict[str, list[int]] = {}
        self.read_by = [reads(node) for node in self.nodes]
        for i, names in enumerate(self.read_by):
            for name in names:
                self.readers.setdefault(name, []).append(i)

    @cached_property
    def constant_nodes(self) -> set[int]:
        """Nodes that read constants only, so that they always give the same."""
        found: set[int] = set()
        sparse = {tensor.values.name for tensor in self.graph.sparse_initializer}
        known = {*self.initializers, *sparse}
        for i, node in enumerate(self.nodes):
            if self.read_by[i] <= known and not node.op_type.startswith("Random"):
                found.add(i)
                known |= set(node.output)
        return found

    @cached_property
    def nbytes(self) -> int:
        """Bytes of the file and of the external data that it names."""
        stored = [external_place(t, self.file.folder)[2] for t in self.initializers.values() if is_external(t)]
        return int(self.file.proto.ByteSize()) + sum(stored)

    @property
    def is_quantized(self) -> bool:
        """Whether weights are stored in few bits: onnxruntime then multiplies in 8 bits where it is let."""
        return any(node.op_type == "DequantizeLinear" for node in self.nodes)

    def only_reader(self, value: str) -> int | None:
        """The one node that reads ``value``; None where there are none or several, or it is an output."""
        found = self.readers.get(value, [])
        return found[0] if len(found) == 1 and value not in self.outputs else None

    # --- constants ------------------------------------------------------------------------------

    def key(self, name: str) -> int | None:
        """A number for what ``name`` is made of, where it is a constant: equal numbers, equal values."""
        return self._keys.get(name)

    @cached_property
    def _keys(self) -> dict[str, int]:
        """Of the stored tensors, and of what short chains of nodes make of them; copies have the same."""
        self._known: dict[tuple[object, ...], int] = {}
        found = {name: self._number(("stored", name)) for name in self.initializers}
        depth: dict[str, int] = {}
        for node in self.nodes:
            if is_standard(node, "Constant"):
                found[node.output[0]] = self._number(("stored", node.output[0]))
            if not is_standard(node, *_CHAIN) or not all(name in found for name in node.input if name):
                continue
            long = 1 + max((depth.get(name, 0) for name in node.input), default=0)
            if long > _LONGEST:
                continue
            inner = [found[name] for name in node.input if name]
            output = node.output[0]
            depth[output] = long
            if node.op_type == "Identity":
                found[output] = inner[0]
            elif node.op_type == "Transpose" and self._turns(node):
                found[output] = self.turned(inner[0])
            else:
                how = tuple(sorted(entry.SerializeToString(deterministic=True) for entry in node.attribute))
                found[output] = self._number((node.op_type, how, *inner))
        return found

    def _number(self, made: tuple[object, ...]) -> int:
        return self._known.setdefault(made, len(self._known))

    def turned(self, key: int) -> int:
        """The key of a matrix turned; of one turned twice, its own."""
        before = next((made for made, number in self._known.items() if number == key), ())
        return before[1] if before[:1] == ("turned",) and isinstance(before[1], int) else self._number(("turned", key))

    def _turns(self, node: onnx.NodeProto) -> bool:
        """Whether a Transpose turns a matrix."""
        perm = integers(node, "perm")
        return perm == [1, 0] or (not perm and len(self._chain_shape(node.input[0])) == 2)

    def shape(self, name: str) -> tuple[int, ...] | None:
        """The shape of a constant, without its numbers where they are not needed."""
        return self._chain_shape(name) if name in self.initializers or self.key(name) is not None else None

    def _chain_shape(self, name: str) -> tuple[int, ...]:
        """The shape of what is stored or made by a chain of operators; asked for while the keys are still made."""
        if name in self.initializers:
            return tuple(self.initializers[name].dims)
        node = self.nodes[self.maker[name]]
        if node.op_type in ("Identity", "Cast", "DequantizeLinear"):
            return self._chain_shape(node.input[0])
        if node.op_type == "Transpose":
            inner = self._chain_shape(node.input[0])
            perm = integers(node, "perm") or list(reversed(range(len(inner))))
            return tuple(inner[axis] for axis in perm)
        return tuple(self._evaluated(name).shape)

    def dtype(self, name: str) -> np.dtype[Any]:
        """The type of a constant's numbers."""
        if name in self.initializers:
            try:
                return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(self.initializers[name].data_type))
            except KeyError:
                return np.dtype(object)
        node = self.nodes[self.maker[name]]
        if node.op_type == "Cast":
            return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(integer(node, "to")))
        if node.op_type == "Constant":
            return self.value(name).dtype
        return self.dtype(node.input[1] if node.op_type == "DequantizeLinear" else node.input[0])

    def value(self, name: str) -> Array:
        """The numbers of a constant; ValueError where ``name`` is none that can be read."""
        if name not in self.initializers and name not in self._keys:
            raise ValueError(f"'{name}' is no constant")
        return self._evaluated(name)

    def _evaluated(self, name: str) -> Array:
        made: dict[str, Array] = {}
        for i in self._chain(name):
            node = self.nodes[i]
            inputs = [(made[one] if one in made else self._stored(one)) if one else None for one in node.input]
            made[node.output[0]] = _constant(node, self.file) if node.op_type == "Constant" else _computed(node, inputs)
        return made[name] if name in made else self._stored(name)

    def _stored(self, name: str) -> Array:
        return self.file.array(self.initializers[name])

    def _chain(self, name: str) -> list[int]:
        """The nodes that a constant is computed by, in order."""
        return sorted(needed([name], self.maker, self.read_by))

    def roots(self, name: str) -> set[str]:
        """The stored tensors and constant nodes that a constant is computed from."""
        nodes = [self.nodes[i] for i in self._chain(name)]
        read = {one for node in nodes for one in node.input if one in self.initializers}
        constants = {node.output[0] for node in nodes if node.op_type == "Constant"}
        return read | constants | ({name} if name in self.initializers else set())


def needed(names: Iterable[str], maker: Mapping[str, int], read_by: Sequence[Iterable[str]]) -> set[int]:
    """The numbers of the nodes that the values ``names`` are computed by: ``maker`` has that of each value."""
    found: set[int] = set()
    pending = list(names)
    while pending:
        number = maker.get(pending.pop())
        if number is not None and number not in found:
            found.add(number)
            pending.extend(read_by[number])
    return found


def _constant(node: onnx.NodeProto, file: OnnxFile) -> Array:
    (entry,) = node.attribute
    if entry.HasField("t"):
        return file.array(entry.t)
    value = onnx.helper.get_attribute_value(entry)
    if entry.name in ("value_float", "value_floats"):
        return np.asarray(value, np.float32)
    if entry.name in ("value_int", "value_ints"):
        return np.asarray(value, np.int64)
    raise ValueError(f"the constant '{node.output[0]}' holds no numbers")


def _computed(node: onnx.NodeProto, inputs: list[Array | None]) -> Array:
    """What one of the chained operators makes of constants."""
    x = inputs[0]
    if x is None:
        raise ValueError(f"the node '{node.name or node.op_type}' has no input")
    if node.op_type == "Identity":
        return x
    if node.op_type == "Transpose":
        return x.transpose(integers(node, "perm") or None)
    if node.op_type == "Cast":
        return x.astype(onnx.helper.tensor_dtype_to_np_dtype(integer(node, "to")))
    if node.op_type == "DequantizeLinear":
        return _dequantized(node, x, inputs[1], inputs[2] if len(inputs) > 2 else None)
    second = inputs[1] if len(inputs) > 1 else None
    axes = [int(a) for a in second.ravel()] if second is not None else integers(node, "axes")
    if node.op_type == "Reshape":
        shape = [x.shape[i] if size == 0 and not integer(node, "allowzero") else size for i, size in enumerate(axes)]
        return x.reshape(shape)
    if node.op_type == "Squeeze":
        return np.squeeze(x, tuple(axes) or None)
    return np.expand_dims(x, tuple(axes))


def _dequantized(node: onnx.NodeProto, x: Array, scale: Array | None, zero: Array | None) -> Array:
    if scale is None:
        raise ValueError(f"the node '{node.name or node.op_type}' has no scale")
    block = integer(node, "block_size")
    axis = integer(node, "axis", 1) % max(1, x.ndim)
    shift = np.zeros_like(scale, dtype=np.int32) if zero is None else zero.astype(np.int32)
    if block:
        if not 0 < block <= max(x.shape, default=0):
            raise ValueError(f"the node '{node.name or node.op_type}' has blocks of {block}")
        scale, shift = (np.repeat(part, block, axis)[tuple(slice(n) for n in x.shape)] for part in (scale, shift))
    elif scale.ndim == 1 and scale.size > 1:
        shape = [-1 if i == axis else 1 for i in range(x.ndim)]
        scale, shift = scale.reshape(shape), shift.reshape(shape)
    else:
        scale, shift = scale.reshape(()), shift.reshape(())
    out: Array = (x.astype(np.int32) - shift).astype(scale.dtype) * scale
    return out
