"""A folder of images, in folders by class or all in one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from compressor.data.dataset import TensorDataset
from compressor.data.preparation import Preparation
from compressor.errors import CompressorError

if TYPE_CHECKING:
    from PIL.Image import Image

_ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp"}
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def load_images(folder: Path, prepare: Preparation) -> TensorDataset:
    """The images below ``folder`` as bytes ``(rows, channels, height, width)``.

    Each folder in it is a class, numbered in the order of the names as torchvision's ``ImageFolder`` does;
    images right in ``folder`` have no labels. The order of the rows takes each class in turn. Where
    ``prepare.shape`` says so images become grey or coloured and are resized (bilinear); else all must be of one size.
    """
    files, labels = _listed(folder)
    shape = prepare.shape if prepare.shape is not None and len(prepare.shape) == 3 else None
    if shape is not None and shape[0] not in _MODES:
        raise CompressorError(f"--input-shape asks for images with {shape[0]} channels; an image has 1, 3 or 4")
    first = _open(files[0])
    if first.mode[0] in "IF":
        raise CompressorError(f"{files[0]}: has pixels of more than 8 bits; convert the images, or give an array")
    mode = _MODES[shape[0]] if shape else ("L" if first.mode in ("L", "1") else "RGB")
    size = (shape[2], shape[1]) if shape else first.size  # Pillow's (width, height)
    channels = len(mode)
    rows = torch.empty(len(files), channels, size[1], size[0], dtype=torch.uint8)
    for place, path in enumerate(files):
        image = _open(path)
        if image.size != size and shape is None:
            raise CompressorError(
                f"{path}: is {image.size[0]}×{image.size[1]}, {files[0].name} is {size[0]}×{size[1]};"
                f" say the size: --input-shape 1,{channels},{size[1]},{size[0]}"
            )
        rows[place] = _pixels(image, mode, size)
    return TensorDataset([rows], labels, prepare=prepare, names=["images"])


def _listed(folder: Path) -> tuple[list[Path], Tensor | None]:
    """The files, and the number of the class of each; classes take turns."""
    classes = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    loose = _images_in(folder)
    if not classes:
        if not loose:
            raise CompressorError(f"{folder}: holds no images and no folders of images ({', '.join(sorted(_ENDINGS))})")
        return loose, None
    if loose:
        raise CompressorError(f"{folder}: holds both images ({loose[0].name}) and folders by class; keep one of them")
    by_class = [_images_in(path) for path in classes]
    for path, found in zip(classes, by_class, strict=True):
        if not found:
            raise CompressorError(f"{path}: is the folder of a class without images; remove it or fill it")
    turns = sorted((turn, number) for number, found in enumerate(by_class) for turn in range(len(found)))
    return [by_class[number][turn] for turn, number in turns], torch.tensor([number for _, number in turns])


def _images_in(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in _ENDINGS and not p.name.startswith("."))


def _open(path: Path) -> Image:
    try:
        from PIL import Image as Pillow
    except ImportError:
        raise CompressorError(
            "reading images needs Pillow, which is not installed: pip install 'structured-compress[images]'"
        ) from None
    try:
        with Pillow.open(path) as image:
            image.load()
            return image
    except (OSError, SyntaxError, ValueError) as error:
        raise CompressorError(f"{path}: cannot be read as an image: {' '.join(str(error).split())[:120]}") from None


def _pixels(image: Image, mode: str, size: tuple[int, int]) -> Tensor:
    if image.mode != mode:
        image = image.convert(mode)
    if image.size != size:
        image = image.resize(size, resample=2)  # bilinear
    pixels = np.array(image, dtype=np.uint8)
    return torch.from_numpy(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1).copy())
