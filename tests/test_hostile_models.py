"""Files that try to run code, to fill the memory or to pass for something else, each with the answer it must get.

Every file is written by a program below. None may leave the marker, whatever else happens.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from compressor.errors import CompressorError
from compressor_converters.load import load_model
from compressor_converters.pt2 import check_pt2, load_pt2, save_pt2

NETS = """
from torch import nn

def mlp():
    return nn.Sequential(nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 3))
"""


class Touch:
    """Makes the file ``path`` when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (f"touch {self.path}",))


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(NETS)
    path = tmp_path / "marker"
    yield path
    assert not path.exists(), "the file has run code"


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 3)).eval()


@pytest.fixture(scope="module")
def program() -> bytes:
    """An exported program as torch writes it."""
    dynamic = ({0: torch.export.Dim("batch", min=1)},)
    out = io.BytesIO()
    torch.export.save(torch.export.export(network(), (torch.randn(4, 7),), dynamic_shapes=dynamic, strict=False), out)
    return out.getvalue()


Change = Callable[[dict[str, bytes]], None]


def rewrite(program: bytes, path: Path, change: Change, *, compress: bool = False) -> Path:
    """The entries of ``program`` (names without the folder) after ``change``, as a new archive."""
    with zipfile.ZipFile(io.BytesIO(program)) as file:
        entries = {name.split("/", 1)[1]: file.read(name) for name in file.namelist()}
    change(entries)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED) as file:
        for name, content in entries.items():
            file.writestr(name[1:] if name.startswith("!") else f"m/{name}", content)
    return path


def edit(name: str, change: Callable[[Any], None]) -> Change:
    """Change the JSON entry ``name``."""

    def run(entries: dict[str, bytes]) -> None:
        value = json.loads(entries[name])
        change(value)
        entries[name] = json.dumps(value).encode()

    return run


MODEL = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"


def graph(model: Any) -> Any:
    return model["graph_module"]["graph"]


def torch_bytes(value: object) -> bytes:
    out = io.BytesIO()
    torch.save(value, out)
    return out.getvalue()


def refused(path: Path, *words: str, **options: Any) -> None:
    """The file is refused in one line that says which file and why."""
    with pytest.raises(CompressorError) as caught:
        load_model(str(path), **options)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    message = str(caught.value).replace(str(path), "")  # the folder is named after the test
    for word in words:
        assert word in message, f"{word!r} not in {message!r}"


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


# --- sizes and names that lie -------------------------------------------------------------------


def test_a_zip_bomb_is_refused_before_it_unfolds(tmp_path: Path, marker: Path, program: bytes) -> None:
    def change(entries: dict[str, bytes]) -> None:
        entries["data/weights/weight_0"] = bytes(50_000_000)

    path = rewrite(program, tmp_path / "model.pt2", change, compress=True)
    assert path.stat().st_size < 1_000_000
    refused(path, "compressed", "50,000,000")


def test_a_zip_bomb_named_as_a_state_dict_is_refused(tmp_path: Path, marker: Path) -> None:
    whole = tmp_path / "whole.pt"
    torch.save({"0.weight": torch.zeros(2_000_000)}, whole)
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(whole) as file, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        for name in file.namelist():
            out.writestr(name, file.read(name))
    refused(path, "compressed", arch="nets.py:mlp")


def test_entries_that_claim_the_same_bytes_twice_are_refused(tmp_path: Path, marker: Path) -> None:
    path = tmp_path / "model.pt2"
    with zipfile.ZipFile(path, "w") as out:
        out.writestr("m/models/model.json", bytes(100_000))
        first = out.filelist[0]
        for number in range(50):
            twin = zipfile.ZipInfo(f"m/data/weights/weight_{number}")
            twin.header_offset, twin.CRC = first.header_offset, first.CRC
            twin.file_size = twin.compress_size = first.file_size
            out.filelist.append(twin)
    refused(path, "its entries claim")


@pytest.mark.parametrize("name", ["!../../marker", "!/marker", "data/../../../marker", "!m\\..\\marker"])
def test_an_entry_that_leads_outside_is_refused(tmp_path: Path, marker: Path, program: bytes, name: str) -> None:
    refused(rewrite(program, tmp_path / "model.pt2", lambda entries: entries.update({name: b"x"})), "leads outside")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_entries_of_one_name_are_refused(tmp_path: Path, marker: Path, program: bytes) -> None:
    path = rewrite(program, tmp_path / "model.pt2", lambda entries: None)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("m/models/model.json", b"{}")
    refused(path, "two entries")


def test_compiled_code_in_the_archive_is_refused(tmp_path: Path, marker: Path, program: bytes) -> None:
    change = {"data/aotinductor/model/code.so": b"\x7fELF"}
    refused(rewrite(program, tmp_path / "model.pt2", lambda entries: entries.update(change)), "machine code")


def test_an_unknown_entry_is_refused_by_name(tmp_path: Path, marker: Path, program: bytes) -> None:
    refused(rewrite(program, tmp_path / "model.pt2", lambda entries: entries.update({"new/thing": b"x"})), "new/thing")


def _huge(meta: Any) -> None:
    meta["sizes"], meta["strides"] = [{"as_int": 1 << 40}], [{"as_int": 0}]


def _beyond(meta: Any) -> None:
    meta["storage_offset"] = {"as_int": 1 << 20}


def _negative(meta: Any) -> None:
    meta["strides"] = [{"as_int": -1}, {"as_int": 1}]


