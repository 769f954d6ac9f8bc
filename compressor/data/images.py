"""A folder of images, in one folder a class or in none, decoded when they are first used."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from compressor.data.arrays import Preparation
from compressor.data.dataset import Batch, RowDataset
from compressor.errors import CompressorError

ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp"}
_KEPT_BYTES = 2**30  # of decoded images; more are decoded again each time


class ImageFolder(RowDataset):
    """8-bit images ``(C, H, W)``; the label is the place of the class folder in the order of the names.

    ``shape`` ``(C, H, W)``, where given, decides grey or colour, and images are resized to it; else the first image
    decides, and one of another size is refused.
    """

    def __init__(self, folder: Path, preparation: Preparation) -> None:
        self._files, self._labels = _find(folder)
        super().__init__(np.arange(len(self._files)))
        self.has_labels = self._labels is not None
        self._preparation = preparation
        wanted = preparation.image_shape
        if wanted is not None and (len(wanted) != 3 or wanted[0] not in (1, 3)):
            raise ValueError(f"images have the shape (1 or 3, height, width), not {wanted}")
        self._resize = wanted is not None
        self._shape = wanted or _shape_of(self._files[0])
        fits = len(self._files) * int(np.prod(self._shape)) <= _KEPT_BYTES
        self._kept = torch.empty(len(self._files), *self._shape, dtype=torch.uint8) if fits else None
        self._have = np.zeros(len(self._files), dtype=bool)
        self._preparation.check(["images"], (torch.zeros(1, *self._shape, dtype=torch.uint8),))

    def _gather(self, rows: NDArray[np.int64]) -> Batch:
        index = torch.from_numpy(rows)
        if self._kept is None:
            images = torch.stack([self._decode(row) for row in rows])
        else:
            for row in rows[~self._have[rows]]:
                self._kept[row] = self._decode(row)
                self._have[row] = True
            images = self._kept[index]
        return Batch(self._preparation.inputs((images,)), None if self._labels is None else self._labels[index])

    def labels(self) -> Iterator[Tensor]:
        return self._stored(self._labels)

    def _decode(self, row: Any) -> Tensor:
        channels, height, width = self._shape
        file = self._files[row]
        with _opened(file) as image:
            if image.mode == "F" or image.mode.startswith("I"):
                raise CompressorError(f"{file}: has more than 8 bits a channel; save it with 8, or all in an .npz")
            image = image.convert("L" if channels == 1 else "RGB")
            if image.size != (width, height):
                if not self._resize:
                    raise CompressorError(
                        f"{file}: is {image.size[0]}x{image.size[1]}, the first image {width}x{height};"
                        " name the size to resize to: --input-shape 1,CHANNELS,HEIGHT,WIDTH"
                    )
                image = image.resize((width, height), resample=2)  # bilinear
            pixels = np.array(image, dtype=np.uint8).reshape(height, width, channels)
        return torch.from_numpy(pixels).permute(2, 0, 1)


def _find(folder: Path) -> tuple[list[Path], Tensor | None]:
    """Files in the order of their names, and labels where they lie in class folders."""
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    loose = _images_in(folder)
    if not classes:
        if not loose:
            raise ValueError("holds no images, and no folders of images by class")
        return loose, None
    if loose:
        raise ValueError(f"holds images ({loose[0].name}) beside class folders ({classes[0].name}); sort them into one")
    files, labels = [], []
    for label, path in enumerate(classes):
        found = _images_in(path)
        if not found:
            raise ValueError(f"the class folder '{path.name}' holds no images ({', '.join(sorted(ENDINGS))})")
        files += found
        labels += [label] * len(found)
    return files, torch.tensor(labels)


def _images_in(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in ENDINGS and not p.name.startswith("."))


def _shape_of(file: Path) -> tuple[int, int, int]:
    with _opened(file) as image:
        return (1 if image.mode in ("1", "L") else 3, image.size[1], image.size[0])


def _opened(file: Path) -> Any:
    try:
        from PIL import Image
    except ImportError:
        raise CompressorError("images need Pillow: pip install 'structured-compress[images]'") from None
    try:
        image = Image.open(file)
        image.load()
    except (
        OSError,
        SyntaxError,
        ValueError,
        Image.DecompressionBombError,
    ) as error:  # Pillow raises these for broken files
        raise CompressorError(f"{file}: is not an image that can be read: {error}") from None
    return image
