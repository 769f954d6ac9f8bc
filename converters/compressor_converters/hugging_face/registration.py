"""Tells transformers of our quantiser, when and only when transformers is used.

``import compressor`` must be quick, and transformers is not; so nothing of it is imported here. Where it is loaded
already, the quantiser is registered at once; else as soon as its registry of quantisers has been imported.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
import warnings
from collections.abc import Sequence
from types import ModuleType

_REGISTRY = "transformers.quantizers"
_QUANTIZER = "compressor_converters.hugging_face.quantizer"


def register() -> None:
    """Have `AutoModel.from_pretrained` know the folders that we write, in this process."""
    if _REGISTRY in sys.modules:
        _enter()
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def _enter() -> None:
    try:
        importlib.import_module(_QUANTIZER)
    except ImportError as error:  # a transformers without such a registry must still be importable
        warnings.warn(f"this transformers does not take compressed folders: {error}", stacklevel=2)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the registry where others do, once, and lets the quantiser in when it has been loaded."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The registry's own spec, whose loader registers as well; None for every other module."""
        if fullname != _REGISTRY:
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        loader = spec.loader if spec is not None else None
        if loader is not None:
            load = loader.exec_module

            def exec_module(module: ModuleType) -> None:
                load(module)
                _enter()

            loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
