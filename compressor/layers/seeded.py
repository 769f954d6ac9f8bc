"""What is drawn from a seed and never stored: the same numbers on every machine, device and library version.

Only the raw 64-bit stream of PCG64 is used, which NumPy guarantees; what is made of it is written out here.
Streams of different ``purpose`` are independent. All tensors are on the CPU.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor


def permutations(seed: int, purpose: int, count: int, n: int) -> Tensor:
    """``(count, n)`` permutations of 0..n-1, as uint16 where n allows, else int32."""
    order = np.argsort(_raw(seed, purpose, (count, n)), axis=1, kind="stable")
    return torch.from_numpy(order.astype(np.uint16 if n <= 2**16 else np.int32))


def signs(seed: int, purpose: int, shape: tuple[int, ...]) -> Tensor:
    """±1 with equal chances, float32."""
    return torch.from_numpy(1 - 2 * (_raw(seed, purpose, shape) >> np.uint64(63)).astype(np.float32))


def normals(seed: int, purpose: int, shape: tuple[int, ...]) -> Tensor:
    """Standard normals (Box and Muller), float64."""
    radius, angle = (
        ((_raw(seed, 2 * purpose + part, shape) >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
        for part in (0, 1)
    )
    return torch.from_numpy(np.sqrt(-2 * np.log(radius)) * np.cos(2 * math.pi * angle))


def chi(seed: int, purpose: int, shape: tuple[int, ...], degrees: int) -> Tensor:
    """Lengths of ``degrees``-dimensional standard normal vectors, float64 (Wilson and Hilferty's approximation)."""
    c = 2 / (9 * degrees)
    return (degrees * (1 - c + normals(seed, purpose, shape) * math.sqrt(c)).clamp_min(0).pow(3)).sqrt()


def on_meta() -> bool:
    """Whether new tensors are born on the meta device, where nothing need be drawn."""
    return torch.empty(0).device.type == "meta"


def _raw(seed: int, purpose: int, shape: tuple[int, ...]) -> np.ndarray:
    stream = np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(purpose,)))
    return np.asarray(stream.random_raw(math.prod(shape)), dtype=np.uint64).reshape(shape)
