"""The native operators in onnxruntime: what the bodies give, and never an error where the bodies would have run."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from native_oracle import layer
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

import compressor
from compressor.layers import methods
from compressor.layers.onnx_dct import acdc_functions
from compressor_converters.onnx_file import save_onnx
from compressor_kernels import native, onnx_library_path

ROOT = Path(__file__).resolve().parent.parent
pytestmark = [pytest.mark.slow, pytest.mark.skipif(native.library() is None, reason="the native kernels are not built")]

METHODS = (  # those with a native operator
    "acdc", "afdf", "circulant", "deep_compression", "fastfood", "monarch", "phd", "pruned", "toeplitz",
)  # fmt: skip
KINDS = {"ACDC", "AFDF", "Circulant", "Fastfood", "Monarch", "PHD"}
KINDS |= {"Sparse", "SparseShared", "SparseVectors", "Toeplitz"}
EXAMPLES = [(name, example, True) for name in METHODS for example in methods()[name].layer.examples()]
EXAMPLES += [(name, {}, False) for name in METHODS]


def run(session: onnxruntime.InferenceSession, x: Tensor) -> Tensor:
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


def sessions(path: Path) -> tuple[onnxruntime.InferenceSession, onnxruntime.InferenceSession, int]:
    """On the bodies, on the library, and how many nodes the library took."""
    stock = compressor.onnx_session(path, native=False, threads=1)
    before = native.onnx_kernels()
    return stock, compressor.onnx_session(path, threads=1), native.onnx_kernels() - before


def assert_equal(found: Tensor, expected: Tensor) -> None:
    scale = max(1.0, float(expected.abs().max())) if expected.numel() else 1.0
    torch.testing.assert_close(found / scale, expected / scale, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("method", "config", "bias"), EXAMPLES, ids=str)
def test_a_file_gives_the_same_with_the_library_and_without(
    method: str, config: dict[str, Any], bias: bool, tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    model = nn.Sequential(layer(method, config, 63, 33, bias=bias), nn.ReLU(), layer(method, config, 33, 71, bias=bias))
    save_onnx(model, (torch.zeros(2, 63),), path)
    stock, fast, nodes = sessions(path)
    kinds = [node.op_type.split("_")[0] for node in onnx.load(path).graph.node if node.domain == "compressor"]
    assert len(kinds) == 2
    assert nodes == sum(kind in KINDS for kind in kinds)
    assert all(kind in KINDS or kind.removesuffix("Dense") in KINDS for kind in kinds)
    for rows in (1, 3, 37):
        x = torch.randn(rows, 63)
        assert_equal(run(fast, x), run(stock, x))
        with torch.no_grad():
            assert_equal(run(fast, x), model(x))


MORE = [("acdc", {"basis": "dct2d", "size": 48}), ("pruned", {"block": 16})]  # of the same methods, other nodes


@pytest.mark.parametrize(("method", "config"), [*((method, {}) for method in METHODS), *MORE])
def test_leading_axes_are_kept_and_a_batch_may_be_empty(method: str, config: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    save_onnx(layer(method, config, 21, 33, bias=False), (torch.zeros(2, 4, 5, 21),), path)
    stock, fast, nodes = sessions(path)
    assert nodes == int(method != "circulant")  # a short one is a dense product
    x = torch.randn(3, 4, 5, 21)
    assert_equal(run(fast, x), run(stock, x))
    assert run(fast, x[:0]).shape == (0, 4, 5, 33)


BETWEEN_TRANSFORMS = [
    ("circulant", {"terms": 2}, 300, 1), ("circulant", {"signs": "learned"}, 400, 1), ("circulant", {}, 286, 0),
    ("circulant", {"terms": 60}, 300, 0), ("toeplitz", {"rank": 3}, 300, 1), ("toeplitz", {"size": 286}, 286, 0),
    ("afdf", {"depth": 3}, 300, 1), ("afdf", {"size": 315}, 286, 1), ("afdf", {"size": 286}, 286, 0),
]  # fmt: skip


@pytest.mark.parametrize(("method", "config", "n", "count"), BETWEEN_TRANSFORMS, ids=str)
def test_layers_between_fourier_transforms_are_native_where_those_are(
    method: str, config: dict[str, Any], n: int, count: int, tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    made = layer(method, {"size": n} | config, n - 1, n - 20)
    save_onnx(made, (torch.zeros(2, n - 1),), path)
    stock, fast, nodes = sessions(path)
    assert nodes == count
    for rows in (1, 19):
        x = torch.randn(rows, n - 1)
        assert_equal(run(fast, x), run(stock, x))
        with torch.no_grad():
            assert_equal(run(fast, x), made(x))


def test_a_circulant_node_refuses_signs_for_another_input(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    save_onnx(layer("circulant", {"size": 300}, 300, 290), (torch.zeros(2, 300),), path)
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 299
    del model.functions[:]
    path.write_bytes(model.SerializeToString())
    session = compressor.onnx_session(path, threads=1)
    with pytest.raises(Exception, match="Circulant has 300 signs, of an input with 299 columns"):
        run(session, torch.zeros(2, 299))


FAST = {"dct": [2, 6, 64, 800, 1024, 3000], "dct2d": [4, 48, 1024, 3000, 3136]}  # 3000 = 50 · 60
SLOW = {"dct": [1, 3, 22, 137], "dct2d": [1, 2, 26, 72, 800]}  # 72 = 8 · 9
LENGTHS = [(basis, n, fast) for fast, of in ((True, FAST), (False, SLOW)) for basis in of for n in of[basis]]


@pytest.mark.parametrize(("basis", "n", "is_fast"), LENGTHS, ids=str)
def test_cascades_of_any_length_are_equal_and_native_where_there_is_a_fast_transform(
    basis: str, n: int, is_fast: bool, tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    config = {"size": n, "depth": 3, "relu": True, "basis": basis}
    save_onnx(layer("acdc", config, n, n), (torch.zeros(2, n),), path)
    stock, fast, nodes = sessions(path)
    assert nodes == int(is_fast)
    for rows in (1, 19):
        x = torch.randn(rows, n)
        assert_equal(run(fast, x), run(stock, x))


SPARSE = {"columns": [0, 3, 1, 2, 0], "lengths": [2, 0, 3], "values": [1.0, 2.0, 3.0, 4.0, 5.0]}


VECTORS = {"columns": [0, 3, 1], "lengths": [2, 1], "values": [1.0, 2.0, 3.0, 4.0, 5.0, 0.0]}  # the last row is short


def sparse_model(tables: dict[str, list[Any]], kind: str = "Sparse", **attributes: int) -> bytes:
    """One node without a body: what the library makes of matrices that contradict themselves."""
    held = [
        numpy_helper.from_array(np.array(value, np.float32 if key == "values" else np.int32), key)
        for key, value in tables.items()
    ]
    graph = helper.make_graph(
        [helper.make_node(kind, ["x", *tables], ["y"], domain="compressor", **attributes)],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "width"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
        held,
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("compressor", 1)]
    data: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    return data


def test_a_sparse_matrix_may_have_empty_rows_and_columns_in_any_order() -> None:
    [found] = load(sparse_model(SPARSE)).run(None, {"x": np.array([[1, 10, 100, 1000], [0, 0, 1, 0]], np.float32)})
    assert found.tolist() == [[2001, 0, 435], [0, 0, 4]]


def test_a_vector_is_neighbouring_outputs_of_one_input() -> None:
    session = load(sparse_model(VECTORS, "SparseVectors", block=2, out_features=3))
    for rows in (1, 5):
        [found] = session.run(None, {"x": np.array([[1, 10, 100, 1000]] * rows, np.float32)})
        assert found.tolist() == [[3001, 4002, 50]] * rows


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"columns": [0, 3, 7]}, "the input has 4 columns, the matrix 8"),
        ({"lengths": [2, 2]}, "sum up to 4, not 3"),
        ({"values": [1.0, 2.0, 3.0]}, "holds 3 numbers, not 6"),
        ({"block": 0}, "attribute block is 0"),
        ({"block": 1}, "lengths holds 2 numbers, not 3"),
        ({"block": 2**40}, "attribute block is 1099511627776"),
        ({"out_features": 5}, "lengths holds 2 numbers, not 3"),
        ({"out_features": 0}, "attribute out_features is 0"),
    ],
    ids=str,
)
def test_vectors_that_contradict_themselves_are_refused_in_words(change: dict[str, Any], words: str) -> None:
    sizes = {key: change.get(key, value) for key, value in {"block": 2, "out_features": 3}.items()}
    tables = {key: change.get(key, value) for key, value in VECTORS.items()}
    with pytest.raises(Exception, match=words):
        load(sparse_model(tables, "SparseVectors", **sizes)).run(None, {"x": np.ones((1, 4), np.float32)})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"columns": [0, 3, 1, -2, 0]}, "columns holds -2"),
        ({"lengths": [2, 0, 2]}, "sum up to 4, not 5"),
        ({"lengths": [2, -1, 4]}, "lengths holds -1"),
        ({"values": [1.0]}, "holds 1 numbers, not 5"),
    ],
    ids=str,
)
def test_a_sparse_matrix_that_contradicts_itself_is_refused_in_words(change: dict[str, list[Any]], words: str) -> None:
    with pytest.raises(Exception, match=words):
        load(sparse_model(SPARSE | change))


def test_a_sparse_matrix_wider_than_the_input_is_refused_in_words() -> None:
    session = load(sparse_model(SPARSE))
    with pytest.raises(Exception, match="the input has 3 columns, the matrix 4"):
        session.run(None, {"x": np.zeros((2, 3), np.float32)})


def test_a_monarch_node_whose_tables_are_not_of_its_sizes_is_refused_in_words(tmp_path: Path) -> None:
    save_onnx(layer("monarch", {"blocks": 2, "rank": 4}, 16, 16), (torch.zeros(2, 16),), tmp_path / "model.onnx")
    model = onnx.load(tmp_path / "model.onnx")
    for attribute in model.graph.node[0].attribute:
        attribute.i = {"blocks": 4, "rank": 1}.get(attribute.name, attribute.i)  # as many numbers, in other blocks
    with pytest.raises(Exception, match="Monarch's first is not of the sizes"):
        load(model.SerializeToString())


def test_nodes_are_named_by_kind_and_numbered_by_shape(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    shapes = [(21, 21), (21, 33), (21, 33), (21, 21)]
    parts = [layer("acdc", {}, *shapes[0]), layer("acdc", {}, *shapes[1]), nn.Linear(33, 21)]
    parts += [layer("fastfood", {}, 21, 21), layer("acdc", {"seed": 4}, *shapes[3])]
    save_onnx(nn.Sequential(*parts), (torch.zeros(2, 21),), path)
    written = onnx.load(path)
    ours = [node.op_type for node in written.graph.node if node.domain == "compressor"]
    assert ours == ["ACDC", "ACDC_2", "Fastfood", "ACDC"]
    assert sorted(function.name for function in written.functions) == ["ACDC", "ACDC_2", "Fastfood"]


def test_shapes_beyond_the_names_of_the_library_run_their_bodies(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    widths = range(2, 36)
    model = nn.Sequential(*(layer("acdc", {"size": 36, "depth": 1}, n, n + 1) for n in widths))
    save_onnx(model, (torch.zeros(2, 2),), path)
    stock, fast, nodes = sessions(path)
    assert nodes == 32
    x = torch.randn(5, 2)
    assert_equal(run(fast, x), run(stock, x))


def test_a_double_model_keeps_its_precision(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    model = nn.Sequential(layer("acdc", {}, 21, 21).double(), layer("acdc", {"seed": 3}, 21, 21).double())
    x = torch.randn(3, 21, dtype=torch.float64)
    save_onnx(model, (x[:2],), path)
    stock, fast, nodes = sessions(path)
    assert nodes == 0
    assert torch.equal(run(fast, x), run(stock, x))


def node_model(
    element: int,
    tables: dict[str, np.ndarray],
    *,
    constant: bool = True,
    cast: bool = False,
    width: int | None = None,
    **attributes: Any,
) -> bytes:
    """One ACDC node with the body of its shape; tables as initialisers or as inputs, ``cast`` to and from float32.

    ``width``: what the model says of its input, where that is not the length.
    """
    k, n = tables["a"].shape
    said = {"basis": "dct", "relu": 0, "bias": int("beta" in tables), "permuted": int("perm" in tables)} | attributes
    [function] = acdc_functions(
        n, n, size=n, depth=k, basis="dct", relu=bool(said["relu"]), bias="beta" in tables, permuted="perm" in tables
    )
    function.name = "ACDC"
    outer = TensorProto.FLOAT if cast else element
    inputs = [helper.make_tensor_value_info("x", outer, ["batch", width or n])]
    nodes, names = [], ["x", *tables]
    if cast:
        names = [name if name == "perm" else f"{name}_cast" for name in names]
        nodes = [
            helper.make_node("Cast", [name], [f"{name}_cast"], to=element) for name in ["x", *tables] if name != "perm"
        ]
    nodes.append(helper.make_node("ACDC", names, ["z"], domain="compressor", size=n, depth=k, out_features=n, **said))
    nodes.append(helper.make_node("Cast", ["z"], ["y"], to=outer))
    held = [numpy_helper.from_array(value, name) for name, value in tables.items()]
    if not constant:
        inputs += [helper.make_tensor_value_info(value.name, value.data_type, list(value.dims)) for value in held]
    graph = helper.make_graph(
        nodes, "one", inputs, [helper.make_tensor_value_info("y", outer, ["batch", n])], held if constant else []
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("compressor", 1)]
    model = helper.make_model(graph, functions=[function], opset_imports=opsets, ir_version=8)
    data: bytes = model.SerializeToString()
    return data


def load(model: bytes, *, with_library: bool = True) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if with_library:
        options.register_custom_ops_library(str(onnx_library_path()))
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def tables(k: int, n: int, dtype: type = np.float32) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    a, d, beta = (rng.standard_normal((k, n)).astype(dtype) for _ in range(3))
    perm = np.stack([rng.permutation(n) for _ in range(k)])[1:]
    return {"a": a, "d": d, "beta": beta, "perm": perm}


@pytest.mark.parametrize("index", [np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64])
def test_tables_may_be_inputs_and_indices_of_any_type(index: type) -> None:
    values = tables(3, 30)
    values["perm"] = values["perm"].astype(index)
    x = np.random.default_rng(1).standard_normal((5, 30)).astype(np.float32)
    model = node_model(TensorProto.FLOAT, values, constant=False)
    [expected] = load(model, with_library=False).run(None, {"x": x, **values})
    [found] = load(model).run(None, {"x": x, **values})
    assert_equal(torch.from_numpy(found), torch.from_numpy(expected))
    [again] = load(node_model(TensorProto.FLOAT, values)).run(None, {"x": x})
    assert np.array_equal(again, found)


@pytest.mark.parametrize(("dtype", "element"), [(np.float64, TensorProto.DOUBLE), (np.float16, TensorProto.FLOAT16)])
def test_a_node_that_a_tool_has_converted_still_loads(dtype: type, element: int) -> None:
    values = tables(2, 30, dtype)
    x = np.random.default_rng(1).standard_normal((5, 30)).astype(dtype)
    before = native.onnx_kernels()
    [found] = load(node_model(element, values)).run(None, {"x": x})
    assert native.onnx_kernels() == before + 1
    exact = {name: value.astype(np.float32) if value.dtype == dtype else value for name, value in values.items()}
    [expected] = load(node_model(TensorProto.FLOAT, exact)).run(None, {"x": x.astype(np.float32)})
    assert found.dtype == dtype
    assert np.array_equal(found, expected.astype(dtype))


def test_every_half_is_read_and_rounded_as_numpy_does() -> None:
    """A cascade of one number is a product: ``x · a · d``."""
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)[:, None]
    third = np.float16(1 / 3)
    values = {"a": np.full((1, 1), third), "d": np.ones((1, 1), np.float16)}
    [found] = load(node_model(TensorProto.FLOAT16, values)).run(None, {"x": every})
    with np.errstate(invalid="ignore"):  # signalling NaNs
        expected = (every.astype(np.float32) * np.float32(third)).astype(np.float16)
    np.testing.assert_array_equal(found, expected)


def test_bfloat16_is_read_and_rounded_to_the_nearest() -> None:
    x = torch.cat((torch.randn(1000) * 10.0 ** torch.randint(-30, 30, (1000,)), torch.tensor([0.0, -0.0, torch.inf])))
    values = {"a": np.full((1, 1), 1 / 3, np.float32), "d": np.ones((1, 1), np.float32)}
    session = load(node_model(TensorProto.BFLOAT16, values, cast=True))
    [found] = session.run(None, {"x": x[:, None].numpy()})
    expected = (x.bfloat16().float() * torch.tensor(1 / 3).bfloat16().float()).bfloat16().float()
    torch.testing.assert_close(torch.from_numpy(found)[:, 0], expected, rtol=0, atol=0)


def spoilt(name: str, value: np.ndarray | None = None, **attributes: Any) -> bytes:
    values = tables(2, 6)
    if value is not None:
        values[name] = value
    return node_model(TensorProto.FLOAT, values, **attributes)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (spoilt("perm", np.array([[0, 1, 2, 3, 4, 6]])), "perm holds 6, not below 6"),
        (spoilt("perm", np.array([[0, 1, 2, 3, 4, -1]])), "perm holds -1"),
        (spoilt("perm", np.array([[0, 1, 2, 3, 4]])), "perm holds 5 numbers, not 6"),
        (spoilt("d", np.zeros((2, 7), np.float32)), "d holds 14 numbers, not 12"),
        (spoilt("", basis="haar"), "no basis 'haar'"),
        (spoilt("", bias=0), "other than its attributes say"),
    ],
    ids=["above", "below", "few", "many", "basis", "bias"],
)
def test_a_node_that_contradicts_itself_is_refused_in_words(model: bytes, words: str) -> None:
    with pytest.raises(Exception, match=words):
        load(model)


def test_an_input_wider_than_the_layer_is_refused_in_words() -> None:
    session = load(node_model(TensorProto.FLOAT, tables(2, 6), width=7))
    with pytest.raises(Exception, match="ACDC: an argument is out of range"):
        session.run(None, {"x": np.zeros((2, 7), np.float32)})


def test_two_sessions_in_two_threads_do_not_disturb_each_other(tmp_path: Path) -> None:
    made, wrong = [], []
    for i, (method, n) in enumerate((("acdc", 96), ("fastfood", 64))):
        path = tmp_path / f"{i}.onnx"
        save_onnx(nn.Sequential(layer(method, {}, n, n), layer(method, {}, n, n)), (torch.zeros(2, n),), path)
        session = compressor.onnx_session(path, threads=2)
        x = torch.randn(300, n)
        made.append((session, x, {rows: run(session, x[:rows]) for rows in (1, 7, 300, 64)}))

    def repeat(session: onnxruntime.InferenceSession, x: Tensor, expected: dict[int, Tensor]) -> None:
        for rows in list(expected) * 8:
            if not torch.equal(run(session, x[:rows]), expected[rows]):
                wrong.append(rows)

    threads = [threading.Thread(target=repeat, args=entry) for entry in made * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


WORKERS = """
import os, sys, numpy, onnxruntime, compressor
session = compressor.onnx_session(sys.argv[1], threads=3)
before = len(os.listdir("/proc/self/task"))
for _ in range(20):
    session.run(None, {session.get_inputs()[0].name: numpy.ones((2000, 512), numpy.float32)})
