"""What a person would pick instead of a structured layer: int8 quantisation of the original."""

from __future__ import annotations

import logging
from pathlib import Path

import onnx

from compressor.errors import CompressorError, reason
from compressor.measure import ort_session

INT8 = "int8"  # the one baseline that is not a method


def quantize_int8(source: Path, target: Path) -> None:
    """Write onnxruntime's dynamic int8 quantisation of the ONNX file ``source`` to ``target``, and load it once.

    CompressorError where there is none, nothing in it is quantised, or what comes out does not load.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(source)
    del model.graph.value_info[:]  # the quantiser refuses shapes that the exporter wrote (ONNX_NOTES)
    logging.getLogger("root").disabled, before = True, logging.getLogger("root").disabled
    try:
        quantize_dynamic(model, str(target), weight_type=QuantType.QInt8)
        ort_session(target)
    except Exception as error:  # the quantiser raises many kinds
        raise _no_int8(f"onnxruntime cannot quantise the original ({reason(error)})") from error
    finally:
        logging.getLogger("root").disabled = before
    graph = onnx.load(target, load_external_data=False).graph
    if not any("Integer" in node.op_type or "Dequantize" in node.op_type for node in graph.node):
        raise _no_int8("onnxruntime quantises nothing in the original")


def _no_int8(why: str) -> CompressorError:
    return CompressorError(f"{INT8}: {why}; ask for other baselines")
