"""Files that try to run code when they are read, each with the answer it must get.

Every file is written by a program below. None may leave the marker, whatever else happens.
"""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from compressor_converters.load import load_model
from compressor_converters.pt2 import load_pt2
from tests.hostile_programs import (
    CONSTANTS,
    MODEL,
    WEIGHTS,
    Touch,
    edit,
    graph,
    network,
    refused,
    rewrite,
    torch_bytes,
)

# --- pickles ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.pt", "model.pth", "model.bin", "model"])
@pytest.mark.parametrize("new_format", [True, False])
def test_a_pickle_that_runs_code_is_refused(tmp_path: Path, marker: Path, name: str, new_format: bool) -> None:
    path = tmp_path / name
    torch.save({"0.weight": Touch(marker)}, path, _use_new_zipfile_serialization=new_format)
    refused(path, "--unsafe-load", arch="nets.py:mlp")


def test_a_bare_pickle_that_runs_code_is_refused(tmp_path: Path, marker: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(pickle.dumps(Touch(marker)))
    refused(path, "--unsafe-load")


def test_a_pickled_module_is_refused_and_the_way_out_is_named(tmp_path: Path, marker: Path) -> None:
    torch.save(network(), tmp_path / "model.pt")
    refused(tmp_path / "model.pt", "Sequential", "--unsafe-load", "--arch")


def test_a_pickle_in_a_file_named_safetensors_is_refused(tmp_path: Path, marker: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(pickle.dumps(Touch(marker)))
    refused(path, "safetensors")


# --- code in exported programs ------------------------------------------------------------------


def test_the_program_itself_is_read(tmp_path: Path, program: bytes) -> None:
    path = rewrite(program, tmp_path / "model.pt2", lambda entries: None)
    x = torch.randn(3, 7)
    torch.testing.assert_close(load_model(str(path)).model(x), network()(x))


def test_a_pickled_weight_is_refused(tmp_path: Path, marker: Path, program: bytes) -> None:
    def change(entries: dict[str, bytes]) -> None:
        edit(WEIGHTS, lambda config: config["config"]["0.weight"].update(use_pickle=True, tensor_meta=None))(entries)
        entries["data/weights/weight_0"] = torch_bytes(Touch(marker))

    refused(rewrite(program, tmp_path / "model.pt2", change), "'0.weight' is stored as a pickle")


def test_example_inputs_that_run_code_are_not_read(tmp_path: Path, marker: Path, program: bytes) -> None:
    def change(entries: dict[str, bytes]) -> None:
        entries["data/sample_inputs/model.pt"] = torch_bytes((Touch(marker),))

    path = rewrite(program, tmp_path / "model.pt2", change)
    assert load_model(str(path)).model(torch.randn(2, 7)).shape == (2, 3)


def test_weights_in_the_older_pickled_format_are_refused(tmp_path: Path, marker: Path, program: bytes) -> None:
    def change(entries: dict[str, bytes]) -> None:
        entries["data/weights/model.pt"] = torch_bytes({"0.weight": Touch(marker)})

    refused(rewrite(program, tmp_path / "model.pt2", change), "data/weights/model.pt", "pickle")


@pytest.mark.parametrize("kind", ["custom_obj_0", "opaque_obj_0"])
def test_a_custom_object_is_refused(tmp_path: Path, marker: Path, program: bytes, kind: str) -> None:
    def change(entries: dict[str, bytes]) -> None:
        entries[f"data/constants/{kind}"] = pickle.dumps(Touch(marker))
        entry = {"path_name": kind, "is_param": False, "use_pickle": True, "tensor_meta": None}
        edit(CONSTANTS, lambda config: config["config"].update({"thing": entry}))(entries)

    refused(rewrite(program, tmp_path / "model.pt2", change), "custom object")


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os').system('touch marker')",
        "Symbol('s0', positive=True).__class__",
        "[x for x in ().__class__.__base__.__subclasses__()]",
        "Symbol(\"s0'+__import__('os').system('touch marker')+'\")",
        'Integer(\'__import__("os").system("touch marker")\')',
        "Pow(Pow(Pow(Pow(Integer(9), 999), 999), 999), 999)",
        "lambda: 1",
        "Symbol('s0', positive=exec('1'))",
        "Symbol(*['s0'])",
        "f'{1}'",
        "(" * 3000 + "s0" + ")" * 3000,
        7,
    ],
)
def test_a_symbolic_size_that_is_code_is_refused(tmp_path: Path, marker: Path, program: bytes, expression: Any) -> None:
    def change(model: Any) -> None:
        graph(model)["tensor_values"]["input"]["sizes"][0]["as_expr"]["expr_str"] = expression

    refused(rewrite(program, tmp_path / "model.pt2", edit(MODEL, change)), "symbolic size")


