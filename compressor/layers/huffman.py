"""Canonical Huffman codes of small whole numbers (Huffman 1952; Schwartz & Kallick 1964), for what lies on disk.

Only the length of each symbol's code is stored; codes of one length count up in the order of their symbols. Layout of
what `encode` writes: symbols in the alphabet (uint16), how many numbers follow (uint32), one byte a symbol with the
length of its code (0: it does not occur), the codes, first bit first, filled up to a byte.
"""

from __future__ import annotations

import heapq
import struct

import numpy as np

_LONGEST = 16  # bits of a code; rarer symbols are taken to be more frequent until all codes fit
_CHUNK = 2**20  # numbers encoded at a time
_HEAD = struct.Struct("<HI")


def encode(numbers: np.ndarray, alphabet: int) -> bytes:
    """``numbers``, each in 0..``alphabet`` − 1, as bytes; ``alphabet`` up to 32,768."""
    if not 1 <= alphabet <= 2**15:
        raise ValueError(f"an alphabet of {alphabet} symbols is not within 1..32768")
    if len(numbers) and not 0 <= int(numbers.min()) <= int(numbers.max()) < alphabet:
        raise ValueError(f"numbers from {numbers.min()} to {numbers.max()} are not within 0..{alphabet - 1}")
    lengths = _lengths(np.bincount(numbers, minlength=alphabet))
    codes = _codes(lengths)
    shift = lengths[:, None] - 1 - np.arange(_LONGEST)  # (alphabet, 16), first bit first
    bits, real = ((codes[:, None] >> np.maximum(shift, 0)) & 1).astype(np.uint8), shift >= 0
    parts = [numbers[start : start + _CHUNK] for start in range(0, len(numbers), _CHUNK)]
    stream = [bits[part][real[part]] for part in parts]
    body = np.packbits(np.concatenate([*stream, np.zeros(0, dtype=np.uint8)])).tobytes()
    return _HEAD.pack(alphabet, len(numbers)) + lengths.astype(np.uint8).tobytes() + body


def decode(data: bytes) -> tuple[np.ndarray, int]:
    """The numbers, int64, at the start of ``data``, and how many bytes they took; ValueError when they are damaged."""
    if len(data) < _HEAD.size:
        raise ValueError(f"{len(data)} bytes are too few for a Huffman code")
    alphabet, count = _HEAD.unpack_from(data)
    start = _HEAD.size + alphabet
    lengths = np.frombuffer(data[_HEAD.size : start], dtype=np.uint8).astype(np.int64)
    if len(lengths) < alphabet or lengths.max(initial=0) > _LONGEST:
        raise ValueError("the lengths of the codes are damaged")
    symbols, sizes = _table(lengths)
    bits = np.unpackbits(np.frombuffer(data[start:], dtype=np.uint8))
    if count > len(bits):  # every code has a bit at least
        raise ValueError(f"the codes end or break before {count} numbers")
    padded = np.concatenate((bits, np.zeros(_LONGEST, dtype=np.uint8)))
    windows = np.zeros(len(bits) + 1, dtype=np.int64)  # the next 16 bits from each place on
    for place in range(_LONGEST):
        windows = windows * 2 + padded[place : place + len(windows)]
    symbol_at, step_at = symbols[windows].tolist(), sizes[windows].tolist()
    numbers, at = [0] * count, 0
    for index in range(count):
        if at >= len(bits) or not step_at[at]:
            raise ValueError(f"the codes end or break after {index} of {count} numbers")
        numbers[index] = symbol_at[at]
        at += step_at[at]
    if at > len(bits):
        raise ValueError(f"the codes end within the last of {count} numbers")
    return np.array(numbers, dtype=np.int64), start + -(-at // 8)


def _lengths(counts: np.ndarray) -> np.ndarray:
    """The length of each symbol's code, 0 for those that do not occur."""
    lengths = np.zeros(len(counts), dtype=np.int64)
    used = np.flatnonzero(counts)
    weights = counts[used].astype(np.int64)
    while len(used):
        found = _tree_depths(weights)
        if found.max() <= _LONGEST:
            lengths[used] = found
            break
        weights = (weights + 1) // 2
    return lengths


def _tree_depths(weights: np.ndarray) -> np.ndarray:
    """Depths of the leaves of Huffman's tree; a single symbol has a code of one bit."""
    depths = np.zeros(len(weights), dtype=np.int64)
    if len(weights) == 1:
        return depths + 1
    heap = [(int(weight), leaf, [leaf]) for leaf, weight in enumerate(weights)]
    heapq.heapify(heap)
    while len(heap) > 1:
        one, other = heapq.heappop(heap), heapq.heappop(heap)
        leaves = one[2] + other[2]
        depths[leaves] += 1
        heapq.heappush(heap, (one[0] + other[0], min(one[1], other[1]), leaves))
    return depths


def _codes(lengths: np.ndarray) -> np.ndarray:
    """The canonical code of each symbol, as a number of ``lengths`` bits."""
    codes, code, before = np.zeros(len(lengths), dtype=np.int64), 0, 0
    for symbol in np.lexsort((np.arange(len(lengths)), lengths)):
        size = int(lengths[symbol])
        if size:
            code <<= size - before
            codes[symbol], before = code, size
            code += 1
    return codes


def _table(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For every 16 bits, the symbol whose code they begin with and its length; length 0 where there is none."""
    symbols, sizes = np.zeros(2**_LONGEST, dtype=np.int64), np.zeros(2**_LONGEST, dtype=np.int64)
    codes = _codes(lengths)
    for symbol in np.flatnonzero(lengths):
        rest = _LONGEST - int(lengths[symbol])
        first = int(codes[symbol]) << rest
        symbols[first : first + 2**rest], sizes[first : first + 2**rest] = symbol, lengths[symbol]
    return symbols, sizes
