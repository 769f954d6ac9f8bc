"""Pictures of a layer whose inputs lie on a grid, as SVG: what each output looks at, and where on the whole.

*Fields*: the weights of an output, drawn where its inputs are (Müller, Martel, Indiveri 2018, fig. 4). *Map*: each
output at the centre of mass of its weights, ``Σ |W_ji| p_i / Σ |W_ji|`` (eq. 10, for weights in place of activations).
"""

from __future__ import annotations

import base64
import math
import re
import struct
import zlib
from collections.abc import Iterable
from html import escape
from pathlib import Path

import numpy as np
import torch

from compressor.layers import StructuredLayer

_MOST_TILES = 100  # maps of weights in one picture; those of the largest outputs are drawn
_TILE = 56  # pixels that a map's longer side takes at least
_MAP = 480  # pixels of the longer side of the map
_HEAD = 28  # pixels of the line above
_POSITIVE, _NEGATIVE = (178, 24, 43), (33, 102, 172)  # full colours; zero is white


def write_pictures(layers: Iterable[tuple[str, StructuredLayer]], folder: Path) -> list[str]:
    """Write ``<layer>-fields.svg`` and ``<layer>-map.svg`` of those that can be drawn into ``folder``; their names."""
    written: list[str] = []
    for name, layer in layers:
        sides = layer.input_sides
        if sides is None or not layer.is_linear:
            continue
        with torch.no_grad():
            weight = layer.dense()[0].detach().cpu().double().numpy()
        stem = re.sub(r"[^\w.-]", "_", name, flags=re.ASCII).lstrip(".") or "layer"
        for what, picture in (("fields", fields(weight, sides, name)), ("map", centres(weight, sides, name))):
            file = f"{stem}-{what}.svg"
            if file in written:
                raise ValueError(f"two layers would be drawn in {file}")
            (folder / file).write_text(picture, encoding="utf-8", newline="\n")
            written.append(file)
    return written


def fields(weight: np.ndarray, sides: tuple[int, int], name: str) -> str:
    """The rows of ``weight (out, in)`` as pictures of ``sides`` (height, width), maps of one output side by side.

    Red is positive, blue negative, each row as strong as its largest weight.
    """
    height, width = sides
    maps = math.ceil(weight.shape[1] / (height * width))
    shown = _largest(weight, max(1, _MOST_TILES // maps))
    rows = np.pad(weight[shown], ((0, 0), (0, maps * height * width - weight.shape[1])))
    strongest = np.abs(rows).max(1, keepdims=True)
    tiles = (rows / np.where(strongest > 0, strongest, 1)).reshape(-1, maps, height, width)
    across = max(1, round(math.sqrt(len(shown) * height / (maps * width))))  # outputs in a row of a square picture
    down = math.ceil(len(shown) / across)
    tall, wide = height + 1, maps * (width + 1) + 1  # a line between maps, one more between outputs
    canvas = np.full((down * tall + 1, across * wide + 1, 3), 222, dtype=np.uint8)
    zoom = max(1, math.ceil(_TILE / max(height, width)))
    titles = []
    for number, (unit, tile) in enumerate(zip(shown, tiles, strict=True)):
        top, left = number // across * tall + 1, number % across * wide + 1
        for m, values in enumerate(tile):
            first = left + m * (width + 1)
            canvas[top : top + height, first : first + width] = _coloured(values)
        titles.append(
            f'<rect x="{left * zoom}" y="{top * zoom + _HEAD}" width="{(wide - 2) * zoom}" height="{height * zoom}" '
            f'fill="transparent"><title>output {unit}</title></rect>'
        )
    size = (canvas.shape[1] * zoom, canvas.shape[0] * zoom)
    picture = base64.b64encode(_png(canvas)).decode("ascii")
    image = (
        f'<image y="{_HEAD}" width="{size[0]}" height="{size[1]}" style="image-rendering:pixelated" '
        f'href="data:image/png;base64,{picture}"/>'
    )
    said = f"{name}: weights of {_of(len(shown), len(weight))} on the grid of the inputs; red positive, blue negative"
    return _svg(size, said, [image, *titles])


def centres(weight: np.ndarray, sides: tuple[int, int], name: str) -> str:
    """Each output a dot at the centre of mass of its weights, as large as they are; red where their sum is positive."""
    height, width = sides
    zoom = _MAP / max(height, width)
    cell = np.arange(weight.shape[1]) % (height * width)
    places = np.stack((cell % width + 0.5, cell // width + 0.5), 1)  # x, y
    mass = np.abs(weight)
    total = mass.sum(1)
    norms = np.linalg.norm(weight, axis=1)
    dots = []
    for unit in np.flatnonzero(total > 0):
        x, y = mass[unit] @ places / total[unit] * zoom
        r, g, b = _POSITIVE if weight[unit].sum() > 0 else _NEGATIVE
        radius = 2 + 5 * norms[unit] / norms.max()
        dots.append(
            f'<circle cx="{x:.1f}" cy="{y + _HEAD:.1f}" r="{radius:.1f}" fill="rgb({r},{g},{b})" fill-opacity="0.6">'
            f"<title>output {unit}</title></circle>"
        )
    size = (round(width * zoom), round(height * zoom))
    frame = f'<rect y="{_HEAD}" width="{size[0]}" height="{size[1]}" fill="none" stroke="#999"/>'
    said = f"{name}: where {_of(len(dots), len(weight))} look, by the centre of mass of their weights"
    return _svg(size, said, [frame, *dots])


def _largest(weight: np.ndarray, count: int) -> np.ndarray:
    """The numbers of the ``count`` outputs with the largest weights, rising."""
    order = np.argsort(-np.linalg.norm(weight, axis=1), kind="stable")
    return np.sort(order[:count])


def _of(shown: int, among: int) -> str:
    return f"{among:,} outputs" if shown == among else f"{shown:,} of {among:,} outputs"


def _coloured(values: np.ndarray) -> np.ndarray:
    """Numbers from -1 to 1 as RGB bytes, ``(height, width, 3)``."""
    strength = np.abs(values)[..., None]
    full = np.where((values > 0)[..., None], _POSITIVE, _NEGATIVE)
    coloured: np.ndarray = np.round(255 + strength * (full - 255)).astype(np.uint8)
    return coloured


def _svg(size: tuple[int, int], said: str, parts: list[str]) -> str:
    wide, high = size[0], size[1] + _HEAD
    text = escape("".join(c if c.isprintable() else "�" for c in said))
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" width="{wide}" height="{high}" '
            f'role="img" font-family="sans-serif" font-size="13">',
            f"<title>{text}</title>",
            f'<rect width="{wide}" height="{high}" fill="#fff"/>',
            f'<text x="4" y="18">{text}</text>',
            *parts,
            "</svg>",
            "",
        ]
    )


def _png(rgb: np.ndarray) -> bytes:
    """An RGB picture ``(height, width, 3)`` of bytes as a PNG file."""
    height, width, _ = rgb.shape
    lines = np.concatenate((np.zeros((height, 1), np.uint8), rgb.reshape(height, -1)), 1).tobytes()

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(lines, 9))
        + chunk(b"IEND", b"")
    )  # fmt: skip
