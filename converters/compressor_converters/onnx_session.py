"""A session of onnxruntime with the native operators for the nodes of our domain."""

from __future__ import annotations

import warnings
import weakref
from pathlib import Path
from typing import TYPE_CHECKING

from compressor.errors import CompressorError
from compressor_kernels import native as kernels
from compressor_kernels import onnx_library_path

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, SessionOptions


def onnx_session(
    path: str | Path, *, native: bool = True, threads: int | None = None, options: SessionOptions | None = None
) -> InferenceSession:
    """A session on the CPU for the ONNX file ``path``; ``native``: our nodes run on our kernels, else on their bodies.

    ``threads`` (onnxruntime's own choice: one a core) and ``options`` are onnxruntime's. Where the kernels were not
    built, or this onnxruntime cannot take them, a warning says so and the bodies run. CompressorError when it does not
    load.
    """
    import onnxruntime

    if not Path(path).is_file():
        raise CompressorError(f"{path}: no such file")
    options = onnxruntime.SessionOptions() if options is None else options
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        if native:
            _register(options)
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises classes of its own, which share no base
        raise CompressorError(f"{path}: onnxruntime does not load it: {' '.join(str(error).split())[:300]}") from error


_registered: weakref.WeakSet[SessionOptions] = weakref.WeakSet()  # onnxruntime refuses a second time


def _register(options: SessionOptions) -> None:
    import onnxruntime

    if options in _registered:
        return

    library = onnx_library_path()
    if library is None:
        why = "they were not built, or COMPRESSOR_KERNELS=reference leaves them aside"
    else:
        options.register_custom_ops_library(str(library))
        if kernels.onnx_is_registered():
            _registered.add(options)
            return
        why = f"onnxruntime {onnxruntime.__version__} has not the interface that they need, that of 1.17"
    warnings.warn(f"no native operators, the nodes' bodies run instead, slower: {why}", RuntimeWarning, stacklevel=3)
