"""The house rules that can be read off the source."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted(path for folder in ("compressor", "kernels", "converters") for path in (ROOT / folder).rglob("*.py"))
TEXTS = [
    path
    for folder in ("compressor", "kernels", "converters", "tests", "benchmarks", ".ci")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.is_file() and "__pycache__" not in path.parts and path.suffix in {".py", ".md", ".toml", ".json", ""}
]
TEXTS += [ROOT / name for name in ("README.md", "Makefile", "pyproject.toml", "constraints.txt")]

# From the bottom up: a room imports from its own and from those before it, never from those after it.
ROOMS = [
    ("errors", r"compressor\.(errors|settings)"),
    ("kernels", r"(compressor_kernels|build|stress)"),
    ("layers", r"compressor\.layers"),
    ("converters", r"compressor_converters"),
    ("pipeline", r"compressor(?!\.(cli|command|console|options|__main__)\b)"),
    ("command", r"compressor\.(cli|command|console|options|__main__)"),
]


def room(module: str) -> int | None:
    """The floor that ``module`` stands on, None for a module that is not this project's."""
    for floor, (_, pattern) in enumerate(ROOMS):
        if re.match(pattern + r"(\.|$)", module):
            return floor
    return None


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts[1:] if parts[0] in ("kernels", "converters") else parts
    return ".".join(part for part in parts if part != "__init__")


def imports(path: Path) -> list[str]:
    """All modules that the file imports, inside functions too, but not for type checking alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    names = []
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    name = module_name(path)
    if name == "compressor":
        return  # the front door: the public API names come from every floor
    floor = room(name)
    assert floor is not None, f"{name} stands on no floor"
    for imported in imports(path):
        other = room(imported)
        if imported in ("compressor.__version__", "compressor.CompressorError"):
            continue
        assert other is None or other <= floor, f"{name} ({ROOMS[floor][0]}) imports {imported} ({ROOMS[other][0]})"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_is_a_hall_and_no_function_is_over_60_lines(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno < 60, f"{node.name} is too long"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_code_compares_the_name_of_a_method(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            named = any(getattr(side, "attr", getattr(side, "id", "")) in ("method", "method_name") for side in sides)
            literal = any(isinstance(side, ast.Constant) and isinstance(side.value, str) for side in sides)
            assert not (named and literal), f"{path.name}:{node.lineno}: {ast.unparse(node)}"


@pytest.mark.parametrize("folder", ["kernels", "converters"])
def test_source_roots_are_no_packages(folder: str) -> None:
    assert not (ROOT / folder / "__init__.py").exists()


def test_no_text_names_a_path_of_one_machine() -> None:
    machine = re.compile(r"(?<![\w.<*])/(?:" + "|".join(("work", "root", "farm", "home")) + r")/\w")
    found = [
        str(path.relative_to(ROOT))
        for path in TEXTS
        if machine.search(path.read_text(encoding="utf-8", errors="replace"))
    ]
    assert found == []


def test_every_module_says_what_it_is() -> None:
    silent = [str(path) for path in SOURCES if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))]
    assert silent == []
