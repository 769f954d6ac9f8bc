"""Places of units on a 2-D grid: pixels of an image, or hidden units laid out to be looked at."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from compressor.errors import CompressorError

GRID = r"^(auto|[1-9]\d*x[1-9]\d*)$"  # what a configuration may say


def sides(grid: str, units: int) -> tuple[int, int]:
    """Height and width of ``grid`` for so many units: ``"28x28"``, or ``"auto"``, one nearly square map of them all.

    CompressorError when the units are not a whole number of such maps side by side.
    """
    if grid == "auto":
        height = math.ceil(math.sqrt(units))
        return height, math.ceil(units / height)
    height, width = (int(side) for side in grid.split("x"))
    if units % (height * width):
        raise CompressorError(
            f"grid {grid} has {height * width} places, and {units} units are no whole number of such maps; "
            "give height x width of one map, or auto"
        )
    return height, width


def maps(grid: str, units: int) -> int:
    """How many maps of ``grid`` the units fill; the units of one map follow each other."""
    height, width = sides(grid, units)
    return math.ceil(units / (height * width))


def places(grid: str, units: int, *, area: tuple[float, float] | None = None) -> Tensor:
    """Row and column of each unit, ``(units, 2)`` float32, centred on 0; all maps have the same places.

    In cells, or stretched so that the map covers ``area`` (height, width), as another grid does.
    """
    height, width = sides(grid, units)
    cell = torch.arange(units) % (height * width)
    down, across = (height, width) if area is None else area
    row = (torch.div(cell, width, rounding_mode="floor") + 0.5) * (down / height) - down / 2
    column = (cell % width + 0.5) * (across / width) - across / 2
    return torch.stack((row, column), 1)
