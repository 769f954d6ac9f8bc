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
from compressor.layers.blast import BLAST as BLAST
from compressor.layers.circulant import Circulant as Circulant
from compressor.layers.deep_compression import DeepCompression as DeepCompression
from compressor.layers.fastfood import Fastfood as Fastfood
from compressor.layers.hashed import Hashed as Hashed
from compressor.layers.kernelnet import KernelNet as KernelNet
from compressor.layers.kronecker import Kronecker as Kronecker
from compressor.layers.monarch import Monarch as Monarch
from compressor.layers.phd import PHD as PHD
from compressor.layers.predicted import Predicted as Predicted
from compressor.layers.pruned import Pruned as Pruned
from compressor.layers.sparse_fc import SparseFC as SparseFC
from compressor.layers.svd import SVD as SVD
from compressor.layers.tensor_train import TensorTrain as TensorTrain
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
