"""Exported programs as torch before 2.8 writes them: the same program, and beside it three pickles of tensors.

torch unpickles those without any restriction. So each is read here as tensors and nothing else, and written anew; the
example inputs are left out. Like `pt2_check`, this loads nothing from the file itself.
"""

from __future__ import annotations

import io
import pickle
import re
import zipfile

import torch
from torch import Tensor, nn

from compressor_converters import pt2_check
from compressor_converters.pt2_check import Archive, RefusedError

PROGRAM = "serialized_exported_program.json"
MARK = "extra_files/compressor"  # an entry that the files written here carry
_TENSORS = ("serialized_state_dict.pt", "serialized_constants.pt")
_EXAMPLES = "serialized_example_inputs.pt"


def is_old(file: zipfile.ZipFile) -> bool:
    """Whether the archive is of this format."""
    return PROGRAM in file.namelist()


def cleaned(file: zipfile.ZipFile, size: int) -> Archive:
    """Check everything in an exported program; what may be loaded from it, or RefusedError with the reason."""
    found = pt2_check.entries(file, size)
    for needed in (PROGRAM, *_TENSORS, "version"):
        if needed not in found:
            raise RefusedError(f"there is no entry '{needed}'")
    for name in found:
        if name not in (PROGRAM, *_TENSORS, _EXAMPLES, "version") and not name.startswith("extra_files/"):
            raise RefusedError(f"unknown entry '{name[:80]}'")
    program = pt2_check.read_json(file, found[PROGRAM])
    pt2_check.clean_program(program)
    version = file.read("version").strip()
    if not re.fullmatch(rb"\d{1,4}\.\d{1,4}", version):
        raise RefusedError("its version is not a number")
    texts = {PROGRAM: pt2_check.dump(program), "version": version, _EXAMPLES: b""}
    texts |= {name: _pickled_anew(name, file.read(name)) for name in _TENSORS}
    return Archive(texts, {}, MARK in found, root="", mark=MARK)


def _pickled_anew(name: str, data: bytes) -> bytes:
    """The named tensors in ``data``, as `torch.save` writes them; RefusedError where there is anything else."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as inner:
            pt2_check.entries(inner, len(data))
        found = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise RefusedError(f"'{name}' holds more than tensors, so that reading it could run code") from None
    except RefusedError:
        raise
    except Exception as error:  # torch raises many kinds for damaged files
        raise RefusedError(f"'{name}' is damaged ({str(error)[:80]})") from None
    if not isinstance(found, dict):
        raise RefusedError(f"'{name}' holds a {type(found).__name__}, not named tensors")
    for key, value in found.items():
        if not isinstance(key, str) or not pt2_check.is_plain_name(key):
            raise RefusedError(f"a tensor in '{name}' is named {str(key)[:60]!r}")
        if type(value) not in (Tensor, nn.Parameter) or value.layout != torch.strided or value.is_quantized:
            raise RefusedError(f"'{key[:80]}' in '{name}' is not a plain tensor")
        claimed, stored = value.numel() * value.element_size(), value.untyped_storage().nbytes()
        if claimed > stored:
            raise RefusedError(f"'{key[:80]}' in '{name}' claims {claimed:,} bytes, its entry has {stored:,}")
    anew = io.BytesIO()
    torch.save(found, anew)
    return anew.getvalue()
