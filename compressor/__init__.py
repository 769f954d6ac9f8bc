"""Turn a trained neural network into a small, fast one by making its dense layers structured."""

from compressor.errors import CompressorError

__version__ = "0.1.0"
__all__ = ["CompressorError", "__version__"]
