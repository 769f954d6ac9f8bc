"""Named arrays, and which of them are the model's inputs and the labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compressor.data.dataset import TensorDataset
from compressor.data.preparation import Preparation
from compressor.errors import CompressorError

LABEL_KEYS = ("labels", "label", "targets", "target", "y")
_WIDER = {"u2": np.int32, "u4": np.int64, "u8": np.int64}  # torch has no arithmetic for these


def to_tensor(value: object, what: str) -> Tensor:
    """``value`` as a CPU tensor that shares its memory where it can; text and objects are refused."""
    if isinstance(value, Tensor):
        return value.detach().cpu()
    array: np.ndarray[Any, Any] = np.asarray(value)
    if array.dtype.kind not in "biuf":
        kind = {"O": "Python objects", "U": "text", "S": "text"}.get(array.dtype.kind, str(array.dtype))
        raise CompressorError(f"{what}: holds {kind}; only arrays of numbers can be read")
    if array.dtype.str[1:] in _WIDER:
        array = array.astype(_WIDER[array.dtype.str[1:]])
    elif array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    elif not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if any(step < 0 for step in array.strides):
        array = np.ascontiguousarray(array)
    if not array.flags.writeable:
        return _read_only(array)
    return torch.from_numpy(array)


def _read_only(array: np.ndarray[Any, Any]) -> Tensor:
    """A tensor over memory that may not be written, such as a mapped file: nothing here writes to it."""
    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def match(
    arrays: Mapping[str, Any], inputs: Sequence[str], *, label_key: str | None, what: str
) -> tuple[tuple[str, ...], str | None]:
    """The names of the arrays that are ``inputs``, in their order, and the name of the labels.

    A single array besides the labels is the single input, whatever its name. Without ``inputs`` all arrays
    besides the labels are, in their own order.
    """
    labels = _label_name(arrays, inputs, label_key, what)
    others = [name for name in arrays if name != labels]
    if inputs and all(name in others for name in inputs):
        return tuple(inputs), labels
    if others and (not inputs or (len(inputs) == 1 and len(others) == 1)):
        return tuple(others), labels
    held = ", ".join(arrays) or "nothing"
    wanted = ", ".join(inputs) or "(one input)"
    raise CompressorError(
        f"{what}: has the arrays {held}; the model's inputs are {wanted}: name the arrays after the inputs"
        " (and the labels 'labels', or give --label-key)"
    )


def _label_name(arrays: Mapping[str, Any], inputs: Sequence[str], key: str | None, what: str) -> str | None:
    if key is not None:
        if key not in arrays:
            raise CompressorError(f"{what}: has no array '{key}' (--label-key), only {', '.join(arrays) or 'nothing'}")
        return key
    found = [name for name in LABEL_KEYS if name in arrays and name not in inputs]
    if len(found) > 1:
        raise CompressorError(f"{what}: both '{found[0]}' and '{found[1]}' may be the labels; say --label-key")
    return found[0] if found else None


def from_arrays(
    arrays: Mapping[str, Any],
    inputs: Sequence[str],
    *,
    label_key: str | None = None,
    prepare: Preparation | None = None,
    what: str,
) -> TensorDataset:
    """A data set of named arrays (numpy or torch); single numbers among them are passed over."""
    arrays = {name: value for name, value in arrays.items() if np.ndim(value) or name == label_key}
    names, labels = match(arrays, inputs, label_key=label_key, what=what)
    tensors = {name: to_tensor(arrays[name], f"{what}: '{name}'") for name in (*names, *([labels] if labels else []))}
    try:
        return TensorDataset(
            [tensors[name] for name in names], tensors[labels] if labels else None, prepare=prepare, names=names
        )
    except CompressorError as error:
        raise CompressorError(str(error).replace("the data", what, 1)) from None
