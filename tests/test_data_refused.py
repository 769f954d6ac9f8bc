"""Data that does not fit is refused in one line that says what was found, and no file of data runs code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from compressor.data import as_dataset, load_data
from compressor.errors import CompressorError

ROWS = 37
X = torch.arange(ROWS * 5, dtype=torch.float32).reshape(ROWS, 5)
Y = torch.arange(ROWS) % 3


def with_nan() -> Tensor:
    x = X.clone()
    x[11, 2] = float("nan")
    return x


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "has the arrays a, b; the model's inputs are x:": ({"a": X, "b": X}, {}),
    "has the arrays labels; the model's inputs are x": ({"labels": Y}, {}),
    "no array 'digit' .--label-key., only x, labels": ({"x": X, "labels": Y}, {"label_key": "digit"}),
    "both 'labels' and 'y' may be the labels": ({"x": X, "labels": Y, "y": Y}, {}),
    "different numbers of examples .x 37, labels 36.": ({"x": X, "labels": Y[1:]}, {}),
    "'x' holds NaN or infinity, first in example 11": ({"x": with_nan()}, {}),
    "'labels' holds NaN": ({"x": X, "labels": with_nan()[:, 2]}, {}),
    "empty: 0 examples": ({"x": X[:0]}, {}),
    "holds text": ({"x": X, "labels": np.array(["a"] * ROWS)}, {}),
    "--normalize 0.1: is not mean,std": ({"x": X}, {"normalize": "0.1"}),
    "--normalize 0.1,0: is not": ({"x": X}, {"normalize": "0.1,0"}),
    "--normalize has 3 channels; .* shape .5,.": ({"x": X}, {"normalize": "1,1,1,1,1,1"}),
    "'x' is int64; --normalize needs bytes or floats": ({"x": X.long()}, {"normalize": "0,1"}),
    "shape .5,.; --input-shape asks for .6,.": ({"x": X}, {"image_shape": (6,)}),
}


@pytest.mark.parametrize("said", REFUSED)
def test_arrays_that_do_not_fit_are_refused_in_one_line_that_names_the_file(said: str, tmp_path: Path) -> None:
    arrays, options = REFUSED[said]
    path = tmp_path / "bad.npz"
    np.savez(path, **{name: np.asarray(value) for name, value in arrays.items()})
    with pytest.raises(CompressorError, match=said) as refused:
        load_data(path, ["x"], **options)
    assert "\n" not in str(refused.value)
    assert "bad.npz" in str(refused.value) or str(refused.value).startswith("--normalize 0")


class Hostile:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (exec, ("raise SystemExit('the file ran code')",))


def test_files_that_would_run_code_are_refused_and_run_none(tmp_path: Path) -> None:
    held = np.array([Hostile()], dtype=object)
    np.save(tmp_path / "a.npy", held)
    np.savez(tmp_path / "b.npz", x=held)
    torch.save({"x": Hostile()}, tmp_path / "c.pt")
    for name in ("a.npy", "b.npz", "c.pt"):
        with pytest.raises(CompressorError, match=name) as refused:
            load_data(str(tmp_path / name), ["x"])
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "name", ["a.npz", "a.npy", "a.safetensors", "a.pt", "a-images-idx3-ubyte", "a-images-idx3-ubyte.gz"]
)
@pytest.mark.parametrize(
    "content", [b"", b"no such format at all", b"PK\x03\x04 broken", b"\x00\x00\x08\x03\x00\x00\x00\x09"]
)
def test_broken_files_are_refused_by_name(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CompressorError, match=f"{name}: cannot be read: ."):
        load_data(str(tmp_path / name), ["x"])


def test_what_is_no_data_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("1,2\n")
    with pytest.raises(CompressorError, match=r"train\.csv.*'\.csv'.*\.npz"):
        load_data(str(tmp_path / "train.csv"), ["x"])
    with pytest.raises(CompressorError, match=r"nothing\.npz: there is no such data"):
        load_data(str(tmp_path / "nothing.npz"), ["x"])
    for value, said in (
        (7, "cannot be int"),
        ([], "empty list"),
        (iter([X]), "only once"),
        (lambda: iter(()), "is empty"),
        (lambda: 7, "cannot be int|returned int"),
        ((X, X, Y, Y), "has 4 arrays; the model's inputs are x"),
        ([(X, Y[1:])], "differ in their numbers of examples"),
        (lambda: iter([(X, Y[1:])]), "differ in their numbers of examples"),
    ):
        with pytest.raises(CompressorError, match=said):
            as_dataset(value, ["x"])


def test_nan_in_a_stream_is_refused_when_it_is_read() -> None:
    data = as_dataset(lambda: iter([(with_nan(), Y)]), ["x"])
    with pytest.raises(CompressorError, match="NaN"):
        list(data.batches(7))


def test_one_example_cannot_be_split() -> None:
    with pytest.raises(CompressorError, match="has 1 example"):
        as_dataset(X[:1], ["x"]).split(0.5, 0)
