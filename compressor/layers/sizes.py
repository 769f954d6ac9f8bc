"""The widths that transforms run at: at least as large as both sides of a layer, and quick."""

from __future__ import annotations

from compressor.errors import CompressorError


def smooth_size(method: str, in_features: int, out_features: int, size: int | None = None) -> int:
    """``size``, or the next even number with no prime factor above 7 that holds both sides.

    CompressorError when ``size`` does not hold them.
    """
    least = max(in_features, out_features)
    if size is None:
        return next(n for n in range(least + least % 2, 2 * least + 2, 2) if _is_smooth(n))
    if size < least:
        raise CompressorError(f"method '{method}': size={size} is below the layer's width {least}; give {least}+")
    return size


def power_of_two(n: int) -> int:
    """The next power of two, ``n`` itself if it is one."""
    return 1 << (n - 1).bit_length()


def _is_smooth(n: int) -> bool:
    for prime in (2, 3, 5, 7):
        while n % prime == 0:
            n //= prime
    return n == 1
