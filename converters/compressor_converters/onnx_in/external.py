"""External data of a graph that is written anew: one file beside it, copied tensor by tensor."""

from __future__ import annotations

from pathlib import Path

import onnx

from compressor_converters.onnx_in.read import OnnxFile, external_place, is_external

_ALIGNED = 4096  # so that the file can be mapped; small tensors are read
_SMALL = 1 << 16
_CHUNK = 1 << 24


def data_file(path: Path) -> Path:
    """Where the external data of the model ``path`` goes."""
    return path.with_name(path.name + ".data")


def move_external(proto: onnx.ModelProto, source: OnnxFile, path: Path) -> None:
    """Copy the external tensors that ``proto`` still has from where ``source`` has them, and point there."""
    target = data_file(path)
    with target.open("wb") as out:
        for tensor in proto.graph.initializer:
            if not is_external(tensor):
                continue
            place, offset, length = external_place(tensor, source.folder)
            out.write(b"\0" * (-out.tell() % _ALIGNED if length >= _SMALL else 0))
            start, left = out.tell(), length
            with place.open("rb") as read:
                read.seek(offset)
                while left:
                    block = read.read(min(left, _CHUNK))
                    out.write(block)
                    left -= len(block)
            del tensor.external_data[:]
            for key, value in (("location", target.name), ("offset", start), ("length", length)):
                tensor.external_data.add(key=key, value=str(value))
