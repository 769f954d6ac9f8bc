"""Structured layers: one file a method. Importing this package registers them all."""

from compressor.layers.acdc import ACDC as ACDC
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
from compressor.layers.blast import BLAST as BLAST
from compressor.layers.fastfood import Fastfood as Fastfood
from compressor.layers.kronecker import Kronecker as Kronecker
from compressor.layers.monarch import Monarch as Monarch
from compressor.layers.svd import SVD as SVD
from compressor.layers.tensor_train import TensorTrain as TensorTrain

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