@pytest.mark.parametrize(("lie", "word"), [(_huge, "claims"), (_beyond, "claims"), (_negative, "shape")])
def test_a_tensor_larger_than_its_bytes_is_refused(
    tmp_path: Path, marker: Path, program: bytes, lie: Callable[[Any], None], word: str
) -> None:
    def change(config: Any) -> None:
        lie(config["config"]["0.weight"]["tensor_meta"])

    refused(rewrite(program, tmp_path / "model.pt2", edit(WEIGHTS, change)), "0.weight", word)


def test_an_empty_tensor_entry_does_not_make_memory(tmp_path: Path, marker: Path, program: bytes) -> None:
    path = rewrite(program, tmp_path / "model.pt2", lambda entries: entries.update({"data/weights/weight_0": b""}))
    refused(path, "0.weight", "its entry has 0")


@pytest.mark.parametrize("part", [0.02, 0.3, 0.6, 0.99])
@pytest.mark.parametrize("name", ["model.pt2", "model.pt"])
def test_a_file_that_is_cut_off_is_refused(
    tmp_path: Path, marker: Path, program: bytes, part: float, name: str
) -> None:
    whole = program if name == "model.pt2" else torch_bytes(network().state_dict())
    (tmp_path / name).write_bytes(whole[: int(part * len(whole))])
    refused(tmp_path / name, arch="nets.py:mlp")


def test_a_program_with_random_changes_is_read_or_refused(tmp_path: Path, marker: Path, program: bytes) -> None:
    path = rewrite(program, tmp_path / "whole.pt2", lambda entries: None)
    whole = path.read_bytes()
    draw = random.Random(0)
    answers = set()
    for _ in range(150):
        broken = bytearray(whole)
        for _ in range(draw.choice([1, 3, 20])):
            broken[draw.randrange(len(broken))] = draw.choice(b'"\\{}[]0\x00\xff(')
        (tmp_path / "broken.pt2").write_bytes(broken)
        try:
            load_pt2(tmp_path / "broken.pt2")
            answers.add("read")
        except CompressorError:
            answers.add("refused")
    assert answers == {"read", "refused"}


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in inner for place in _places(item, (*path, key)))]


def test_a_program_with_values_of_another_kind_is_checked_or_refused(
    tmp_path: Path, marker: Path, program: bytes
) -> None:
    draw = random.Random(1)

    def spoil(value: Any) -> None:
        *way, last = draw.choice(_places(value)[1:])
        for key in way:
            value = value[key]
        value[last] = draw.choice([None, [], {}, [{}], 3, "x", "__import__('os')", True, [["x"]], -1.5])

    answers = set()
    for number in range(300):
        path = rewrite(program, tmp_path / "spoiled.pt2", edit([MODEL, WEIGHTS][number % 2], spoil))
        try:
            check_pt2(path)
            answers.add("passed")
        except CompressorError:
            answers.add("refused")
    assert answers == {"passed", "refused"}


# --- files that are something else --------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.pt2", "model.pt", "model.safetensors", "model.txt"])
@pytest.mark.parametrize("content", [b"", b"this is a text\n" * 20, b"\x00" * 64, b"PK\x03\x04" + b"\x00" * 60])
def test_a_file_without_a_model_is_refused(tmp_path: Path, marker: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, arch="nets.py:mlp")


@pytest.mark.parametrize("length", [0, 1, 2**20, 2**63 - 1, 2**64 - 1])
def test_a_safetensors_file_whose_header_lies_is_refused(tmp_path: Path, marker: Path, length: int) -> None:
    header = json.dumps({"0.weight": {"dtype": "F32", "shape": [5, 7], "data_offsets": [0, 140]}}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", length) + header + bytes(140))
    refused(path, "safetensors", arch="nets.py:mlp")


def test_a_safetensors_file_whose_offsets_lie_is_refused(tmp_path: Path, marker: Path) -> None:
    header = json.dumps({"0.weight": {"dtype": "F32", "shape": [1 << 30], "data_offsets": [0, 1 << 32]}}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(140))
    refused(path, "safetensors", arch="nets.py:mlp")


def test_a_torchscript_archive_is_refused_without_the_code_of_its_network(tmp_path: Path, marker: Path) -> None:
    torch.jit.save(torch.jit.trace(network(), torch.randn(2, 7)), tmp_path / "model.pt")
    refused(tmp_path / "model.pt", "torch.jit.save", "--arch")


def test_arrays_are_not_taken_for_a_model(tmp_path: Path, marker: Path) -> None:
    np.savez(tmp_path / "data.npz", x=np.zeros(3))
    refused(tmp_path / "data.npz", "--data")


def test_an_onnx_file_is_refused_by_its_name(tmp_path: Path, marker: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"\x08\x07\x12\x07pytorch")
    refused(tmp_path / "model.onnx", "ONNX")


# --- models that cannot be compressed -----------------------------------------------------------


def test_a_compressed_safetensors_file_is_refused(tmp_path: Path, marker: Path) -> None:
    save_file({"0.weight": torch.zeros(5, 7)}, tmp_path / "model.safetensors", metadata={"compressor": "{}"})
    refused(tmp_path / "model.safetensors", "compressed already", arch="nets.py:mlp")


def test_a_compressed_program_is_refused(tmp_path: Path, marker: Path) -> None:
    save_pt2(network(), (torch.randn(2, 7),), tmp_path / "model.pt2")
    refused(tmp_path / "model.pt2", "compressed already")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["model.pt", "model.safetensors"])
def test_weights_that_are_no_numbers_are_refused_by_name(tmp_path: Path, marker: Path, name: str, value: float) -> None:
    state = network().state_dict()
    state["2.weight"][1, 2] = value
    (save_file if name.endswith("safetensors") else torch.save)(state, tmp_path / name)
    refused(tmp_path / name, "'2.weight'", "1 values of 15", arch="nets.py:mlp")
