"""Turn a trained neural network into a small, fast one by making its dense layers structured.

The public names are loaded when they are first used, so that ``import compressor`` and ``compress --help`` are quick.
Importing it lets ``AutoModel.from_pretrained`` of transformers read compressed Hugging Face folders.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from compressor.errors import CompressorError
from compressor_converters.hugging_face.registration import register

if TYPE_CHECKING:
    from compressor.layers import Metric, StructuredLayer, methods
    from compressor.pipeline import Result, compress
    from compressor.recipe import Recipe
    from compressor.report import Report
    from compressor_converters.folder import load_folder as load
    from compressor_converters.onnx_session import onnx_session

__version__ = "0.1.0"
__all__ = [
    "CompressorError",
    "Metric",
    "Recipe",
    "Report",
    "Result",
    "StructuredLayer",
    "__version__",
    "compress",
    "load",
    "methods",
    "onnx_session",
]

_HOMES = {
    "Metric": ("compressor.layers", "Metric"),
    "Recipe": ("compressor.recipe", "Recipe"),
    "Report": ("compressor.report", "Report"),
    "Result": ("compressor.pipeline", "Result"),
    "StructuredLayer": ("compressor.layers", "StructuredLayer"),
    "compress": ("compressor.pipeline", "compress"),
    "load": ("compressor_converters.folder", "load_folder"),
    "methods": ("compressor.layers", "methods"),
    "onnx_session": ("compressor_converters.onnx_session", "onnx_session"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'compressor' has no attribute '{name}'")
    module, attribute = _HOMES[name]
    return getattr(importlib.import_module(module), attribute)


register()  # so that transformers reads the folders that we write
