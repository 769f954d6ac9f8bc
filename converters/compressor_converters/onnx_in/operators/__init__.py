"""The standard operators in torch, so that a graph can be trained through: each as its ONNX specification says.

An operator is a function of its node, the graph's opset and its inputs (None for one that is left out). What is not
here has no gradient; `compressor_converters.onnx_in.torch_run` says so.
"""

from compressor_converters.onnx_in.operators import elementwise, layers, recurrent, shapes
from compressor_converters.onnx_in.operators.table import OPERATORS, Operator

__all__ = ["OPERATORS", "Operator", "elementwise", "layers", "recurrent", "shapes"]
