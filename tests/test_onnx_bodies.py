"""ONNX function bodies, each alone on stock onnxruntime, against dense matrices in float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from compressor.layers.onnx_dct import acdc_functions, twiddle_split
from compressor.layers.onnx_fastfood import fastfood_functions

Formula = Callable[[np.ndarray], np.ndarray]


def dct_matrix(n: int) -> np.ndarray:
    index = np.arange(n)
    table = np.cos(np.pi * (2 * index[:, None] + 1) * index / (2 * n)) * np.sqrt(2 / n)
    table[:, 0] /= np.sqrt(2)
    return table


def hadamard_matrix(d: int) -> np.ndarray:
    h = np.ones((1, 1))
    while len(h) < d:
        h = np.block([[h, h], [h, -h]])
    return h


def one_node(
    function: onnx.FunctionProto, values: dict[str, np.ndarray], in_features: int, rank: int, out: int | None = None
) -> onnx.ModelProto:
    """A model that is one call of ``function``; its output has no shape but the one inferred, unless ``out``."""
    lead = ["batch", "step"][: rank - 1]
    output = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None if out is None else [*lead, out])
    graph = helper.make_graph(
        [helper.make_node(function.name, ["x", *values], ["y"], domain="compressor")],
        "one",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [*lead, in_features])],
        [output],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("compressor", 1)]
    return helper.make_model(graph, functions=[function], opset_imports=opsets, ir_version=8)


def check(
    function: onnx.FunctionProto, values: dict[str, np.ndarray], formula: Formula, in_features: int, out: int, rank: int
) -> None:
    """Right on both runtimes at several batches, strictly inferable, small, and without a DFT."""
    model = one_node(function, values, in_features, rank, out)
    onnx.checker.check_model(model, full_check=True)
    bare = one_node(function, values, in_features, rank)
    inferred = onnx.shape_inference.infer_shapes(bare, check_type=True, strict_mode=True, data_prop=True)
    shape = [dim.dim_param or dim.dim_value for dim in inferred.graph.output[0].type.tensor_type.shape.dim]
    assert shape == [*["batch", "step"][: rank - 1], out]
    assert not {node.op_type for node in function.node} & {"DFT", "STFT"}
    assert function.ByteSize() < 10_000
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(1)
    for rows in (1, 3):
        x = rng.standard_normal((rows, *[2] * (rank - 2), in_features)).astype(np.float32)
        expected = formula(x)
        scale = np.abs(expected).max()
        for found in (session.run(None, {"x": x})[0], ReferenceEvaluator(model).run(None, {"x": x})[0]):
            wanted = torch.from_numpy((expected / scale).astype(np.float32))
            torch.testing.assert_close(torch.from_numpy(np.asarray(found) / scale).float(), wanted)


ACDC_CASES = [  # N, in, out, K, ReLU, bias, permuted, rank
    (1, 1, 1, 1, False, True, False, 2),
    (8, 8, 8, 1, False, True, False, 2),
    (10, 7, 10, 2, True, True, True, 3),
    (60, 60, 33, 3, True, True, True, 2),
    (63, 63, 50, 2, False, False, True, 3),
    (97, 90, 97, 2, False, True, True, 2),
    (257, 250, 101, 1, False, True, False, 2),
    (262, 262, 200, 2, False, True, True, 2),
    (315, 1, 315, 2, True, True, True, 3),
    (800, 800, 500, 2, True, True, True, 2),
    (1024, 100, 10, 3, False, False, False, 3),
    (3136, 3136, 128, 2, False, True, True, 2),
]


@pytest.mark.parametrize("basis", ["dct", "dct2d"])
@pytest.mark.parametrize("case", ACDC_CASES, ids=str)
def test_the_acdc_body_is_the_formula_on_stock_runtimes(case: tuple[int, ...], basis: str) -> None:
    n, in_features, out, depth, relu, bias, permuted, rank = case
    rng = np.random.default_rng(0)
    a, d = ((1 + 0.3 * rng.standard_normal((depth, n))).astype(np.float32) for _ in range(2))
    values = {"a": a, "d": d}
    beta = rng.standard_normal((depth, n)).astype(np.float32)
    order = np.stack([rng.permutation(n) for _ in range(depth)])[1:].astype(np.uint16)
    values |= ({"beta": beta} if bias else {}) | ({"perm": order} if permuted else {})
    n1 = next(k for k in range(int(n**0.5), 0, -1) if n % k == 0)
    c = dct_matrix(n) if basis == "dct" else np.kron(dct_matrix(n1), dct_matrix(n // n1))

    def formula(x: np.ndarray) -> np.ndarray:
        h = np.zeros((*x.shape[:-1], n))
        h[..., :in_features] = x
        for k in range(depth):
            h = np.maximum(h, 0) if k and relu else h
            h = h[..., order[k - 1].astype(int)] if k and permuted else h
            h = ((h * a[k]) @ c * d[k] + (beta[k] if bias else 0)) @ c.T
        return h[..., :out]

    [function] = acdc_functions(
        in_features,
        out,
        size=n,
        depth=depth,
        basis=basis,
        relu=bool(relu),
        bias=bool(bias),
        permuted=bool(permuted),
    )
    check(function, values, formula, in_features, out, rank)


FASTFOOD_CASES = [  # in, d, blocks, width, features, rank
    (1, 1, 3, 2, "linear", 2),
    (2, 2, 1, 2, "linear", 3),
    (7, 8, 3, 20, "relu", 3),
    (33, 64, 2, 128, "rbf", 2),
    (800, 1024, 1, 1000, "relu", 2),
    (2000, 2048, 2, 3000, "linear", 2),
]


@pytest.mark.parametrize("case", FASTFOOD_CASES, ids=str)
def test_the_fastfood_body_is_the_formula_on_stock_runtimes(case: tuple[int, int, int, int, str, int]) -> None:
    in_features, d, blocks, width, features, rank = case
    rng = np.random.default_rng(0)
    b, g = (rng.standard_normal((blocks, d)).astype(np.float32) for _ in range(2))
    s = (rng.standard_normal(width) / d).astype(np.float32)
    order = np.stack([rng.permutation(d) for _ in range(blocks)]).astype(np.uint16)

    def formula(x: np.ndarray) -> np.ndarray:
        padded = np.zeros((*x.shape[:-1], d))
        padded[..., :in_features] = x
        h = hadamard_matrix(d)
        y = [((padded * b[m]) @ h)[..., order[m].astype(int)] * g[m] @ h for m in range(blocks)]
        f = np.concatenate(y, -1)[..., :width] * s
        if features == "rbf":
            return np.concatenate([np.cos(f), np.sin(f)], -1) * np.sqrt(1 / width)
        return np.maximum(f, 0) if features == "relu" else f

    [function] = fastfood_functions(in_features, d=d, blocks=blocks, width=width, features=features)
    out = 2 * width if features == "rbf" else width
    check(function, {"B": b, "perm": order, "G": g, "S": s}, formula, in_features, out, rank)


@pytest.mark.parametrize("n", [1, 2, 97, 800, 1009, 4096, 9216])
def test_the_split_multiplies_to_n_and_is_near_square_where_n_allows(n: int) -> None:
    n1, n2 = twiddle_split(n)
    assert n1 * n2 == n
    if n in (800, 4096, 9216):
        assert n / 4 <= n1 * n1 <= 4 * n


def test_functions_of_different_shapes_have_different_names() -> None:
    shape = {"size": 12, "depth": 2, "basis": "dct", "relu": False, "bias": True, "permuted": True}
    changes = [
        {},
        {"size": 14},
        {"depth": 3},
        {"basis": "dct2d"},
        {"relu": True},
        {"bias": False},
        {"permuted": False},
    ]
    names = {acdc_functions(i, o, **shape)[0].name for i, o in ((12, 10), (10, 12))}
    names |= {acdc_functions(11, 11, **shape | change)[0].name for change in changes}
    assert len(names) == 2 + len(changes)
