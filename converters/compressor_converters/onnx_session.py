"""A session of onnxruntime with the native operators for the nodes of our domain, on the CPU or on a GPU."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from compressor.errors import CompressorError
from compressor_kernels import cuda, onnx_library_path
from compressor_kernels import native as kernels

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, SessionOptions


_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


def onnx_session(
    path: str | Path,
    *,
    native: bool = True,
    threads: int | None = None,
    options: SessionOptions | None = None,
    providers: Sequence[str] = (_CPU,),
) -> InferenceSession:
    """A session for the ONNX file ``path``; ``native``: our nodes run on our kernels, else on their bodies.

    ``threads`` (onnxruntime's own choice: one a core), ``options`` and ``providers`` are onnxruntime's: with
    ``CUDAExecutionProvider`` ACDC and Fastfood run on the CUDA kernels. Where the kernels were not built, or this
    onnxruntime cannot take them, a warning says so and the bodies run. CompressorError when it does not load.
    """
    import onnxruntime

    if not Path(path).is_file():
        raise CompressorError(f"{path}: no such file")
    missing = [name for name in providers if name not in onnxruntime.get_available_providers()]
    if missing:
        has = ", ".join(onnxruntime.get_available_providers())
        raise CompressorError(f"this onnxruntime has no {', '.join(missing)}; it has {has}")
    options = onnxruntime.SessionOptions() if options is None else options
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        if native:
            _register(options, is_cuda=_CUDA in providers)
        return onnxruntime.InferenceSession(str(path), options, providers=list(providers))
    except CompressorError:
        raise
    except Exception as error:  # onnxruntime raises classes of its own, which share no base
        raise CompressorError(f"{path}: onnxruntime does not load it: {' '.join(str(error).split())[:300]}") from error


_registered: weakref.WeakKeyDictionary[SessionOptions, bool] = weakref.WeakKeyDictionary()  # whether for CUDA


def _register(options: SessionOptions, *, is_cuda: bool) -> None:
    import onnxruntime

    if options in _registered:  # onnxruntime refuses a second time
        if _registered[options] != is_cuda:
            raise CompressorError("these options hold the operators of another provider; give fresh ones")
        return

    library = onnx_library_path()
    if library is None:
        why = "they were not built, or COMPRESSOR_KERNELS=reference leaves them aside"
    elif is_cuda and not kernels.onnx_for_cuda(cuda.library_path()):
        why = f"{cuda.library_path()} does not load; build it with `python -m compressor_kernels.build_cuda`"
    else:
        options.register_custom_ops_library(str(library))
        if kernels.onnx_is_registered():
            _registered[options] = is_cuda
            return
        why = f"onnxruntime {onnxruntime.__version__} has not the interface that they need, that of 1.17"
    warnings.warn(f"no native operators, the nodes' bodies run instead, slower: {why}", RuntimeWarning, stacklevel=3)
