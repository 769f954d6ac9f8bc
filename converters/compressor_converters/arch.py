"""Code that the user names: ``package.module:callable`` or ``file.py:callable``."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator
from functools import reduce
from pathlib import Path
from types import ModuleType
from typing import Any

from compressor.errors import CompressorError, nearest


def is_callable_spec(text: str) -> bool:
    """Whether ``text`` reads as ``module:callable`` or ``file.py:callable``."""
    module, _, name = text.rpartition(":")
    return bool(module) and all(part.isidentifier() for part in name.split("."))


def import_callable(spec: str) -> Callable[..., Any]:
    """The callable that ``spec`` names; CompressorError when it is not there or its module fails to import.

    In the module form the working directory is looked in first, as ``python -m`` does.
    """
    module_name, _, attribute = spec.rpartition(":")
    if not is_callable_spec(spec):
        raise CompressorError(f"'{spec}' does not name code: write package.module:callable or file.py:callable")
    with working_directory_first():
        module = _from_file(spec, module_name) if module_name.endswith(".py") else _from_name(spec, module_name)
    try:
        found = reduce(getattr, attribute.split("."), module)
    except AttributeError:
        names = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        hint = f"; {nearest(attribute, names)}" if names else ""
        raise CompressorError(f"'{spec}': {module_name} has no '{attribute}'{hint}") from None
    if not callable(found):
        raise CompressorError(f"'{spec}' is a {type(found).__name__}, not something to call")
    return found


def call(spec: str, *arguments: Any) -> Any:
    """Import what ``spec`` names and call it; what it raises is said in one line that names it."""
    function = import_callable(spec)
    with working_directory_first():
        try:
            return function(*arguments)
        except CompressorError:
            raise
        except Exception as error:  # the user's code: any kind
            raise CompressorError(f"'{spec}' raised {said(error)}") from error


@contextlib.contextmanager
def working_directory_first() -> Iterator[None]:
    """Within it, modules of the working directory can be imported."""
    here = str(Path.cwd())
    added = here not in sys.path and "" not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        yield
    finally:
        if added and here in sys.path:
            sys.path.remove(here)


def said(error: BaseException) -> str:
    """An exception in one line, with the file and line where it was raised."""
    text = " ".join(str(error).split())[:300]
    where = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(where[-1].filename).name}, line {where[-1].lineno})" if where else ""
    return f"{type(error).__name__}: {text}{place}"


def _from_file(spec: str, file: str) -> ModuleType:
    path = Path(file)
    if not path.is_file():
        raise CompressorError(f"'{spec}': there is no file {file}")
    # A name of its own per path, so that two files of one name do not stand for each other.
    digest = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]
    name = f"_compressor_user_{path.stem}_{digest}"
    found = importlib.util.spec_from_file_location(name, path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module  # dataclasses and pickles look their module up there
    try:
        found.loader.exec_module(module)
    except Exception as error:  # the user's code: any kind
        del sys.modules[name]
        raise CompressorError(f"'{spec}': {file} could not be imported: {said(error)}") from error
    return module


def _from_name(spec: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(error.name + ".")):
            raise CompressorError(f"'{spec}': there is no module '{error.name}' here or on the Python path") from None
        raise CompressorError(f"'{spec}': {name} could not be imported: {said(error)}") from error
    except Exception as error:  # the user's code, or a name that is no module path: any kind
        raise CompressorError(f"'{spec}': {name} could not be imported: {said(error)}") from error
