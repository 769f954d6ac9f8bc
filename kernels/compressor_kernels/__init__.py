"""Fast transforms under the structured layers: native kernels, and plain torch as reference and fallback."""

from compressor_kernels.native import onnx_library_path as onnx_library_path
