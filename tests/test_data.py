"""Data in: every kind of source gives the same examples, in an order that the seed alone decides."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, SubsetRandomSampler
from torch.utils.data import TensorDataset as TorchTensorDataset

from compressor.data import Batch, Dataset, StreamDataset, TensorDataset, as_dataset, load_data
from compressor.errors import CompressorError

ROWS = 37
X = torch.arange(ROWS * 5, dtype=torch.float32).reshape(ROWS, 5)
Y = torch.arange(ROWS) % 3


class Streamed(IterableDataset):  # type: ignore[type-arg]
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return zip(X, Y, strict=True)


class Counted(torch.utils.data.Dataset):  # type: ignore[type-arg]
    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        return X[place], int(Y[place])


def batches_by_function() -> Iterator[tuple[Tensor, Tensor]]:
    return zip(X.split(4), Y.split(4), strict=True)


# The same examples, from every kind of source that has no file.
LIVE: dict[str, Callable[[], Any]] = {
    "tuple of tensors": lambda: (X, Y),
    "tuple of arrays": lambda: (X.numpy(), Y.numpy()),
    "dict": lambda: {"x": X, "labels": Y},
    "torch data set": lambda: TorchTensorDataset(X, Y),
    "data set with places": Counted,
    "loader": lambda: DataLoader(Counted(), batch_size=4),
    "shuffling loader": lambda: DataLoader(Counted(), batch_size=4, shuffle=True),
    "shuffling loader of tensors": lambda: DataLoader(TorchTensorDataset(X, Y), batch_size=4, shuffle=True),
    "loader of a stream": lambda: DataLoader(Streamed(), batch_size=4),
    "list of batches": lambda: list(batches_by_function()),
    "list of dicts": lambda: [{"x": x, "labels": y} for x, y in batches_by_function()],
    "list of our batches": lambda: [Batch((x,), y) for x, y in batches_by_function()],
    "function": lambda: batches_by_function,
    "function giving a loader": lambda: lambda: DataLoader(Counted(), batch_size=4),
    "function giving arrays": lambda: lambda: (X, Y),
}


@pytest.fixture(params=LIVE)
def live(request: pytest.FixtureRequest) -> Dataset:
    return as_dataset(LIVE[request.param](), ["x"])


def together(data: Dataset, batch_size: int = 7, seed: int | None = None) -> tuple[Tensor, Tensor]:
    read = list(data.batches(batch_size, seed=seed))
    return torch.cat([b.inputs[0] for b in read]), torch.cat([b.labels for b in read if b.labels is not None])


def test_a_pass_gives_all_examples_in_the_order_of_the_source_in_batches_of_the_size_asked_for(live: Dataset) -> None:
    assert live.has_labels
    assert len(live) == ROWS
    assert [len(batch) for batch in live.batches(7)] == [7, 7, 7, 7, 7, 2]
    for batch_size in (1, 5, ROWS, 100):
        x, y = together(live, batch_size)
        assert torch.equal(x, X)
        assert torch.equal(y, Y)
    assert torch.equal(live.head(3).inputs[0], X[:3])
    assert len(live.head(100)) == ROWS


def test_the_seed_alone_decides_the_shuffling_and_labels_stay_with_their_examples(live: Dataset) -> None:
    x, y = together(live, seed=1)
    torch.manual_seed(99)
    again, _ = together(live, seed=1)
    other, _ = together(live, seed=2)
    assert torch.equal(x, again)
    assert not torch.equal(x, other)
    assert not torch.equal(x, X)
    assert torch.equal(x.sort(dim=0).values, X)
    assert torch.equal(y, (x[:, 0] / 5).long() % 3)


def test_what_is_held_back_is_never_in_the_rest_in_any_pass_and_nothing_is_lost(live: Dataset) -> None:
    rest, held = live.split(0.25, seed=3)
    away = set(together(held)[0][:, 0].tolist())
    for seed in (None, 1, 2):
        kept = set(together(rest, seed=seed)[0][:, 0].tolist())
        assert not kept & away
        assert kept | away == set(X[:, 0].tolist())
    assert len(rest) + len(held) == ROWS
    assert 4 <= len(held) <= 14
    again = live.split(0.25, seed=3)[1]
    assert torch.equal(together(again)[0], together(held)[0])
    assert not torch.equal(together(live.split(0.25, seed=4)[1])[0], together(held)[0])
    inner, deeper = rest.split(0.3, seed=4)
    assert not set(together(deeper)[0][:, 0].tolist()) & (away | set(together(inner)[0][:, 0].tolist()))


def test_without_labels_there_are_none_in_any_batch_or_part(live: Dataset) -> None:
    bare = live.without_labels()
    for data in (bare, *bare.split(0.25, seed=0)):
        assert not data.has_labels
        assert all(batch.labels is None for batch in data.batches(7))
    assert len(bare) == ROWS


def test_the_fingerprint_changes_with_content_and_only_with_it(live: Dataset) -> None:
    assert live.fingerprint() == live.fingerprint()
    rest, held = live.split(0.25, seed=3)
    other = live.split(0.25, seed=5)[1]
    assert len({data.fingerprint() for data in (live, rest, held, other, live.without_labels())}) == 5


def test_the_fingerprint_of_arrays_is_that_of_their_bytes_wherever_they_come_from(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=X.numpy(), labels=Y.numpy())
    found = load_data(str(tmp_path / "a.npz"), ["x"]).fingerprint()
    assert found == as_dataset((X, Y), ["x"]).fingerprint()
    changed = X.clone()
    changed[-1, -1] += 1
    assert found != as_dataset((changed, Y), ["x"]).fingerprint()


def test_a_loader_that_draws_a_part_of_its_data_set_gives_that_part_only() -> None:
    loader = DataLoader(Counted(), batch_size=4, sampler=SubsetRandomSampler([30, 2, 17]))
    assert together(as_dataset(loader, ["x"]))[0][:, 0].tolist() == [10, 85, 150]


def test_a_loader_keeps_its_own_way_of_putting_examples_together() -> None:
    def double(examples: list[Any]) -> Any:
        x, y = torch.utils.data.default_collate(examples)
        return 2 * x, y

    for source in (Counted(), TorchTensorDataset(X, Y)):
        assert torch.equal(together(as_dataset(DataLoader(source, collate_fn=double), ["x"]))[0], 2 * X)


def test_a_stream_is_shuffled_across_its_batches_and_not_only_within_them() -> None:
    first = as_dataset(batches_by_function, ["x"])
    rows = next(first.batches(4, seed=0)).inputs[0][:, 0] / 5
    assert float(rows.max()) > 8


def test_batches_padded_to_different_lengths_are_given_one_length_at_a_time() -> None:
    batches = [(torch.full((3, n), n), torch.zeros(3, dtype=torch.long)) for n in (4, 4, 6)]
    for source in (batches, lambda: iter(batches)):
        data = as_dataset(source, ["ids"])
        assert [tuple(batch.inputs[0].shape) for batch in data.batches(5)] == [(5, 4), (1, 4), (3, 6)]
        assert sum(map(len, data.batches(5, seed=1))) == len(data) == 9


def test_a_model_may_write_to_its_input_without_changing_the_data() -> None:
    x = X.clone()
    data = as_dataset((x, Y), ["x"])
    for seed in (None, 0):
        for batch in data.batches(ROWS, seed=seed):
            batch.inputs[0].zero_()
    assert torch.equal(x, X)


# --- files --------------------------------------------------------------------------------------


def write_npz(path: Path, **arrays: Any) -> str:
    np.savez(path, **arrays)
    return str(path)


def test_each_kind_of_file_gives_the_same_examples(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", image=X.numpy(), labels=Y.numpy(), version=np.int64(3))
    np.savez_compressed(tmp_path / "b.npz", x=X.numpy().astype(">f8"), targets=Y.numpy().astype(np.uint16)[:, None])
    save_file({"x": X, "label": Y}, tmp_path / "c.safetensors")
    torch.save({"x": X, "y": Y}, tmp_path / "d.pt")
    torch.save((X, Y), tmp_path / "e.pth")
    for name in ("a.npz", "b.npz", "c.safetensors", "d.pt", "e.pth"):
        data = load_data(str(tmp_path / name), ["x"])
        x, y = together(data)
        assert x.dtype == torch.float32, name
        assert y.dtype == torch.int64, name
        assert torch.equal(x, X), name
        assert torch.equal(y, Y), name
    np.save(tmp_path / "f.npy", X.numpy())
    torch.save(X, tmp_path / "g.pt")
    for name in ("f.npy", "g.pt"):
        data = load_data(str(tmp_path / name), ["anything"])
        assert not data.has_labels
        assert torch.equal(data.head(ROWS).inputs[0], X)


def test_arrays_go_to_the_inputs_of_their_names_and_not_in_the_order_of_the_file(tmp_path: Path) -> None:
    path = write_npz(
        tmp_path / "two.npz", mask=np.ones((3, 2), np.int32), ids=np.zeros((3, 2), np.int16), extra=np.ones(3)
    )
    ids, mask = load_data(path, ["ids", "mask"]).head(3).inputs
    assert (ids.dtype, mask.dtype) == (torch.int64, torch.int32)
    assert int(ids.sum()) == 0
    assert int(mask.sum()) == 6


def test_an_input_called_like_labels_is_an_input(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "y.npz", y=X.numpy(), scores=Y.numpy())
    data = load_data(path, ["y"], label_key="scores")
    assert torch.equal(together(data)[0], X)
    assert torch.equal(together(data)[1], Y)
    assert not load_data(write_npz(tmp_path / "x.npz", y=X.numpy()), ["y"]).has_labels


def test_bytes_are_kept_as_bytes_and_nothing_is_scaled_unless_asked_for(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (7, 2, 3, 5), dtype=np.uint8)
    path = write_npz(tmp_path / "images.npz", x=pixels)
    plain = load_data(path, ["x"])
    assert isinstance(plain, TensorDataset)
    assert plain.inputs[0].dtype == torch.uint8
    torch.testing.assert_close(plain.head(7).inputs[0], torch.from_numpy(pixels).float())
    for text, mean, std in (("0.1,0.3", 0.1, 0.3), ("0.1,0.2,0.3,0.4", [[[0.1]], [[0.2]]], [[[0.3]], [[0.4]]])):
        expected = (pixels / 255.0 - np.array(mean)) / np.array(std)
        found = load_data(path, ["x"], normalize=text).head(7).inputs[0]
        torch.testing.assert_close(found, torch.from_numpy(expected).float())
    floats = write_npz(tmp_path / "floats.npz", x=pixels.astype(np.float64))
    expected = torch.from_numpy((pixels - 0.1) / 0.3).float()
    torch.testing.assert_close(load_data(floats, ["x"], normalize="0.1,0.3").head(7).inputs[0], expected)


@pytest.mark.parametrize(
    ("have", "wanted"), [((3, 5), (1, 3, 5)), ((1, 3, 5), (3, 5)), ((30,), (2, 3, 5)), ((2, 3, 5), (30,))]
)
def test_examples_take_the_shape_that_the_model_wants(
    have: tuple[int, ...], wanted: tuple[int, ...], tmp_path: Path
) -> None:
    x = torch.randn(7, *have)
    found = load_data(write_npz(tmp_path / "a.npz", x=x.numpy()), ["x"], image_shape=wanted).head(7).inputs[0]
    assert torch.equal(found, x.reshape(7, *wanted))


def test_channels_that_come_last_are_moved_and_never_folded(tmp_path: Path) -> None:
    x = torch.randn(7, 3, 5, 2)
    path = write_npz(tmp_path / "a.npz", x=x.numpy())
    assert torch.equal(load_data(path, ["x"], image_shape=(2, 3, 5)).head(7).inputs[0], x.permute(0, 3, 1, 2))
    with pytest.raises(CompressorError, match=r"shape \(3, 5, 2\); --input-shape asks for \(5, 3, 2\)"):
        load_data(path, ["x"], image_shape=(5, 3, 2))


def write_idx(path: Path, array: np.ndarray[Any, Any]) -> None:
    head = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(gzip.compress(head + array.tobytes()))


def test_idx_images_come_with_the_labels_beside_them(tmp_path: Path) -> None:
    pixels = np.arange(7 * 3 * 5, dtype=np.uint8).reshape(7, 3, 5)
    write_idx(tmp_path / "t10k-images-idx3-ubyte.gz", pixels)
    write_idx(tmp_path / "t10k-labels-idx1-ubyte.gz", np.arange(7, dtype=np.uint8))
    x, y = together(load_data(str(tmp_path / "t10k-images-idx3-ubyte.gz"), ["x"]))
    assert torch.equal(x, torch.from_numpy(pixels).float()[:, None])
    assert y.tolist() == list(range(7))


def test_mnist_is_read_whole(data_folder: Path) -> None:
    data = load_data(str(data_folder / "mnist" / "t10k-images-idx3-ubyte.gz"), ["x"], normalize="0.1307,0.3081")
    assert len(data) == 10_000
    x, y = together(data, 1000)
    assert x.shape == (10_000, 1, 28, 28)
    assert y[:7].tolist() == [7, 2, 1, 0, 4, 1, 4]
    assert torch.bincount(y).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert float(x.min()) == pytest.approx(-0.1307 / 0.3081, rel=1e-6)


def test_code_named_in_the_option_gives_the_data(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "X, Y = torch.arange(30.).reshape(10, 3), torch.arange(10)\n"
        "def batches():\n    for i in range(0, 10, 4):\n        yield X[i:i+4], Y[i:i+4]\n"
        "def arrays():\n    return {'x': X, 'labels': Y}\n"
        "def broken():\n    return 7\n"
    )
    for name in ("batches", "arrays"):
        data = load_data(f"{tmp_path}/mine.py:{name}", ["x"], normalize="1,2")
        for _ in range(2):
            x, y = together(data)
            assert torch.equal(x, (torch.arange(30.0).reshape(10, 3) - 1) / 2)
            assert y.tolist() == list(range(10))
    with pytest.raises(CompressorError, match=r"mine\.py:broken: cannot be int"):
        load_data(f"{tmp_path}/mine.py:broken", ["x"])


# --- folders of images --------------------------------------------------------------------------


def write_image(path: Path, pixels: np.ndarray[Any, Any]) -> None:
    image = pytest.importorskip("PIL.Image")
    path.parent.mkdir(parents=True, exist_ok=True)
    image.fromarray(pixels).save(path)


def test_images_by_class_are_numbered_by_the_order_of_names_and_classes_take_turns(tmp_path: Path) -> None:
    for number, name in enumerate(("ant", "bee")):
        for i in range(3 - number):
            write_image(tmp_path / name / f"{i}.png", np.full((3, 5, 3), 100 * number + i, np.uint8))
    x, y = together(load_data(str(tmp_path), ["pixels"]))
    assert x.shape == (5, 3, 3, 5)
    assert x[:, 0, 0, 0].tolist() == [0, 100, 1, 101, 2]
    assert y.tolist() == [0, 1, 0, 1, 0]


def test_channels_and_rows_of_an_image_land_where_the_model_expects_them(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 5, 3), dtype=np.uint8)
    write_image(tmp_path / "one.png", pixels)
    data = load_data(str(tmp_path), ["pixels"])
    assert not data.has_labels
    assert torch.equal(data.head(1).inputs[0][0], torch.from_numpy(pixels).permute(2, 0, 1).float())
    grey = load_data(str(tmp_path), ["pixels"], image_shape=(1, 6, 10)).head(1).inputs[0]
    assert grey.shape == (1, 1, 6, 10)


def test_images_of_different_size_are_refused_unless_a_size_is_given(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", np.zeros((3, 5), np.uint8))
    write_image(tmp_path / "b.png", np.zeros((4, 5), np.uint8))
    with pytest.raises(CompressorError, match=r"b\.png: is 5×4, a\.png is 5×3; say the size: --input-shape 1,1,3,5"):
        load_data(str(tmp_path), ["x"])
    assert load_data(str(tmp_path), ["x"], image_shape=(1, 3, 5)).head(2).inputs[0].shape == (2, 1, 3, 5)


def test_folders_that_are_no_data_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty" / "ant").mkdir(parents=True)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"no image")
    write_image(tmp_path / "deep" / "a.png", np.zeros((3, 5), np.uint16))
    write_image(tmp_path / "both" / "ant" / "a.png", np.zeros((3, 5), np.uint8))
    write_image(tmp_path / "both" / "b.png", np.zeros((3, 5), np.uint8))
    for name, said in {
        "empty": "class without images",
        "empty/ant": "no images",
        "broken": "a.png: cannot be read as an image",
        "deep": "more than 8 bits",
        "both": "both images",
    }.items():
        with pytest.raises(CompressorError, match=said):
            load_data(str(tmp_path / name), ["x"])


# --- small and wide ----------------------------------------------------------------------------


def test_a_stream_of_one_batch_is_split_by_example() -> None:
    rest, held = StreamDataset(lambda: iter([Batch((X,), Y)])).split(0.1, 0)
    assert (len(rest), len(held)) == (33, 4)


def test_models_with_several_inputs_take_tuples_with_or_without_labels() -> None:
    two = (X, -X)
    for value in ((*two, Y), (two, Y), [(two, Y)], {"a": X, "b": -X, "labels": Y}, ({"b": -X, "a": X}, Y)):
        batch = as_dataset(value, ["a", "b"]).head(3)
        assert torch.equal(batch.inputs[1], -X[:3])
        assert batch.labels is not None
    assert as_dataset(two, ["a", "b"]).head(3).labels is None
