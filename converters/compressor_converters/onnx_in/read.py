"""An ONNX file as data: parsed and checked; external tensors are mapped into memory when they are asked for."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from torch import Tensor

from compressor.errors import CompressorError

Array = NDArray[Any]
OLDEST_OPSET = 7  # onnxruntime's own limit
_MOST_BYTES = 2**31 - 1  # of the file itself: what a protobuf can be


@dataclass(frozen=True)
class OnnxFile:
    """A parsed model and where it lies; tensors in external files are mapped when they are asked for."""

    path: Path
    proto: onnx.ModelProto

    @property
    def folder(self) -> Path:
        """Where external data is looked for, and nowhere else."""
        return self.path.resolve().parent

    @property
    def opset(self) -> int:
        """The version of the standard operators."""
        return next((entry.version for entry in self.proto.opset_import if entry.domain in ("", "ai.onnx")), 1)

    def array(self, tensor: TensorProto) -> Array:
        """The numbers of ``tensor``; those of an external file are mapped, not read."""
        if tensor.data_location != TensorProto.EXTERNAL:
            return numpy_helper.to_array(tensor)
        place, offset, length = external_place(tensor, self.folder)
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
        if length == 0:
            return np.zeros(tuple(tensor.dims), dtype)
        mapped = np.memmap(place, dtype=np.uint8, mode="r", offset=offset, shape=(length,))
        return np.asarray(mapped).view(dtype).reshape(tuple(tensor.dims))


def is_external(tensor: TensorProto) -> bool:
    """Whether the numbers lie in a file of their own."""
    return bool(tensor.data_location == TensorProto.EXTERNAL)


def external_place(tensor: TensorProto, folder: Path) -> tuple[Path, int, int]:
    """File, offset and length in bytes of an external tensor; ValueError unless it lies whole inside ``folder``."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    named = Path(entries.get("location", ""))
    if not entries.get("location") or named.is_absolute() or ".." in named.parts:
        raise ValueError(f"'{tensor.name}' is said to lie in '{named}', which is not a file inside the model's folder")
    place = (folder / named).resolve()
    if not place.is_relative_to(folder):
        raise ValueError(f"'{tensor.name}' is said to lie in '{named}', which leads out of the model's folder")
    if not place.is_file():
        raise ValueError(f"'{tensor.name}' is said to lie in '{named}', and there is no such file beside the model")
    try:
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
        offset = int(entries.get("offset", 0))
        needed = math.prod(tensor.dims) * dtype.itemsize
        length = int(entries.get("length", needed))
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"'{tensor.name}' has an external place that cannot be read: {entries}") from None
    size = place.stat().st_size
    if min(offset, length, *tensor.dims, 0) < 0 or length != needed or offset + length > size:
        raise ValueError(
            f"'{tensor.name}' is said to be {needed:,} bytes at {offset:,} of '{named}', which has {size:,} in all"
        )
    return place, offset, length


def read_onnx(path: Path) -> OnnxFile:
    """Parse ``path`` and check that its tensors are whole; CompressorError in one line where something is wrong."""
    if path.stat().st_size > _MOST_BYTES:
        raise CompressorError(f"{path}: is larger than a protobuf can be (2 GB); its weights must lie in external data")
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(path.read_bytes())
    except Exception as error:  # protobuf's own class differs from version to version
        raise CompressorError(f"{path}: is no whole ONNX model: {' '.join(str(error).split())[:200]}") from None
    file = OnnxFile(path, proto)
    if not proto.graph.node or not proto.graph.output or not proto.opset_import:
        raise CompressorError(f"{path}: is no ONNX model: it has no nodes, no outputs or no operator set")
    if file.opset < OLDEST_OPSET:
        raise CompressorError(f"{path}: is written for opset {file.opset}; from {OLDEST_OPSET} on it can be run")
    try:
        _check_text(proto)
        _check_order(proto.graph)
        for tensor in proto.graph.initializer:
            _check_tensor(tensor, file)
        for tensor in _inner(proto):
            if is_external(tensor):
                raise ValueError(f"'{tensor.name}', inside of a node, is said to lie in a file of its own; only stored"
                                 " tensors of the main graph may")  # fmt: skip
            _check_tensor(tensor, file)
    except ValueError as error:
        raise CompressorError(f"{path}: {error}") from None
    return file


