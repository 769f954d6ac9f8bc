"""ONNX files in, and out again: graphs whose dense maps are modules, everything else as it was."""

from compressor_converters.onnx_in.check import check_untouched
from compressor_converters.onnx_in.cost import macs_outside
from compressor_converters.onnx_in.example import make_example
from compressor_converters.onnx_in.external import data_file
from compressor_converters.onnx_in.file_run import FileRun
from compressor_converters.onnx_in.network import OnnxNetwork
from compressor_converters.onnx_in.read import read_onnx
from compressor_converters.onnx_in.stored import hidden_products
from compressor_converters.onnx_in.write import save_network

__all__ = [
    "FileRun",
    "OnnxNetwork",
    "check_untouched",
    "data_file",
    "hidden_products",
    "macs_outside",
    "make_example",
    "read_onnx",
    "save_network",
]
