"""What an exported program (.pt2) may hold before torch is let near it.

Reading one with `torch.export.load` can run code: payloads may be pickles (and the reader falls back to
unrestricted unpickling), custom objects are unpickled, symbolic sizes go through `sympy.sympify` (an
``eval``), tree specifications import modules, operators are looked up by path from ``torch`` (so that
``torch.os.system`` is one), and names end up in generated Python source. So nothing is loaded from the file
itself: what is known to be harmless is written into a fresh archive, and anything else is refused.
"""

from __future__ import annotations

import ast
import json
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

MARK = "extra/compressor"  # an entry that the files written here carry

_MODEL = "models/model.json"
_CONFIGS = {
    "weight": "data/weights/model_weights_config.json",
    "tensor": "data/constants/model_constants_config.json",
}
_PAYLOAD = re.compile(r"data/(weights/weight|constants/tensor)_\d+")
_IGNORED = re.compile(r"data/sample_inputs/model\.pt|\.data/(version|serialization_id)|byteorder|extra/[\w.-]+")
_JSON_LIMIT = 1 << 27  # bytes

_WORD = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_FQN = re.compile(r"[\w.-]+", re.ASCII)
_TEXT = re.compile(r"[\w .,:;<>=+*/()\[\]@-]*", re.ASCII)  # nothing that can end a string or a line of code
_SYMBOL = re.compile(r"[suz][f]?\d+")

_OPERATOR = re.compile(
    r"torch\.ops\.(aten|prims)\.((?!__)\w+|__i?(?:and|or|xor|lshift|rshift)__)\.([A-Za-z]\w*)", re.ASCII
)
_FORBIDDEN = {"from_file", "_print", "record_stream"}
_PLAIN = {
    *(f"_operator.{name}" for name in (
        "add", "sub", "mul", "floordiv", "truediv", "mod", "neg", "pow", "getitem",
        "eq", "ne", "lt", "le", "gt", "ge", "and_", "or_", "not_",
    )),
    *(f"math.{name}" for name in ("ceil", "floor", "trunc", "sqrt")),
    *(f"torch.{name}" for name in (
        "sym_int", "sym_float", "sym_max", "sym_min", "sym_not", "sym_ite", "sym_sum", "sym_sqrt", "_sym_sqrt",
    )),
    *(f"torch.ops.higher_order.{name}" for name in ("wrap_with_set_grad_enabled", "wrap_with_autocast", "cond")),
}  # fmt: skip

