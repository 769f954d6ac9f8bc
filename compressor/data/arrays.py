"""From what a user has (arrays, tensors, names) to what a model takes; what does not fit is said in a ValueError."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

LABEL_KEYS = ("labels", "label", "targets", "target", "y")
_REPEATED = 1 << 28  # bytes that an array may make of fewer stored ones
_CHUNK = 4096  # rows looked at together

Arrays = tuple[tuple[Tensor, ...], Tensor | None]  # the model's inputs in its order, and the labels


def unpack(item: object, inputs: Sequence[str], label_key: str | None = None) -> Arrays:
    """Inputs and labels out of ``item``: an array, a mapping by name, or a sequence in the model's order.

    A sequence holds as many arrays as the model has inputs (``inputs`` names them), or one more: the labels;
    ``((x1, x2), labels)`` and ``({name: x}, labels)`` will do too. In a mapping the labels stand under
    ``label_key``, or under one of `LABEL_KEYS`.
    """
    if isinstance(item, Mapping):
        named, labels = _match(item, inputs, label_key)
    elif label_key is not None:
        raise ValueError(f"label key '{label_key}' was given, but the arrays have no names")
    elif isinstance(item, tuple | list):
        named, labels = _in_order(item, inputs)
    elif len(inputs) == 1:
        named, labels = {inputs[0]: item}, None
    else:
        raise ValueError(f"is one array, the model takes {len(inputs)} ({', '.join(inputs)})")
    tensors = {name: to_tensor(name, value) for name, value in named.items()}
    target = None if labels is None else label_tensor(labels)
    check_rows(tensors if target is None else {**tensors, "labels": target})
    return tuple(tensors.values()), target


def _in_order(item: Sequence[Any], inputs: Sequence[str]) -> tuple[dict[str, Any], Any]:
    if len(item) == 2 and isinstance(item[0], Mapping | tuple | list) and len(item[0]) == len(inputs):
        if isinstance(item[0], Mapping):
            return _match(item[0], inputs, None)[0], item[1]
        return dict(zip(inputs, item[0], strict=True)), item[1]
    if len(item) not in (len(inputs), len(inputs) + 1):
        raise ValueError(
            f"holds {len(item)} arrays, the model takes {len(inputs)} ({', '.join(inputs)}), with or without labels"
        )
    return dict(zip(inputs, item, strict=False)), item[-1] if len(item) > len(inputs) else None


def _match(arrays: Mapping[str, Any], inputs: Sequence[str], label_key: str | None) -> tuple[dict[str, Any], Any]:
    """Arrays by the names of the inputs; a single one whatever its name."""
    held = ", ".join(sorted(map(str, arrays))) or "nothing"
    if label_key is not None and label_key not in arrays:
        raise ValueError(f"has no array '{label_key}' for the labels; it holds {held}")
    found = [label_key] if label_key else [key for key in LABEL_KEYS if key in arrays and key not in inputs]
    if len(found) > 1:
        raise ValueError(f"holds {' and '.join(found)}: say which are the labels (--label-key)")
    others = [name for name in arrays if name not in found]
    labels = arrays[found[0]] if found else None
    if all(name in others for name in inputs):
        return {name: arrays[name] for name in inputs}, labels
    if len(inputs) == 1 and len(others) == 1:
        return {inputs[0]: arrays[others[0]]}, labels
    raise ValueError(f"the names do not match: the model's inputs are {', '.join(inputs)}; it holds {held}")


def to_tensor(name: str, value: object) -> Tensor:
    """An array as a tensor of a kind that torch computes with; 8-bit images and shared memory stay as they are."""
    if isinstance(value, Tensor):
        tensor = value.detach().cpu()
    elif isinstance(value, np.ndarray | np.generic | list | int | float):
        tensor = _from_numpy(name, np.asarray(value))
    else:
        raise ValueError(f"'{name}' is a {type(value).__name__}, not an array")
    if tensor.ndim == 0:
        raise ValueError(f"'{name}' is a single number; its first axis must be the examples")
    if tensor.layout != torch.strided:
        raise ValueError(f"'{name}' is sparse; give it dense")
    if tensor.numel() * tensor.element_size() > max(_REPEATED, tensor.untyped_storage().nbytes()):
        raise ValueError(f"'{name}' says to be {tuple(tensor.shape)}, of which only a part is stored")
    return tensor


def _from_numpy(name: str, array: np.ndarray[Any, Any]) -> Tensor:
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise ValueError(f"'{name}' holds {array.dtype}; give numbers that torch knows")
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = array.astype(np.int64)
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if any(stride < 0 for stride in array.strides) or not array.flags.writeable:
        array = array.copy()
    return torch.from_numpy(array)


def label_tensor(value: object) -> Tensor:
    """Labels: whole numbers as int64, ``(rows, 1)`` of them as ``(rows,)``; fractions as float32."""
    labels = to_tensor("labels", value)
    if labels.is_floating_point():
        return labels.float()
    labels = labels.long()
    return labels.squeeze(1) if labels.ndim == 2 and labels.shape[1] == 1 else labels


def check_rows(arrays: Mapping[str, Tensor]) -> None:
    """Say when arrays differ in rows, or have none."""
    rows = {name: len(array) for name, array in arrays.items()}
    if len(set(rows.values())) > 1:
        raise ValueError("rows differ: " + ", ".join(f"'{name}' has {count:,}" for name, count in rows.items()))
    if 0 in rows.values():
        raise ValueError("holds no examples")


def check_finite(names: Sequence[str], arrays: Arrays) -> None:
    """Say which array holds NaN or infinity, and where."""
    named = dict(zip(names, arrays[0], strict=True))
    if arrays[1] is not None:
        named["labels"] = arrays[1]
    for name, array in named.items():
        if not array.is_floating_point():
            continue
        for start in range(0, len(array), _CHUNK):
            rows = array[start : start + _CHUNK]
            good = torch.isfinite(rows.reshape(len(rows), -1)).all(1)
            if not bool(good.all()):
                raise ValueError(f"'{name}' holds NaN or infinity, first in row {start + int((~good).nonzero()[0]):,}")


@dataclass(frozen=True)
class Preparation:
    """What is done to each batch of inputs, as late as possible so that data stays small in memory.

    8-bit arrays and other floats become float32, small integers int64. ``normalize`` ``(mean, std)``, by channel or
    one for all, makes floats ``(x − mean)/std``, after 8-bit ones were divided by 255; nothing else is scaled.
    ``image_shape`` ``(C, H, W)`` says what the only input is: images without a channel axis get one, those with
    the channels last are turned, flat rows are folded.
    """

    normalize: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    image_shape: tuple[int, ...] | None = None

    def inputs(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """All inputs of one batch."""
        if self.image_shape is not None and len(tensors) == 1:
            tensors = (_as_image(tensors[0], self.image_shape),)
        return tuple(self._one(x) for x in tensors)

    def _one(self, x: Tensor) -> Tensor:
        if x.is_complex():
            raise ValueError("inputs are complex numbers; give real ones, as two arrays or axes")
        eight_bit = x.dtype == torch.uint8
        if not eight_bit and not x.is_floating_point():
            return x if x.dtype in (torch.int32, torch.int64, torch.bool) else x.long()
        x = x.float()
        if self.normalize is None:
            return x
        mean, std = (torch.tensor(values) for values in self.normalize)
        if len(mean) > 1:
            if x.ndim < 2 or x.shape[1] != len(mean):
                raise ValueError(
                    f"normalize has {len(mean)} means, the inputs are {tuple(x.shape)}: one mean a channel"
                )
            mean, std = (values.reshape(-1, *[1] * (x.ndim - 2)) for values in (mean, std))
        return ((x / 255 if eight_bit else x) - mean) / std

    def check(self, names: Sequence[str], tensors: tuple[Tensor, ...]) -> None:
        """Try it on a few rows; say when there is nothing that could be normalized."""
        self.inputs(tuple(x[:2] for x in tensors))
        if self.normalize is not None and not any(x.is_floating_point() or x.dtype == torch.uint8 for x in tensors):
            kinds = ", ".join(
                f"'{n}' {str(x.dtype).removeprefix('torch.')}" for n, x in zip(names, tensors, strict=True)
            )
            raise ValueError(f"normalize was asked for, but no input is 8-bit or floating ({kinds})")


def parse_normalize(text: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """``MEAN,STD`` or ``M1,M2,M3,S1,S2,S3``."""
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    half = len(values) // 2
    if not values or len(values) % 2 or not all(map(math.isfinite, values)) or min(values[half:]) <= 0:
        raise ValueError(f"normalize '{text}': write MEAN,STD, or all means and then all stds, each std above 0")
    return values[:half], values[half:]


def _as_image(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """``x`` as ``(rows, *shape)`` where it is plain how, else as it was: then the model says what does not fit."""
    if tuple(x.shape[1:]) == shape:
        return x
    if len(shape) == 3:
        if x.ndim == 3 and (1, *x.shape[1:]) == shape:
            return x.unsqueeze(1)
        if x.ndim == 4 and (x.shape[3], *x.shape[1:3]) == shape:
            return x.permute(0, 3, 1, 2)
    if (x.ndim == 2 or len(shape) == 1) and math.prod(x.shape[1:]) == math.prod(shape):
        return x.reshape(-1, *shape)
    return x
