"""What a person would pick instead of a structured layer: int8 quantisation of the original."""

from __future__ import annotations

import logging
from pathlib import Path

import onnx

INT8 = "int8"  # the one baseline that is not a method


def quantize_int8(source: Path, target: Path) -> None:
    """Write onnxruntime's dynamic int8 quantisation of the ONNX file ``source`` to ``target``."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(source)
    del model.graph.value_info[:]  # the quantiser refuses shapes that the exporter wrote (ONNX_NOTES)
    logging.getLogger("root").disabled, before = True, logging.getLogger("root").disabled
    try:
        quantize_dynamic(model, str(target), weight_type=QuantType.QInt8)
    finally:
        logging.getLogger("root").disabled = before
