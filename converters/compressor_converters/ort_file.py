"""``.ort``: the format of small builds of onnxruntime, as it loads fastest; one file for each kind of runtime.

Writing it settles what each node is. `STOCK` has our operators as their bodies, in standard operators, and runs
anywhere; `NATIVE` has them as nodes of our domain and needs the library with the native operators to be loaded.
"""

from __future__ import annotations

from pathlib import Path

from compressor.errors import CompressorError, reason

STOCK = "model.ort"
NATIVE = "model.native.ort"


def save_ort(onnx: Path, path: Path, *, library: Path | None = None) -> None:
    """Write the ONNX file ``onnx`` to ``path`` in onnxruntime's own format; with ``library`` for its operators.

    Without layouts that only one kind of processor has. CompressorError where onnxruntime cannot write it.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.optimized_model_filepath = str(path)
    options.add_session_config_entry("session.save_model_format", "ORT")
    if library is not None:
        options.register_custom_ops_library(str(library))
    try:
        onnxruntime.InferenceSession(
            str(onnx), options, providers=["CPUExecutionProvider"], disabled_optimizers=["NchwcTransformer"]
        )
    except Exception as error:  # onnxruntime raises kinds of its own
        raise CompressorError(f"onnxruntime does not write {path.name}: {reason(error)}") from None