_FUNCTIONS = {
    "Symbol", "Integer", "Float", "Rational", "Add", "Mul", "Pow", "Max", "Min", "Mod", "Eq", "Ne",
    "Lt", "Le", "Gt", "Ge", "And", "Or", "Not", "Equality", "Unequality", "LessThan", "GreaterThan",
    "StrictLessThan", "StrictGreaterThan", "FloorDiv", "ModularIndexing", "Where", "PythonMod", "CleanDiv",
    "CeilToInt", "FloorToInt", "CeilDiv", "FloatTrueDiv", "IntTrueDiv", "TruncToFloat", "TruncToInt",
    "RoundToInt", "ToFloat", "Identity", "ceiling", "floor",
}  # fmt: skip
_CONSTANTS = {"true", "false", "oo", "int_oo", "True", "False"}
_SYNTAX = (
    ast.Expression, ast.Call, ast.Name, ast.Load, ast.Constant, ast.keyword, ast.UnaryOp, ast.USub, ast.UAdd, ast.Not,
    ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow,
    ast.Compare, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE,
)  # fmt: skip
_TREES = {None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict"}


class RefusedError(ValueError):
    """Why an archive is not read."""


@dataclass(frozen=True)
class Archive:
    """The harmless content of an exported program."""

    texts: dict[str, bytes]  # entries made anew: name in the archive -> content
    payloads: dict[str, str]  # entries to copy: name in the archive -> name in the file read
    marked: bool  # written by this project
    root: str = "model/"  # before each name in the archive
    mark: str = MARK  # the name of the entry that says so


def entries(file: zipfile.ZipFile, size: int, *, unread: str | None = None) -> dict[str, zipfile.ZipInfo]:
    """The members of a zip file of ``size`` bytes by name; RefusedError where sizes or names are not honest.

    Only stored (uncompressed) members pass, which is what torch writes, so that nothing can unfold to more
    than the file holds. Members in the folder ``unread`` are left out: they are never read.
    """
    found: dict[str, zipfile.ZipInfo] = {}
    total = 0
    for info in file.infolist():
        name = info.filename
        if name in found:
            raise RefusedError(f"two entries are named '{name[:80]}'")
        if name.startswith("/") or "\\" in name or ".." in name.split("/") or not name.isprintable():
            raise RefusedError(f"the entry name {name[:80]!r} leads outside of the archive")
        if unread is not None and name.split("/")[1:2] == [unread]:
            continue
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise RefusedError(
                f"entry '{name[:80]}' is compressed ({info.file_size:,} bytes when unfolded); torch stores them plain"
            )
        total += info.file_size
        if total > size:
            raise RefusedError(f"its entries claim {total:,} bytes and more, the file has {size:,}")
        found[name] = info
    return found


def is_plain_name(name: str) -> bool:
    """Whether a parameter may be called so: names end up in source code."""
    return bool(_FQN.fullmatch(name))


def cleaned(file: zipfile.ZipFile, size: int) -> Archive:
    """Check everything in an exported program; what may be loaded from it, or RefusedError with the reason."""
    found = entries(file, size)
    roots = {name.split("/", 1)[0] for name in found}
    if len(roots) != 1 or not all("/" in name for name in found):
        raise RefusedError("its entries are not in one folder, as torch.export.save writes them")
    names = {name.split("/", 1)[1]: name for name in found}
    for needed in (_MODEL, *_CONFIGS.values(), "archive_format", "archive_version"):
        if needed not in names:
            raise RefusedError(f"there is no entry '{needed}'")
    for name in names:
        if not (name in (_MODEL, *_CONFIGS.values(), "archive_format", "archive_version") or _PAYLOAD.fullmatch(name)):
            _check_ignored(name)
    if file.read(names["archive_format"])[:8].strip() != b"pt2":
        raise RefusedError("its archive_format is not pt2")
    if "byteorder" in names and file.read(names["byteorder"])[:8] != b"little":
        raise RefusedError("its byte order is not little-endian")
    program = read_json(file, found[names[_MODEL]])
    clean_program(program)
    texts = {_MODEL: dump(program)}
    payloads: dict[str, str] = {}
    for kind, name in _CONFIGS.items():
        config = read_json(file, found[names[name]])
        folder = name.rsplit("/", 1)[0]
        for payload in _check_config(
            config, kind, folder, {name: found[full].file_size for name, full in names.items()}
        ):
            payloads[payload] = names[payload]
        texts[name] = dump(config)
    version = file.read(names["archive_version"])
    if not re.fullmatch(rb"\d{1,4}", version.strip()):
        raise RefusedError("its archive_version is not a number")
    texts |= {"archive_format": b"pt2", "archive_version": version.strip(), "byteorder": b"little"}
    texts |= {"data/sample_inputs/model.pt": b"", ".data/version": b"6\n"}
    return Archive(texts, payloads, MARK in names)


def _check_ignored(name: str) -> None:
    """Entries that are not read at all pass; RefusedError for any other."""
    if _IGNORED.fullmatch(name):
        return
    if name.startswith(("data/constants/custom_obj", "data/constants/opaque_obj")):
        raise RefusedError(f"'{name[:80]}' is a custom object, which is code when read")
    if name.startswith("data/aotinductor/"):
        raise RefusedError("it holds compiled machine code (AOTInductor)")
    if re.fullmatch(r"data/(weights|constants)/[\w.-]+\.pt", name):
        raise RefusedError(f"'{name}' is a pickle of an older format; save the program anew with torch.export.save")
    raise RefusedError(f"unknown entry '{name[:80]}'")


def read_json(file: zipfile.ZipFile, info: zipfile.ZipInfo) -> dict[str, Any]:
    """The JSON object in an entry; RefusedError where it is none."""
    if info.file_size > _JSON_LIMIT:
        raise RefusedError(f"'{info.filename}' has {info.file_size:,} bytes, more than {_JSON_LIMIT:,}")
    try:
        found = json.loads(file.read(info))
    except (ValueError, RecursionError) as error:
        raise RefusedError(f"'{info.filename}' is not valid JSON: {str(error)[:80]}") from None
    if not isinstance(found, dict):
        raise RefusedError(f"'{info.filename}' is not a JSON object")
    return found


def dump(value: object) -> bytes:
    """JSON, as short as it gets."""
    return json.dumps(value, separators=(",", ":")).encode()


# --- the program --------------------------------------------------------------------------------


def clean_program(program: dict[str, Any]) -> None:
    """Drop what is not needed to run ``program`` (in place) and refuse what could run as code."""
    if "guards_code" in program:
        program["guards_code"] = []  # Python source
    module = program.get("graph_module")
    if not isinstance(module, dict):
        raise RefusedError("its program has no graph_module")
    module["metadata"] = {}
    if module.get("treespec_namedtuple_fields"):
        raise RefusedError("its inputs or outputs are named tuples; only tensors in tuples, lists and dicts are read")
    for node in _dicts(program):
        if "metadata" in node:
            stack = (node["metadata"] or {}).get("nn_module_stack") if isinstance(node["metadata"], dict) else None
            keep = isinstance(stack, str) and _TEXT.fullmatch(stack)
            node["metadata"] = {"nn_module_stack": stack} if keep else {}
        for key in ("device", "as_device"):
            if isinstance(node.get(key), dict):
                node[key] = {"type": "cpu", "index": None}
        _check_fields(node)


def _check_fields(node: dict[str, Any]) -> None:
    for key, value in node.items():
        if not _TEXT.fullmatch(key):
            raise RefusedError(f"a key of its program is {key[:60]!r}")
        if key in ("target", "as_operator"):
            _check_operator(value)
        elif key == "expr_str":
            check_expression(value)
        elif key in ("in_spec", "out_spec"):
            _check_tree(value)
        elif key == "range_constraints":
            _check_ranges(value)
        elif key in ("as_custom_obj", "custom_obj", "custom_obj_values"):
            if value:
                raise RefusedError("it uses a custom object, which is code when read")
        elif key in ("name", "as_name", "forward_arg_names"):
            _check_text(key, value, _WORD)
        elif key == "fqn" or key.endswith("_name"):
            _check_text(key, value, _FQN)
        else:
            _check_text(key, value, _TEXT)


def _strings(value: object) -> Iterator[str]:
    """The strings in ``value`` outside of JSON objects."""
    if isinstance(value, list):
        for item in value:
            yield from _strings(item)
    elif isinstance(value, str):
        yield value


def _check_text(key: str, value: object, pattern: re.Pattern[str]) -> None:
    for text in _strings(value):
        if text and not pattern.fullmatch(text):
            raise RefusedError(f"'{key}' in its program is {text[:60]!r}, which is not a plain name")


def _dicts(value: object) -> Iterator[dict[str, Any]]:
    """Every JSON object in ``value``, outer ones first."""
    pending = [value]
    while pending:
        current = pending.pop()
        if isinstance(current, dict):
            yield current
            pending.extend(current.values())
        elif isinstance(current, list):
            pending.extend(current)


def _check_operator(target: object) -> None:
    if isinstance(target, str) and target in _PLAIN:
        return
    match = _OPERATOR.fullmatch(target) if isinstance(target, str) else None
    if match is None or match[2] in _FORBIDDEN:
        raise RefusedError(f"it calls {str(target)[:80]!r}, which is not one of the operators that are let through")
    packet = getattr(getattr(torch.ops, match[1]), match[2], None)
    if not isinstance(getattr(packet, match[3], None), torch._ops.OpOverload):
        raise RefusedError(f"it calls {target!r}, which torch {torch.__version__} does not have")


def check_expression(text: object) -> None:
    """RefusedError where a symbolic size is more than arithmetic on numbers and symbols: torch evaluates it."""
    shown = f"the symbolic size {str(text)[:80]!r}"
    if not isinstance(text, str) or len(text) > 4000:
        raise RefusedError(f"{shown} is not a short expression")
    try:
        nodes = list(ast.walk(ast.parse(text, mode="eval")))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise RefusedError(f"{shown} is not an expression") from None
    powers = 0
    for node in nodes:
        powers += isinstance(node, ast.Pow) or (isinstance(node, ast.Name) and node.id == "Pow")
        fine = isinstance(node, _SYNTAX)
        if isinstance(node, ast.Call):
            fine = isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS
            fine = fine and all(k.arg is not None and isinstance(k.value, ast.Constant) for k in node.keywords)
        elif isinstance(node, ast.Name):
            fine = node.id in _FUNCTIONS | _CONSTANTS or bool(_SYMBOL.fullmatch(node.id))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            fine = bool(_SYMBOL.fullmatch(node.value) or re.fullmatch(r"-?[\d.]{1,20}", node.value))
        elif isinstance(node, ast.Constant):
            fine = isinstance(node.value, bool | float) or (isinstance(node.value, int) and abs(node.value) < 2**63)
        if not fine or powers > 3:
            raise RefusedError(f"{shown} is more than arithmetic on symbols")


def _check_ranges(value: object) -> None:
    if not isinstance(value, dict):
        raise RefusedError("its range_constraints are not an object")
    for key in value:
        check_expression(key)


def _check_tree(text: object) -> None:
    """RefusedError where the structure of inputs or outputs needs a type that would have to be imported."""
    try:
        tree = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        tree = None
    if not isinstance(tree, list) or len(tree) != 2:
        raise RefusedError(f"the structure of its inputs or outputs is {str(text)[:60]!r}")
    for node in _dicts(tree[1]):
        kind, context = node.get("type"), node.get("context")
        if set(node) != {"type", "context", "children_spec"} or kind not in _TREES:
            raise RefusedError(
                f"its inputs or outputs are a {str(kind)[:80]}; only tensors in tuples, lists and dicts are read"
            )
        keys = [] if context is None else json.loads(context) or []
        if not isinstance(keys, list) or not all(
            isinstance(k, int) or (isinstance(k, str) and _FQN.fullmatch(k)) for k in keys
        ):
            raise RefusedError(f"the keys of its inputs or outputs are {str(context)[:60]!r}")


# --- the tensors --------------------------------------------------------------------------------


def _check_config(config: dict[str, Any], kind: str, folder: str, sizes: dict[str, int]) -> Iterator[str]:
    """The payload entries that ``config`` names, each checked against the bytes that are there."""
    if set(config) != {"config"} or not isinstance(config["config"], dict):
        raise RefusedError(f"the list of its {kind}s is not as torch writes it")
    for fqn, entry in config["config"].items():
        if not _FQN.fullmatch(fqn):
            raise RefusedError(f"a {kind} is named {fqn[:60]!r}")
        path, meta = entry.get("path_name"), entry.get("tensor_meta")
        if entry.get("use_pickle") is not False:
            raise RefusedError(f"'{fqn}' is stored as a pickle, which is code when read")
        if not isinstance(path, str) or not re.fullmatch(kind + r"_\d+", path) or f"{folder}/{path}" not in sizes:
            raise RefusedError(f"the {kind} '{fqn}' is in the entry {str(path)[:60]!r}, which is not there")
        try:
            wanted, values, item = _extent(meta)
        except (KeyError, TypeError, ValueError):
            raise RefusedError(f"the shape of '{fqn}' is not as torch writes it") from None
        have = sizes[f"{folder}/{path}"]
        if wanted * item > have or values * item > have:
            raise RefusedError(f"'{fqn}' claims {max(wanted, values) * item:,} bytes, its entry has {have:,}")
        meta["device"] = {"type": "cpu", "index": None}
        yield f"{folder}/{path}"


def _extent(meta: dict[str, Any]) -> tuple[int, int, int]:
    """Elements that a tensor reaches over in its entry, elements it has, bytes of one."""
    from torch._export.serde.serialize import _SERIALIZE_TO_TORCH_DTYPE

    sizes = [size["as_int"] for size in meta["sizes"]]
    strides = [stride["as_int"] for stride in meta["strides"]]
    offset = meta["storage_offset"]["as_int"]
    if len(sizes) != len(strides) or not all(type(n) is int and n >= 0 for n in [*sizes, *strides, offset]):
        raise ValueError("not sizes")
    values = 1
    for size in sizes:
        values *= size
    reach = offset + 1 + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True)) if values else 0
    return reach, values, _SERIALIZE_TO_TORCH_DTYPE[meta["dtype"]].itemsize


def read(path: Path) -> tuple[zipfile.ZipFile, int]:
    """Open ``path`` as a zip file; RefusedError where it is none or cut off."""
    try:
        return zipfile.ZipFile(path), path.stat().st_size
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise RefusedError(f"it is not a whole zip archive ({str(error)[:80]})") from None
