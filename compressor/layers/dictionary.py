"""Fixed dictionaries of a layer's inputs, made by standard operators alone, and the choice of their columns."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from compressor.layers import grid as grids

_PRIME = 2**31 - 1
_ROUNDS = 4
_SEEN = 64  # directions of the outputs that the choice looks at, where there are more
_EXHAUSTED = 1e-10  # of the largest column: what is left of one that the chosen ones already hold


def squared_exponential(positions: Tensor, inputs: int, grid: str, width: float) -> Tensor:
    """``exp(−‖p_i − p_α‖² / 2 width²)`` over places in ``grid``, ``(columns, inputs, n)``.

    ``positions`` are α, ``(columns, n)``. Inputs of different maps have nothing to do with each other: 0.
    """
    height, across = grids.sides(grid, inputs)
    chosen = positions.long()
    units = torch.arange(inputs, device=chosen.device)
    places = grids.places(grid, inputs).to(chosen.device)  # (inputs, 2)
    row, column = (axis[:, None] - axis[chosen][:, None, :] for axis in places.unbind(1))  # (columns, inputs, n)
    cells = height * across
    together = torch.div(units, cells, rounding_mode="floor")[:, None] == torch.div(
        chosen, cells, rounding_mode="floor"
    ).unsqueeze(1)
    return (-(row.square() + column.square()) / (2 * width**2)).exp() * together


def hashed_normals(seed: int, shape: tuple[int, ...]) -> Tensor:
    """Standard normals (Box and Muller) in float32, from a hash of their index that any runtime can compute.

    The hash: rounds of ``x → x⁵ + c mod 2³¹ − 1``, each of them a permutation.
    """
    count = math.prod(shape)
    index = torch.arange(2 * count)
    for step in range(_ROUNDS):
        square = index * index % _PRIME
        constant = (seed + 1) * pow(48271, step + 1, _PRIME) % _PRIME
        index = (square * square % _PRIME * index + constant) % _PRIME
    radius, turn = ((index.float() + 0.5) / _PRIME).reshape(2, count)
    angle = (turn - 0.5) * (2 * math.pi)
    normals: Tensor = (-2 * radius.log()).sqrt() * angle.cos()
    return normals.reshape(shape)


def choose(gram: Tensor, cross: Tensor, count: int) -> Tensor:
    """The ``count`` columns that lower the error of least squares most, one after the other.

    ``gram (n, n)``: products of all columns in the metric; ``cross (n, outputs)``: their products with the aim.
    Each step takes the column whose part outside of those taken explains most of what is left, by the update of a
    pivoted Cholesky factor.
    """
    left = gram.diagonal().double().clone()
    aim = cross.double()
    if aim.shape[1] > _SEEN:
        mix = torch.randn(aim.shape[1], _SEEN, generator=torch.Generator().manual_seed(0), dtype=aim.dtype)
        aim = aim @ mix
    else:
        aim = aim.clone()
    factor = aim.new_zeros(len(gram), count)
    smallest = _EXHAUSTED * float(left.max())
    taken = torch.zeros(len(gram), dtype=torch.bool)
    chosen = torch.empty(count, dtype=torch.long)
    for step in range(count):
        usable = left > smallest
        gains = torch.where(usable, aim.square().sum(1) / torch.where(usable, left, 1.0), 0.0)
        best = int(torch.where(taken, -1.0, gains).argmax())
        chosen[step], taken[best] = best, True
        if not usable[best]:
            continue
        size = left[best].sqrt()
        column = (gram[:, best].double() - factor[:, :step] @ factor[best, :step]) / size
        factor[:, step] = column
        left -= column.square()
        aim -= column[:, None] * (aim[best] / size)
    return chosen
