"""Huffman codes: what is encoded is decoded, in as few bits as any prefix code can; damage is noticed."""

from __future__ import annotations

import numpy as np
import pytest

from compressor.layers import huffman

CASES = {
    "nothing": (np.array([], dtype=np.int64), 5),
    "one symbol": (np.full(100, 3), 4),
    "alphabet of one": (np.zeros(3, dtype=np.int64), 1),
    "two": (np.array([0, 1, 0, 0, 0]), 2),
    "even": (np.arange(2048) % 256, 256),
    "skewed": (np.random.default_rng(0).geometric(0.3, 5000) - 1, 64),
    "fibonacci": (np.repeat(np.arange(24), [1, 1] + [round(1.618**n) for n in range(1, 23)]), 24),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_encoded_is_decoded_and_the_rest_is_left(case) -> None:
    numbers, alphabet = CASES[case]
    data = huffman.encode(numbers, alphabet)
    again, used = huffman.decode(data + b"more")
    np.testing.assert_array_equal(again, numbers)
    assert used == len(data)


def test_codes_are_as_short_as_the_entropy_allows() -> None:
    numbers, alphabet = CASES["skewed"]
    share = np.bincount(numbers) / len(numbers)
    entropy = -float(np.sum(share[share > 0] * np.log2(share[share > 0])))
    bits = 8 * (len(huffman.encode(numbers, alphabet)) - 6 - alphabet)
    assert entropy * len(numbers) <= bits < (entropy + 0.1) * len(numbers)
    even, alphabet = CASES["even"]
    assert len(huffman.encode(even, alphabet)) == 6 + 256 + 2048


def test_a_known_tree_gives_its_known_bytes() -> None:
    numbers = np.array([0] * 4 + [1] * 2 + [2] + [3])  # codes 0, 10, 110, 111
    expected = bytes([4, 0, 8, 0, 0, 0, 1, 2, 3, 3, 0b00001010, 0b11011100])
    assert huffman.encode(numbers, 4) == expected


def test_no_code_is_longer_than_sixteen_bits() -> None:
    numbers, alphabet = CASES["fibonacci"]
    lengths = np.frombuffer(huffman.encode(numbers, alphabet)[6 : 6 + alphabet], dtype=np.uint8)
    assert lengths.max() <= 16
    assert sum(2.0 ** -int(size) for size in lengths) <= 1


def test_damage_and_numbers_outside_the_alphabet_are_refused() -> None:
    data = huffman.encode(*CASES["skewed"])
    for broken in (b"", data[:4], data[:20], data[:-3], data[:6] + b"\xff" + data[7:]):
        with pytest.raises(ValueError, match=r"too few|damaged|end or break|end within"):
            huffman.decode(broken)
    with pytest.raises(ValueError, match=r"not within 0\.\.3"):
        huffman.encode(np.array([0, 4]), 4)
    with pytest.raises(ValueError, match="40000 symbols"):
        huffman.encode(np.array([0]), 40000)
