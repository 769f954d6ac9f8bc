"""A part of a graph as a model of its own, which onnxruntime runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper
from torch import Tensor

from compressor.errors import reason
from compressor_converters.onnx_in.read import Array, as_tensor, is_external
from compressor_converters.onnx_in.room import bounded
from compressor_converters.onnx_in.view import View

_TYPES = {
    "float": onnx.TensorProto.FLOAT, "double": onnx.TensorProto.DOUBLE, "float16": onnx.TensorProto.FLOAT16,
    "int64": onnx.TensorProto.INT64, "int32": onnx.TensorProto.INT32, "int16": onnx.TensorProto.INT16,
    "int8": onnx.TensorProto.INT8, "uint8": onnx.TensorProto.UINT8, "uint16": onnx.TensorProto.UINT16,
    "uint32": onnx.TensorProto.UINT32, "uint64": onnx.TensorProto.UINT64, "bool": onnx.TensorProto.BOOL,
}  # fmt: skip


class LoadError(RuntimeError):
    """onnxruntime does not know an operator, or finds the graph at fault."""


class Segment:
    """The nodes ``nodes`` of a graph, with the constants that they read; its session is made when it is first run.

    Constants in external files are given to the session as inputs, mapped: they are never copied.
    """

    def __init__(self, view: View, nodes: Sequence[int], inputs: Sequence[str], outputs: Sequence[str]) -> None:
        self.view, self.nodes = view, list(nodes)
        self.inputs, self.outputs = list(inputs), list(outputs)
        self._session: Any = None
        self._mapped: dict[str, Array] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Segment:
        return self  # a session can be shared; it keeps nothing of what it was given

    def run(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the nodes make of ``values``; RuntimeError in onnxruntime's words where they cannot.

        RoomError where that takes much more memory than the model and its inputs are.
        """
        feeds = {name: values[name].detach().cpu().contiguous().numpy() for name in self.inputs}
        nbytes = self.view.nbytes + sum(array.nbytes for array in feeds.values())
        with bounded(self.view.file.path, nbytes):
            if self._session is None:
                self._session = self._open(feeds)
            feeds = {name: array.astype(self._wanted[name], copy=False) for name, array in feeds.items()}
            try:
                made = self._session.run(self.outputs, {**feeds, **self._mapped})
            except Exception as error:  # onnxruntime raises classes of its own, which share no base
                raise RuntimeError(reason(error)) from error
        out = {}
        for name, array in zip(self.outputs, made, strict=True):
            if not isinstance(array, np.ndarray):
                raise RuntimeError(f"'{name}' is a {type(array).__name__}, not a tensor")
            out[name] = as_tensor(array)
        return out

    def _open(self, feeds: Mapping[str, Array]) -> Any:
        import onnxruntime

        proto = self._model(feeds)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = max(1, torch.get_num_threads())
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        options.enable_cpu_mem_arena = False  # there are many sessions, and an arena keeps the most it ever had
        if self.view.is_quantized:  # further optimisation would multiply in 8 bits
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            session = onnxruntime.InferenceSession(
                proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # as above
            raise LoadError(f"onnxruntime does not load it: {reason(error)}") from error
        kinds = {entry.name: entry.type for entry in session.get_inputs()}
        self._wanted = {name: _numpy_type(kinds[name]) for name in self.inputs}
        return session

    def _model(self, feeds: Mapping[str, Array]) -> onnx.ModelProto:
        source = self.view.file.proto
        nodes, constants = with_constants(self.view, self.nodes)
        graph = onnx.GraphProto(name="part")
        graph.node.extend(self.view.nodes[i] for i in nodes)
        for name in constants:
            tensor = self.view.initializers[name]
            if is_external(tensor):
                self._mapped[name] = self.view.file.array(tensor)
                graph.input.append(helper.make_tensor_value_info(name, tensor.data_type, list(tensor.dims)))
            else:
                graph.initializer.append(tensor)
        read = {name for i in nodes for name in self.view.read_by[i]}
        graph.sparse_initializer.extend(t for t in source.graph.sparse_initializer if t.values.name in read)
        declared = {value.name: value for value in source.graph.input}
        for name in self.inputs:
            if name in declared:
                graph.input.append(declared[name])
            else:
                kind = helper.np_dtype_to_tensor_dtype(feeds[name].dtype)
                graph.input.append(helper.make_tensor_value_info(name, kind, [None] * feeds[name].ndim))
        graph.output.extend(onnx.ValueInfoProto(name=name) for name in self.outputs)
        proto = onnx.ModelProto(ir_version=max(source.ir_version, 4), graph=graph)
        proto.opset_import.extend(source.opset_import)
        proto.functions.extend(source.functions)
        return proto


def with_constants(view: View, nodes: Sequence[int]) -> tuple[list[int], list[str]]:
    """``nodes`` with those that compute constants for them, in order, and the stored tensors that all of them read."""
    wanted, pending = set(nodes), list(nodes)
    while pending:
        for name in view.read_by[pending.pop()]:
            maker = view.maker.get(name)
            if maker is not None and maker in view.constant_nodes and maker not in wanted:
                wanted.add(maker)
                pending.append(maker)
    read = {name for i in wanted for name in view.read_by[i]}
    return sorted(wanted), [name for name in view.initializers if name in read]


def _numpy_type(kind: str) -> np.dtype[Any]:
    name = kind.removeprefix("tensor(").removesuffix(")")
    if name not in _TYPES:
        raise RuntimeError(f"a value of the type {kind} passes between parts of the graph, which is not supported")
    return np.dtype(helper.tensor_dtype_to_np_dtype(_TYPES[name]))
