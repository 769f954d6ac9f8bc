"""Fuzz one loader, guided by what the code covers: ``python fuzz.py TARGET [options of libFuzzer] [corpus]``.

Atheris instruments whole packages by the first part of their name. Of torch and numpy only the modules that read files
are wanted (all of torch takes minutes to load and drowns the rest), so they are imported plain and these loaded again.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import atheris

CORPUS = Path(__file__).resolve().parent / "corpus"
_PARSERS = ("torch._weights_only_unpickler", "torch.serialization", "numpy.lib._format_impl")

with atheris.instrument_imports(include=["zipfile", "yaml"]):
    import zipfile  # noqa: F401

    import yaml  # noqa: F401

import numpy as np  # noqa: E402, F401
import onnx  # noqa: E402, F401
import torch  # noqa: E402, F401

with atheris.instrument_imports(include=["compressor", "compressor_converters"]):
    import targets
with atheris.instrument_imports(include=[name.partition(".")[0] for name in _PARSERS]):
    for _name in _PARSERS:
        importlib.reload(importlib.import_module(_name))


def main() -> None:
    """Hand over to libFuzzer, which ends the process."""
    name = sys.argv.pop(1)
    with targets.scratch() as folder:
        for seed in sorted((CORPUS / name).glob("seed*")):  # what is imported or made once is there before it counts
            targets.try_one(name, seed.read_bytes(), folder)
        atheris.Setup(sys.argv, lambda data: targets.try_one(name, data, folder) and None)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
