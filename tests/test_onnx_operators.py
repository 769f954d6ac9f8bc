"""The operators in torch against the cases that the ONNX standard itself publishes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx.backend.test.case.node import collect_testcases

from compressor_converters.onnx_in.operators import OPERATORS
from compressor_converters.onnx_in.read import as_tensor

pytestmark = pytest.mark.slow

# In types that torch does not compute in, of empty sets, or not of a trained network.
_LEFT_OUT = ("FLOAT8", "FLOAT4", "float8", "float4", "int4", "int2", "_uint16", "_uint32", "_uint64", "STRING",
             "string", "FLOAT16", "INT4", "INT2", "E8M0", "E4M3", "E5M2", "E2M1", "training_mode", "empty_set",
             "maxpool_2d_uint8", "DOUBLE", "bfloat16")  # fmt: skip


def run(model: onnx.ModelProto, inputs: list[Any]) -> list[torch.Tensor]:
    node = model.graph.node[0]
    opset = next(entry.version for entry in model.opset_import if entry.domain == "")
    given = dict(zip((value.name for value in model.graph.input), inputs, strict=True))
    arguments = [as_tensor(np.array(given[name])) if name else None for name in node.input]
    made = OPERATORS[node.op_type](node, opset, *arguments)
    return list(made) if isinstance(made, tuple | list) else [made]


def wrong(case: Any) -> str | None:
    """How the operator differs from the case, None where it does not."""
    for inputs, outputs in case.data_sets:
        wanted = dict(zip((value.name for value in case.model.graph.output), outputs, strict=True))
        for name, one in zip(case.model.graph.node[0].output, run(case.model, list(inputs)), strict=False):
            if name:
                expected = torch.from_numpy(np.array(wanted[name]))
                try:
                    torch.testing.assert_close(one, expected, rtol=1e-3, atol=1e-5, equal_nan=True)
                except AssertionError as error:
                    return f"{case.name}: {error}"
    return None


def test_one_number_is_picked_from_a_vector() -> None:
    node = onnx.helper.make_node("Gather", ["x", "i"], ["y"], axis=0)
    got = OPERATORS["Gather"](node, 17, torch.tensor([3, 5, 7]), torch.tensor(-1))
    torch.testing.assert_close(got, torch.tensor(7))


@pytest.mark.slow  # the standard makes all of its cases first
def test_operators_do_what_the_standard_says() -> None:
    taken, refused, failed = [], [], []
    for case in collect_testcases(None):
        nodes = case.model.graph.node
        if len(nodes) != 1 or nodes[0].op_type not in OPERATORS or nodes[0].domain:
            continue
        if any(word in case.name for word in _LEFT_OUT):
            continue
        try:
            if (said := wrong(case)) is not None:
                failed.append(said)
            taken.append(nodes[0].op_type)
        except NotImplementedError:
            refused.append(case.name)
    assert failed == []
    assert len(taken) > 500
    assert len(refused) < 0.2 * len(taken)
    untested = OPERATORS.keys() - set(taken)
    # The standard's cases of these are of kinds left out, or of several nodes.
    assert untested <= {"Swish", "Size", "Sum", "Cast", "CastLike", "LayerNormalization"}, untested