print(before, len(os.listdir("/proc/self/task")))
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="tells threads by /proc")
@pytest.mark.skipif(os.cpu_count() == 1, reason="one processor has no second thread")
@pytest.mark.parametrize("method", METHODS)
def test_work_is_done_on_the_threads_of_onnxruntime_and_on_no_others(method: str, tmp_path: Path) -> None:
    save_onnx(layer(method, {}, 512, 512), (torch.zeros(2, 512),), tmp_path / "model.onnx")
    command = [sys.executable, "-c", WORKERS, str(tmp_path / "model.onnx")]
    before, after = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert after == before


def test_options_serve_for_two_sessions(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    save_onnx(layer("acdc", {}, 21, 21), (torch.zeros(2, 21),), path)
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(str(onnx_library_path()))
    x = torch.randn(3, 21)
    first, second = (onnxruntime.InferenceSession(str(path), options) for _ in range(2))
    assert torch.equal(run(first, x), run(second, x))
    options = onnxruntime.SessionOptions()
    third, fourth = (compressor.onnx_session(path, options=options) for _ in range(2))
    assert torch.equal(run(third, x), run(fourth, x))


CHILD = """
import sys, numpy, compressor
from compressor_kernels import native
session = compressor.onnx_session(sys.argv[1])
numpy.save(sys.argv[2], session.run(None, {session.get_inputs()[0].name: numpy.load(sys.argv[3])})[0])
print(native.library() and native.onnx_kernels())
"""


@pytest.mark.parametrize(
    ("variable", "value", "words", "made"),
    [
        ("COMPRESSOR_KERNELS_ORT_API", "9999", "has not the interface", "0"),
        ("COMPRESSOR_KERNELS", "reference", "not built, or COMPRESSOR_KERNELS=reference", "None"),
    ],
)
def test_without_the_interface_or_the_library_the_bodies_run_and_a_warning_says_so(
    variable: str, value: str, words: str, made: str, tmp_path: Path
) -> None:
    path, x = tmp_path / "model.onnx", torch.randn(3, 21)
    save_onnx(layer("acdc", {}, 21, 21), (x[:2],), path)
    np.save(tmp_path / "x.npy", x.numpy())
    files = [str(tmp_path / name) for name in ("model.onnx", "y.npy", "x.npy")]
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *files],
        env=os.environ | {variable: value},
        check=True,
        capture_output=True,
        text=True,
    )
    assert "RuntimeWarning: no native operators" in done.stderr
    assert words in done.stderr
    assert done.stdout.strip() == made
    expected = run(compressor.onnx_session(path, native=False), x)
    assert torch.equal(torch.from_numpy(np.load(tmp_path / "y.npy")), expected)


def test_a_session_with_the_library_warns_of_nothing(tmp_path: Path) -> None:
    save_onnx(layer("acdc", {}, 5, 5), (torch.zeros(2, 5),), tmp_path / "model.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compressor.onnx_session(tmp_path / "model.onnx")


def test_a_file_that_is_missing_or_no_model_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty.onnx").write_bytes(b"no model")
    for name, words in (("absent.onnx", "no such file"), ("empty.onnx", "does not load")):
        with pytest.raises(compressor.CompressorError, match=words) as caught:
            compressor.onnx_session(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_our_declaration_agrees_with_the_headers_of_onnxruntime() -> None:
    folders = [os.environ.get("ONNXRUNTIME_INCLUDE", ""), "/usr/include/onnxruntime", "/usr/local/include/onnxruntime"]
    found = next((folder for folder in folders if folder and (Path(folder) / "onnxruntime_c_api.h").is_file()), None)
    if found is None:
        pytest.skip("no headers of onnxruntime: set ONNXRUNTIME_INCLUDE to the folder of onnxruntime_c_api.h")
    source = ROOT / "kernels" / "ort" / "check_headers.cpp"
    subprocess.run(["g++", "-std=c++17", "-fsyntax-only", "-I", found, str(source)], check=True)
