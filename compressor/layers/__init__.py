"""Structured layers: one file a method. Importing this package registers them all."""

from compressor.layers import acdc, svd
from compressor.layers.base import (
    LayerConfig,
    Method,
    Metric,
    StructuredLayer,
    build,
    method,
    methods,
    onnx_export,
    register,
)

__all__ = [
    "LayerConfig",
    "Method",
    "Metric",
    "StructuredLayer",
    "build",
    "method",
    "methods",
    "onnx_export",
    "register",
]
