"""What `inspect` says of a model: all its numbers, and a table that can be read at any width."""

from __future__ import annotations

import io
import itertools
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from torch import nn

from compressor import CompressorError
from compressor.console import inspection_tables
from compressor.inspection import Inspection, inspect
from compressor.layers import methods
from compressor.pipeline import make_recipe

node = helper.make_node


def saved(path: Path, nodes: list[onnx.NodeProto], stored: dict[str, np.ndarray]) -> str:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 16]) for name in "xy")
    arrays = [numpy_helper.from_array(array, name) for name, array in stored.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "g", [x], [y], arrays), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return str(path)


def branches(weight: np.ndarray) -> onnx.NodeProto:
    """An If node, both branches of which multiply by a weight of their own."""
    graphs = {}
    for name in ("then", "else"):
        out = helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, ["n", 16])
        constant = node("Constant", [], [f"{name}_w"], value=numpy_helper.from_array(weight))
        product = node("MatMul", ["x", f"{name}_w"], [f"{name}_out"])
        graphs[f"{name}_branch"] = helper.make_graph([constant, product], name, [], [out])
    return node("If", ["yes"], ["h"], **graphs)


def test_all_numbers_of_a_graph_are_counted(tmp_path: Path) -> None:
    weight = np.ones((16, 16), np.float32)
    nodes = [branches(weight), node("Add", ["h", "shift"], ["z"]), node("MatMul", ["z", "w"], ["y"], name="fc")]
    stored = {"yes": np.array(True), "shift": np.ones(16, np.float32), "w": weight}
    found = inspect(make_recipe(model=saved(tmp_path / "net.onnx", nodes, stored)))
    assert found.params == 3 * 256 + 16 + 1
    assert found.dense_params == 256
    assert found.dense_maps[0].share == 256 / found.params
    assert found.notes == ["left as they are: 2 dense maps in branches and loops"]


def test_a_graph_with_dense_maps_in_branches_alone_is_refused_with_the_reason(tmp_path: Path) -> None:
    nodes = [branches(np.ones((16, 16), np.float32)), node("Relu", ["h"], ["y"])]
    path = saved(tmp_path / "net.onnx", nodes, {"yes": np.array(True)})
    with pytest.raises(CompressorError, match=r"no dense layers.*; left as they are: 2 dense maps in branches"):
        inspect(make_recipe(model=path))


@pytest.fixture(scope="module")
def several() -> Inspection:
    """Of a network with seven shapes, one of them twice and one without a bias too."""
    sides = [20, 300, 20, 40, 2000, 40, 40, 20, 300]
    maps = [nn.Linear(rows, out) for rows, out in itertools.pairwise(sides)]
    network = nn.Sequential(*maps, nn.Linear(300, 20, bias=False))
    return inspect(make_recipe(input_shape={"input": (1, 20)}), model=network)


@pytest.mark.parametrize("width", [60, 80, 120, 400])
def test_the_offers_can_be_read_at_any_width(several: Inspection, width: int) -> None:
    _, *offers = inspection_tables(several, width)
    assert len(offers) == {60: 3, 80: 2, 120: 1, 400: 1}[width]
    console = Console(width=width, record=True, file=io.StringIO())
    for table in offers:
        console.print(table)
    text = console.export_text()
    assert "…" not in text
    heads = [column.header for table in offers for column in table.columns[1:]]
    assert heads == [
        "20 → 300", "300 → 20", "20 → 40", "40 → 2000", "2000 → 40", "40 → 40", "40 → 20", "300 → 20, no bias",
    ]  # fmt: skip
    for name in methods():
        assert text.count(f" {name} ") == len(offers)
    cells: dict[str, list[object]] = {name: [] for name in ("dense", "monarch", "sparse_fc")}
    for table in offers:
        names = list(table.columns[0].cells)
        for column in table.columns[1:]:
            for name, found in cells.items():
                found.append(list(column.cells)[names.index(name)])
    by_shape = {(row.in_features, row.out_features, row.bias): row for row in several.dense_maps}
    assert cells["dense"] == [f"{row.params:,}" for row in by_shape.values()]
    assert cells["monarch"] == [f"{row.offers['monarch'].params:,}" for row in by_shape.values()]
    assert cells["sparse_fc"] == ["–"] * len(by_shape)