def _inner(proto: onnx.ModelProto) -> Iterator[TensorProto]:
    """All tensors but the main graph's stored ones: in nodes, branches, loops and functions."""
    pending: list[onnx.NodeProto] = [*proto.graph.node, *(node for body in proto.functions for node in body.node)]
    for sparse in proto.graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    while pending:
        for entry in pending.pop().attribute:
            yield from [entry.t] if entry.HasField("t") else []
            yield from entry.tensors
            for graph in [*([entry.g] if entry.HasField("g") else []), *entry.graphs]:
                yield from graph.initializer
                pending.extend(graph.node)


def _check_text(proto: onnx.ModelProto) -> None:
    """All names and words are text: protobuf hands on as bytes what is none."""
    pending: list[Any] = [proto]
    while pending:
        for field, value in pending.pop().ListFields():
            if field.type not in (field.TYPE_STRING, field.TYPE_MESSAGE):
                continue
            several = [value] if isinstance(value, str | bytes) or hasattr(value, "ListFields") else value
            if field.type == field.TYPE_MESSAGE:
                pending.extend(several)
            elif not all(isinstance(one, str) for one in several):
                raise ValueError(f"it has a name or word ('{field.name}') that is no text")


def _check_order(graph: onnx.GraphProto) -> None:
    """Each value is made once, and before it is read: then there are no cycles."""
    made: set[str] = set()
    outer = {tensor.name for tensor in graph.initializer} | {value.name for value in graph.input}
    made |= outer | {tensor.values.name for tensor in graph.sparse_initializer}
    for node in graph.node:
        for name in node.input:
            if name and name not in made:
                raise ValueError(
                    f"node '{node.name or node.op_type}' reads '{name}', which nothing before it makes (a cycle, or a"
                    " value that is not there)"
                )
        for name in node.output:
            if name and name in made:
                raise ValueError(f"'{name}' is made twice")
            made.add(name)
    missing = [value.name for value in graph.output if value.name not in made]
    if missing:
        raise ValueError(f"its output '{missing[0]}' is made by no node")


def _check_tensor(tensor: TensorProto, file: OnnxFile) -> None:
    """Sizes that agree with each other; ValueError otherwise."""
    if min(tensor.dims, default=0) < 0:
        raise ValueError(f"'{tensor.name}' has the shape {list(tensor.dims)}")
    if is_external(tensor):
        external_place(tensor, file.folder)
        return
    if tensor.data_type == TensorProto.STRING or tensor.data_type == TensorProto.UNDEFINED:
        if tensor.data_type == TensorProto.UNDEFINED:
            raise ValueError(f"'{tensor.name}' has no type")
        return
    if tensor.HasField("raw_data"):
        try:
            bits = _bits(tensor.data_type)
        except KeyError:
            raise ValueError(f"'{tensor.name}' has the unknown type {tensor.data_type}") from None
        needed = -(-math.prod(tensor.dims) * bits // 8)
        if len(tensor.raw_data) != needed:
            shape = "×".join(map(str, tensor.dims)) or "a single number"
            raise ValueError(f"'{tensor.name}' ({shape}) needs {needed:,} bytes and has {len(tensor.raw_data):,}")
        return
    held = max(len(tensor.float_data), len(tensor.int32_data), len(tensor.int64_data), len(tensor.double_data),
               len(tensor.uint64_data))  # fmt: skip
    most = math.prod(tensor.dims) * (2 if tensor.data_type in (TensorProto.COMPLEX64, TensorProto.COMPLEX128) else 1)
    if held > most or (held < most and _bits(tensor.data_type) >= 8):
        raise ValueError(f"'{tensor.name}' is of shape {list(tensor.dims)} and holds {held:,} numbers")


def _bits(data_type: int) -> int:
    name = TensorProto.DataType.Name(data_type)
    for ending, bits in (("INT4", 4), ("FLOAT4E2M1", 4), ("INT2", 2)):
        if name.endswith(ending):
            return bits
    return int(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(data_type)).itemsize) * 8


def as_tensor(array: Array) -> Tensor:
    """The same memory as a tensor, which is only read."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not writable")
        return torch.from_numpy(array if array.flags.c_contiguous else np.ascontiguousarray(array))
