"""Pictures of weights on a grid: the colours and places are those of the numbers, the files are safe to write."""

from __future__ import annotations

import base64
import re
import struct
import xml.etree.ElementTree as ET
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import compressor
from compressor.layers import KernelNet, Predicted, StructuredLayer
from compressor.report.pictures import centres, fields, write_pictures

SVG = "{http://www.w3.org/2000/svg}"
RED, BLUE, WHITE = [178, 24, 43], [33, 102, 172], [255, 255, 255]


def pixels(picture: str) -> np.ndarray:
    """The PNG inside, decoded by the format's definition (8-bit RGB, no filter)."""
    data = base64.b64decode(re.search(r"base64,([^\"]+)", picture)[1])  # type: ignore[index]
    width, height, depth, colour = struct.unpack(">IIBB", data[16:26])
    assert (depth, colour) == (8, 2)
    start = data.index(b"IDAT")
    (length,) = struct.unpack(">I", data[start - 4 : start])
    lines = np.frombuffer(zlib.decompress(data[start + 4 : start + 4 + length]), np.uint8).reshape(height, -1)
    assert not lines[:, 0].any()
    return lines[:, 1:].reshape(height, width, 3)


def gridded(**settings: object) -> KernelNet:
    return KernelNet(12, 5, kernel="gaussian", d=2, grid="3x4", **settings)


def test_a_field_has_each_weight_where_its_input_is_as_strong_as_it_is() -> None:
    weight = np.zeros((1, 12))
    weight[0, 6], weight[0, 11] = 2.0, -1.0  # row 1, column 2; row 2, column 3
    picture = pixels(fields(weight, (3, 4), "fc"))[1:4, 1:5]
    assert picture[1, 2].tolist() == RED
    half_blue = [round(255 + 0.5 * (c - 255)) for c in BLUE]
    assert np.abs(picture[2, 3].astype(int) - half_blue).max() <= 1
    picture = picture.copy()
    picture[1, 2] = picture[2, 3] = WHITE
    assert (picture == 255).all()


def test_maps_of_one_output_stand_side_by_side_and_a_map_not_full_ends_white() -> None:
    weight = np.ones((1, 2 * 4 - 1))  # two maps of 2 x 2, the last input missing
    picture = pixels(fields(weight, (2, 2), "fc"))
    assert picture[1, 1].tolist() == picture[2, 2].tolist() == picture[1, 4].tolist() == picture[2, 4].tolist() == RED
    assert picture[2, 5].tolist() == WHITE


def test_of_many_outputs_those_with_the_largest_weights_are_drawn_and_it_says_so() -> None:
    weight = np.eye(150, 4)
    weight[:, 0] += np.arange(150)
    picture = fields(weight, (2, 2), "fc")
    assert "100 of 150 outputs" in picture
    drawn = [int(found) for found in re.findall(r"<title>output (\d+)</title>", picture)]
    assert drawn == list(range(50, 150))


def test_an_output_stands_at_the_centre_of_mass_of_its_weights() -> None:
    weight = np.zeros((3, 12))
    weight[0, 6] = -3.0  # all on one input
    weight[1, 0], weight[1, 3] = 1.0, 3.0  # three quarters of the way along the upper row
    root = ET.fromstring(centres(weight, (3, 4), "fc"))
    dots = {dot.find(f"{SVG}title").text: dot for dot in root.iter(f"{SVG}circle")}  # type: ignore[union-attr]
    assert dots.keys() == {"output 0", "output 1"}  # output 2 looks at nothing
    cell = 480 / 4
    for name, x, y in (("output 0", 2.5, 1.5), ("output 1", 0.25 * 0.5 + 0.75 * 3.5, 0.5)):
        assert float(dots[name].get("cx", "nan")) == pytest.approx(x * cell)
        assert float(dots[name].get("cy", "nan")) == pytest.approx(28 + y * cell)
    assert dots["output 0"].get("fill") == "rgb(33,102,172)"
    assert dots["output 1"].get("fill") == "rgb(178,24,43)"


def test_only_layers_that_know_where_their_inputs_lie_are_drawn(tmp_path: Path) -> None:
    layers: list[tuple[str, StructuredLayer]] = [
        ("fc.1", gridded()),
        ("free", KernelNet(12, 5)),
        ("smooth", Predicted(12, 5, dictionary="se", grid="3x4")),
    ]
    names = write_pictures(layers, tmp_path)
    assert names == ["fc.1-fields.svg", "fc.1-map.svg", "smooth-fields.svg", "smooth-map.svg"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    for name in names:
        ET.fromstring((tmp_path / name).read_text(encoding="utf-8"))


def test_a_hostile_name_neither_leaves_the_folder_nor_the_text(tmp_path: Path) -> None:
    name = '../../a"<script>alert(1)</script>\x1b[2J'
    folder = tmp_path / "inner" / "folder"
    folder.mkdir(parents=True)
    for file in write_pictures([(name, gridded())], folder):
        text = (folder / file).read_text(encoding="utf-8")
        assert "<script" not in text
        assert "\x1b" not in text
        ET.fromstring(text)
    assert [path.name for path in tmp_path.iterdir()] == ["inner"]
    assert [path.name for path in folder.parent.iterdir()] == ["folder"]


def test_a_compression_writes_the_pictures_beside_the_report(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 30), nn.ReLU(), nn.Linear(30, 3))
    settings = {"kernel": "gaussian", "d": 2, "grid": "3x4", "out_grid": "auto"}
    rows = (torch.randn(64, 12), torch.randint(3, (64,)))
    result = compressor.compress(
        model, "kernelnet", data=rows, epochs=0, target=("0",), settings=settings, output=tmp_path / "out"
    )
    drawn = sorted(path.name for path in (tmp_path / "out").glob("*.svg"))
    assert drawn == ["0-fields.svg", "0-map.svg"]
    assert any("0-fields.svg" in note for note in result.report.notes)
