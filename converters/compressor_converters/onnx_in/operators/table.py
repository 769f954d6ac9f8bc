"""The table of operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx

Operator = Callable[..., Any]  # (node, opset, *inputs) -> a tensor, or a tuple of them

OPERATORS: dict[str, Operator] = {}


def operator(*names: str) -> Callable[[Operator], Operator]:
    """Decorator: enter a function as the operators ``names``."""

    def enter(function: Operator) -> Operator:
        for name in names:
            assert name not in OPERATORS, name
            OPERATORS[name] = function
        return function

    return enter


def plain(**functions: Callable[..., Any]) -> None:
    """Enter functions that need nothing but their inputs."""
    for name, function in functions.items():
        operator(name)(lambda _node, _opset, *inputs, function=function: function(*inputs))


Node = onnx.NodeProto
