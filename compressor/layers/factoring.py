"""Sizes as products: factors near what is wanted, with as little padding as can be."""

from __future__ import annotations

import functools
import math

_NEAR = 1.6  # times larger or smaller


def near_factor(n: int, target: float) -> int:
    """A factor near ``target`` that pads n least, of those the nearest (the smaller of two)."""
    return min(_near(target), key=lambda c: (math.ceil(n / c) * c, round(abs(math.log(c / target)), 9)))


@functools.cache
def balanced_factors(n: int, count: int) -> tuple[int, ...]:
    """``count`` factors of nearly one size whose product is n or little more."""
    if count == 1:
        return (n,)
    found = ((c, *balanced_factors(math.ceil(n / c), count - 1)) for c in _near(n ** (1 / count)))
    return min(found, key=lambda factors: (math.prod(factors), max(factors) / min(factors)))


def _near(target: float) -> range:
    return range(math.ceil(target / _NEAR), math.floor(target * _NEAR) + 1)