def test_a_range_named_by_code_is_refused(tmp_path: Path, marker: Path, program: bytes) -> None:
    def change(model: Any) -> None:
        model["range_constraints"] = {"__import__('os').system('touch marker')": {"min_val": 0, "max_val": 9}}

    refused(rewrite(program, tmp_path / "model.pt2", edit(MODEL, change)), "symbolic size")


@pytest.mark.parametrize(
    "target",
    [
        "torch.os.system",
        "torch.hub.load",
        "torch.load",
        "_operator.attrgetter",
        "_operator.methodcaller",
        "math.__class__",
        "torch.ops.aten.from_file.default",
        "torch.ops.load_library",
        "torch.ops.aten.relu.default.__class__",
        "torch.ops.higher_order.triton_kernel_wrapper_functional",
        "#anything:else",
        ["torch.os.system"],
    ],
)
def test_an_operator_that_is_not_on_tensors_is_refused(
    tmp_path: Path, marker: Path, program: bytes, target: Any
) -> None:
    def change(model: Any) -> None:
        graph(model)["nodes"][1]["target"] = target
        graph(model)["nodes"][1]["inputs"][0]["arg"] = {"as_string": "touch marker"}

    refused(rewrite(program, tmp_path / "model.pt2", edit(MODEL, change)), "it calls")


def test_an_operator_as_an_argument_is_checked_as_well(tmp_path: Path, marker: Path, program: bytes) -> None:
    def change(model: Any) -> None:
        graph(model)["nodes"][1]["inputs"][0]["arg"] = {"as_operator": "torch.os.system"}

    refused(rewrite(program, tmp_path / "model.pt2", edit(MODEL, change)), "torch.os.system")


def test_guards_which_are_python_source_are_not_run(tmp_path: Path, marker: Path, program: bytes) -> None:
    def change(model: Any) -> None:
        model["guards_code"] = ["__import__('os').system('touch marker') == 0"]

    path = rewrite(program, tmp_path / "model.pt2", edit(MODEL, change))
    load_model(str(path)).model(torch.randn(2, 7))
    load_pt2(path).module()(torch.randn(2, 7))


@pytest.mark.parametrize(
    "tree",
    [
        {"type": "collections.defaultdict", "context": '{"default_factory_module": "antigravity"}'},
        {"type": "builtins.dict", "context": '[{"__enum__": true, "fqn": "antigravity:x"}]'},
        {"type": "builtins.dict", "context": '["x): __import__(\\"os\\")"]'},
        {"type": "some.package.Output", "context": "null"},
        {"type": ["builtins.dict"], "context": "null"},
    ],
)
def test_a_structure_that_needs_an_import_is_refused(
    tmp_path: Path, marker: Path, program: bytes, tree: dict[str, Any]
) -> None:
    def change(model: Any) -> None:
        signature = model["graph_module"]["module_call_graph"][0]["signature"]
        leaf = {"type": None, "context": None, "children_spec": []}
        signature["out_spec"] = json.dumps([1, {**tree, "children_spec": [leaf]}])

    refused(rewrite(program, tmp_path / "model.pt2", edit(MODEL, change)), "")


def test_a_name_that_breaks_out_of_generated_source_is_refused(tmp_path: Path, marker: Path, program: bytes) -> None:
    def change(model: Any) -> None:
        signature = model["graph_module"]["module_call_graph"][0]["signature"]
        signature["forward_arg_names"] = ["input=__import__('os').system('touch marker')"]

    refused(rewrite(program, tmp_path / "model.pt2", edit(MODEL, change)), "forward_arg_names")

    evil = "0.w\"), __import__('os').system('touch marker'), (\""

    for name, word in ((MODEL, "not a plain name"), (WEIGHTS, "a weight is named")):

        def rename(entries: dict[str, bytes], name: str = name) -> None:
            entries[name] = entries[name].replace(b'"0.weight"', json.dumps(evil).encode())

        refused(rewrite(program, tmp_path / "other.pt2", rename), word)
