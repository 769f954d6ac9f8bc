"""Fuzz one loader, guided by what the code covers: ``python fuzz.py TARGET [options of libFuzzer] [corpus]``."""

from __future__ import annotations

import sys

import atheris

_INSTRUMENTED = [
    "compressor", "compressor_converters", "torch._weights_only_unpickler", "torch.serialization", "zipfile", "pickle",
    "json", "yaml", "numpy.lib._format_impl", "numpy.lib.format",
]  # fmt: skip

with atheris.instrument_imports(include=_INSTRUMENTED):
    import targets


def main() -> None:
    """Hand over to libFuzzer, which ends the process."""
    name = sys.argv.pop(1)
    targets.seeds()  # what is made once is made before it counts
    with targets.scratch() as folder:
        atheris.Setup(sys.argv, lambda data: targets.try_one(name, data, folder) and None)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
