"""What a written graph must keep of the original: every node that was not exchanged, byte for byte, and its face."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import onnx

from compressor.errors import CompressorError
from compressor_converters.onnx_in.network import OnnxNetwork
from compressor_converters.onnx_in.read import OnnxFile, is_external, read_onnx
from compressor_converters.onnx_in.write import find_places


def check_untouched(network: OnnxNetwork, path: Path) -> tuple[int, int]:
    """How many nodes and stored tensors of the original stand in the file ``path`` as they were.

    CompressorError where one was changed that no structured layer replaced, or where inputs, outputs, metadata or
    operator sets differ.
    """
    before, after = network.view.file, read_onnx(path)
    gone = {i for place in find_places(network) for i in place.nodes}
    read_by_gone = {name for i in gone for name in _upstream(network, i)}
    left = Counter(_bytes(node) for node in after.proto.graph.node)
    nodes = 0
    for i, node in enumerate(network.view.nodes):
        if i in gone or set(node.output) & read_by_gone:
            continue
        if not left[_bytes(node)]:
            raise CompressorError(f"{path}: the node '{node.name or node.output[0]}' is not as it was")
        left[_bytes(node)] -= 1
        nodes += 1
    kept = {tensor.name: tensor for tensor in after.proto.graph.initializer}
    tensors = 0
    for name, tensor in network.view.initializers.items():
        if name in kept:
            if not _same(tensor, before, kept[name], after):
                raise CompressorError(f"{path}: the constant '{name}' is not as it was")
            tensors += 1
        elif name not in read_by_gone and network.view.readers.get(name):
            raise CompressorError(f"{path}: the constant '{name}' is gone")
    _check_face(network, after.proto, path)
    return nodes, tensors


def _upstream(network: OnnxNetwork, i: int) -> set[str]:
    """What the node ``i`` reads, and the constants that it is made of."""
    found: set[str] = set()
    pending = list(network.view.read_by[i])
    while pending:
        name = pending.pop()
        maker = network.view.maker.get(name)
        if maker is None and name in network.view.initializers:
            found.add(name)
        elif maker is not None and maker in network.view.constant_nodes and name not in found:
            found.add(name)
            pending.extend(network.view.read_by[maker])
    return found


def _bytes(message: onnx.NodeProto) -> bytes:
    return bytes(message.SerializeToString(deterministic=True))


def _same(one: onnx.TensorProto, source: OnnxFile, other: onnx.TensorProto, copy: OnnxFile) -> bool:
    if not is_external(one):
        return bool(one.SerializeToString(deterministic=True) == other.SerializeToString(deterministic=True))
    return bool((source.array(one).view("uint8") == copy.array(other).view("uint8")).all())


def _check_face(network: OnnxNetwork, written: onnx.ModelProto, path: Path) -> None:
    """Inputs, outputs, metadata, and at least the operator sets of before."""
    before = network.view.file.proto
    constants = network.view.initializers.keys()
    pairs = {
        "inputs": ([v for v in before.graph.input if v.name not in constants],
                   [v for v in written.graph.input if v.name not in constants]),
        "outputs": (list(before.graph.output), list(written.graph.output)),
        "metadata": (list(before.metadata_props), list(written.metadata_props)),
        "operator sets": (list(before.opset_import), list(written.opset_import)[: len(before.opset_import)]),
    }  # fmt: skip
    for what, (old, new) in pairs.items():
        if [one.SerializeToString(deterministic=True) for one in old] != [
            one.SerializeToString(deterministic=True) for one in new
        ]:
            raise CompressorError(f"{path}: its {what} are not as they were")
