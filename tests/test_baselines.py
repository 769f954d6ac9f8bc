"""The int8 baseline: what it writes loads, or it is refused before anything is fitted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from compressor import CompressorError, compress
from compressor.baselines import quantize_int8


def product(path: Path, kind: type) -> Path:
    """One product with a stored matrix, in the type ``kind``."""
    elem = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    w = numpy_helper.from_array(np.random.default_rng(0).normal(size=(16, 16)).astype(kind), "w")
    x, y = (helper.make_tensor_value_info(name, elem, ["n", 16]) for name in "xy")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"], "fc")], "g", [x], [y], [w])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def test_a_product_is_written_in_8_bits(tmp_path: Path) -> None:
    quantize_int8(product(tmp_path / "a.onnx", np.float32), tmp_path / "b.onnx")
    assert "MatMulInteger" in [node.op_type for node in onnx.load(tmp_path / "b.onnx").graph.node]


@pytest.mark.parametrize(
    ("kind", "why"), [(np.float16, "onnxruntime cannot quantise the original"), (np.float64, "quantises nothing")]
)
def test_what_cannot_be_quantised_is_refused_before_the_fit(tmp_path: Path, kind: type, why: str) -> None:
    stages: list[str] = []

    def progress(title: str, total: int | None = None) -> None:
        stages.append(title)
        raise AssertionError("nothing may be begun")

    path, x = product(tmp_path / "net.onnx", kind), np.zeros((40, 16), kind)
    with pytest.raises(CompressorError, match=rf"^int8: .*{why}.*; ask for other baselines"):
        compress(path, "svd", settings={"rank": 2}, target=("fc",), data=x, baselines=("int8",), progress=progress,
                 output=tmp_path / "out")  # type: ignore[arg-type]  # fmt: skip
    assert stages == []
    assert sorted(one.name for one in tmp_path.iterdir()) == ["net.onnx"]
