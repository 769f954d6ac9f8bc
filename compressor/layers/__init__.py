"""Structured layers: one file a method. Importing this package registers them all."""

from compressor.layers.acdc import ACDC as ACDC
from compressor.layers.afdf import AFDF as AFDF
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
    replace,
)
from compressor.layers.circulant import Circulant as Circulant
from compressor.layers.fastfood import Fastfood as Fastfood
from compressor.layers.phd import PHD as PHD
from compressor.layers.svd import SVD as SVD
from compressor.layers.toeplitz import Toeplitz as Toeplitz

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
    "replace",
]
