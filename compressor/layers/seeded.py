"""What is drawn from a seed and never stored: the same numbers on every machine, device and library version.

Only the raw 64-bit stream of PCG64 is used, which NumPy guarantees; what is made of it is written out here.
Streams of different ``purpose`` are independent. Tensors are born on the default device; on the meta device,
where nothing need be drawn, nothing is.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor


def permutations(seed: int, purpose: int, count: int, n: int) -> Tensor:
    """``(count, n)`` permutations of 0..n-1, as uint16 where n allows, else int32."""
    small = n <= 2**16
    if _on_meta():
        return torch.empty(count, n, dtype=torch.uint16 if small else torch.int32)
    order = np.argsort(_raw(seed, purpose, (count, n)), axis=1, kind="stable")
    return _born(order.astype(np.uint16 if small else np.int32))


def block_permutations(seed: int, purpose: int, count: int, n: int, block: int) -> Tensor:
    """As `permutations`, but ``block`` neighbours stay together: blocks change places, and entries within each block.

    What is left over at the end of an ``n`` that is no multiple stays there. Two streams: ``purpose`` and the next.
    """
    if _on_meta():
        return permutations(seed, purpose, count, n)
    whole = n - n % block
    blocks = np.argsort(_raw(seed, purpose, (count, n // block)), axis=1, kind="stable")
    drawn = _raw(seed, purpose + 1, (count, n))
    inside = np.argsort(drawn[:, :whole].reshape(count, n // block, block), axis=2, kind="stable")
    order = (block * blocks[:, :, None] + inside).reshape(count, whole)
    order = np.concatenate((order, whole + np.argsort(drawn[:, whole:], axis=1, kind="stable")), axis=1)
    return _born(order.astype(np.uint16 if n <= 2**16 else np.int32))


def signs(seed: int, purpose: int, shape: tuple[int, ...]) -> Tensor:
    """±1 with equal chances, float32."""
    if _on_meta():
        return torch.empty(shape, dtype=torch.float32)
    return _born(1 - 2 * (_raw(seed, purpose, shape) >> np.uint64(63)).astype(np.float32))


def positions(seed: int, purpose: int, rows: int, count: int, n: int) -> Tensor:
    """``(rows, count)`` of 0..n-1 in rising order, one from each of ``count`` ≤ n stretches; uint16 or int32 as above.

    No position comes twice in a row.
    """
    small = n <= 2**16
    if _on_meta():
        return torch.empty(rows, count, dtype=torch.uint16 if small else torch.int32)
    starts = np.arange(count + 1, dtype=np.uint64) * np.uint64(n) // np.uint64(count)
    drawn = starts[:-1] + _raw(seed, purpose, (rows, count)) % (starts[1:] - starts[:-1])
    return _born(drawn.astype(np.uint16 if small else np.int32))


def normals(seed: int, purpose: int, shape: tuple[int, ...]) -> Tensor:
    """Standard normals (Box and Muller), float64."""
    if _on_meta():
        return torch.empty(shape, dtype=torch.float64)
    radius, angle = (
        ((_raw(seed, 2 * purpose + part, shape) >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
        for part in (0, 1)
    )
    return _born(np.sqrt(-2 * np.log(radius)) * np.cos(2 * math.pi * angle))


def chi(seed: int, purpose: int, shape: tuple[int, ...], degrees: int) -> Tensor:
    """Lengths of ``degrees``-dimensional standard normal vectors, float64 (Wilson and Hilferty's approximation)."""
    c = 2 / (9 * degrees)
    return (degrees * (1 - c + normals(seed, purpose, shape) * math.sqrt(c)).clamp_min(0).pow(3)).sqrt()


def whole_numbers(seed: int, purpose: int, count: int, below: int) -> Tensor:
    """``(count,)`` int64 in 1..``below`` − 1, for ``below`` far under 2^64."""
    if _on_meta():
        return torch.empty(count, dtype=torch.int64)
    return _born((_raw(seed, purpose, (count,)) % np.uint64(below - 1)).astype(np.int64) + 1)


def _on_meta() -> bool:
    return torch.empty(0).device.type == "meta"


def _born(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values).to(torch.empty(0).device)


def _raw(seed: int, purpose: int, shape: tuple[int, ...]) -> np.ndarray:
    stream = np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(purpose,)))
    return np.asarray(stream.random_raw(math.prod(shape)), dtype=np.uint64).reshape(shape)
