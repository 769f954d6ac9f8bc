"""Data in: what is read, how it is matched, split and shuffled, and what is refused."""

from __future__ import annotations

import gzip
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.utils import data as torch_data

from compressor.data import Batch, Dataset, MapDataset, StreamDataset, TensorDataset, as_dataset, load_data
from compressor.errors import CompressorError

ROWS = 137


def table() -> tuple[Tensor, Tensor]:
    """Each example is its own number, so that it can be recognised."""
    x = torch.arange(ROWS, dtype=torch.float32).unsqueeze(1).repeat(1, 3)
    return x, torch.arange(ROWS) % 5


def numbers(data: Dataset, batch_size: int = 10, seed: int | None = None) -> list[int]:
    return [int(row[0]) for batch in data.batches(batch_size, seed=seed) for row in batch.inputs[0]]


def whole(data: Dataset) -> Batch:
    return data.head(len(data))


class Squares(torch_data.Dataset):
    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        return torch.full((3,), float(place)) + 0 * torch.rand(3), place % 5


def make(kind: str) -> Dataset:
    x, labels = table()
    pieces = [(x[i : i + 11], labels[i : i + 11]) for i in range(0, ROWS, 11)]
    loader = torch_data.DataLoader(torch_data.TensorDataset(x, labels), batch_size=7, shuffle=True)
    made = {
        "tuple": (x, labels),
        "dict": {"label": labels, "x": x},
        "numpy": (x.numpy(), labels.numpy()),
        "loader": loader,
        "dataset": Squares(),
        "loader of a dataset": torch_data.DataLoader(Squares(), batch_size=4, shuffle=True),
        "batches": pieces,
        "dicts": [{"x": a, "labels": b} for a, b in pieces],
        "function": lambda: iter(pieces),
    }[kind]
    return as_dataset(made, ["x"])


KINDS = ["tuple", "dict", "numpy", "loader", "dataset", "loader of a dataset", "batches", "dicts", "function"]


# --- the contract of every dataset ----------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_seed_the_order_is_the_files_and_labels_stay_with_their_rows(kind: str) -> None:
    data = make(kind)
    assert numbers(data) == list(range(ROWS))
    assert len(data) == ROWS
    assert data.has_labels
    for batch in data.batches(16, seed=3):
        assert batch.labels is not None
        assert batch.labels.dtype == torch.int64
        torch.testing.assert_close(batch.labels, batch.inputs[0][:, 0].long() % 5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_shuffles_every_example_once_and_the_same_way_each_time(kind: str) -> None:
    data = make(kind)
    first = numbers(data, seed=1)
    torch.manual_seed(5)
    assert numbers(data, seed=1) == first
    assert sorted(first) == list(range(ROWS))
    assert first != list(range(ROWS))
    assert numbers(data, seed=2) != first


@pytest.mark.parametrize("kind", KINDS)
def test_the_parts_of_a_split_are_disjoint_complete_and_the_same_again(kind: str) -> None:
    data = make(kind)
    rest, back = data.split(0.1, 3)
    assert len(rest) + len(back) == ROWS
    assert 10 <= len(back) <= 17
    for seed in (None, 1):
        assert sorted(numbers(rest, seed=seed) + numbers(back, seed=seed)) == list(range(ROWS))
    again = make(kind).split(0.1, 3)
    assert [numbers(part) for part in again] == [numbers(rest), numbers(back)]
    assert numbers(data.split(0.1, 4)[1]) != numbers(back)
    inner, held = rest.split(0.2, 3)
    assert sorted(numbers(inner, seed=9) + numbers(held)) == sorted(numbers(rest))
    assert numbers(data) == list(range(ROWS))


@pytest.mark.parametrize("kind", KINDS)
def test_batches_have_the_size_asked_for_and_head_the_first_rows(kind: str) -> None:
    data = make(kind)
    for seed in (None, 1):
        assert [len(batch) for batch in data.batches(50, seed=seed)] == [50, 50, 37]
    assert data.head(1).inputs[0].tolist() == [[0, 0, 0]]
    assert len(data.head(1000)) == ROWS


@pytest.mark.parametrize("kind", KINDS)
def test_reading_does_not_move_the_random_numbers_of_the_training(kind: str) -> None:
    data = make(kind)
    torch.manual_seed(0)
    expected = torch.rand(4)
    torch.manual_seed(0)
    got = [torch.rand(1) for _batch in zip(range(4), data.batches(8, seed=1), strict=False)]
    torch.testing.assert_close(torch.cat(got), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_the_fingerprint_stands_for_values_in_their_order(kind: str) -> None:
    data = make(kind)
    assert data.fingerprint() == make(kind).fingerprint() == make("tuple").fingerprint()
    x, labels = table()
    x[ROWS - 1, 0] += 1
    assert as_dataset((x, labels), ["x"]).fingerprint() != data.fingerprint()
    assert data.split(0.1, 0)[0].fingerprint() != data.fingerprint()


@pytest.mark.parametrize("kind", KINDS)
def test_without_labels_there_are_none(kind: str) -> None:
    data = make(kind)
    bare = data.without_labels()
    assert not bare.has_labels
    assert all(batch.labels is None for batch in bare.batches(30, seed=1))
    assert data.has_labels
    assert data.head(1).labels is not None


def test_a_change_to_a_batch_does_not_change_the_data() -> None:
    data = make("tuple")
    for batch in data.batches(ROWS):
        batch.inputs[0].zero_()
    assert numbers(data) == list(range(ROWS))


def test_kinds_of_data_are_told_apart() -> None:
    kinds = {kind: type(make(kind)) for kind in KINDS}
    assert {k for k, t in kinds.items() if t is TensorDataset} == {"tuple", "dict", "numpy", "loader"}
    assert {k for k, t in kinds.items() if t is MapDataset} == {"dataset", "loader of a dataset"}
    assert {k for k, t in kinds.items() if t is StreamDataset} == {"batches", "dicts", "function"}


def test_a_loader_with_a_sampler_of_its_own_keeps_it() -> None:
    x, labels = table()
    items = torch_data.TensorDataset(x, labels)
    some = torch_data.DataLoader(items, sampler=torch_data.SubsetRandomSampler([4, 2, 99]), batch_size=2)
    assert numbers(as_dataset(some, ["x"])) == [4, 2, 99]
    weights = torch.zeros(ROWS)
    weights[7] = 1
    heavy = torch_data.DataLoader(items, sampler=torch_data.WeightedRandomSampler(weights, 5), batch_size=2)
    assert numbers(as_dataset(heavy, ["x"])) == [7] * 5


def test_random_transforms_repeat_with_the_seed() -> None:
    class Noisy(Squares):
        def __getitem__(self, place: int) -> tuple[Tensor, int]:
            return torch.rand(3), 0

    data = as_dataset(Noisy(), ["x"])
    first, again, other = (next(data.batches(5, seed=seed)).inputs[0] for seed in (1, 1, 2))
    torch.testing.assert_close(first, again)
    assert not torch.equal(first, other)


def test_sequences_of_different_lengths_share_no_batch() -> None:
    lengths = [3, 3, 5, 5, 5, 3]
    data = as_dataset([torch.zeros(4, length, dtype=torch.int64) for length in lengths], ["tokens"])
    shapes = [tuple(batch.inputs[0].shape) for batch in data.batches(8)]
    assert shapes == [(8, 3), (8, 5), (4, 5), (4, 3)]


# --- files ----------------------------------------------------------------------------------------


def write(path: Path, arrays: dict[str, Tensor]) -> None:
    if path.suffix == ".npz":
        np.savez(path, **{name: x.numpy() for name, x in arrays.items()})
    elif path.suffix == ".safetensors":
        save_file({name: x.contiguous() for name, x in arrays.items()}, path)
    else:
        torch.save(arrays, path)


@pytest.mark.parametrize("ending", [".npz", ".safetensors", ".pt", ".pth"])
def test_named_arrays_go_to_the_inputs_of_their_names(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"data{ending}"
    ids, mask, labels = torch.arange(35).reshape(7, 5), torch.ones(7, 5) * 0.5, torch.arange(7.0)
    write(file, {"mask": mask, "ids": ids, "targets": labels, "extra": torch.zeros(2)})
    batch = whole(load_data(str(file), ["ids", "mask"]))
    torch.testing.assert_close(batch.inputs, (ids, mask))
    torch.testing.assert_close(batch.labels, labels)


def test_the_only_array_is_taken_whatever_its_name_and_a_label_key_names_the_labels(tmp_path: Path) -> None:
    file = tmp_path / "data.npz"
    np.savez(file, images=np.ones((3, 4), np.float64), digit=np.array([[2], [0], [1]], np.uint8))
    batch = whole(load_data(str(file), ["input"], label_key="digit"))
    torch.testing.assert_close(batch.inputs[0], torch.ones(3, 4))
    torch.testing.assert_close(batch.labels, torch.tensor([2, 0, 1]))


def test_an_input_that_is_called_like_labels_is_an_input(tmp_path: Path) -> None:
    write(tmp_path / "data.npz", {"y": torch.ones(3, 2), "label": torch.arange(3)})
    batch = whole(load_data(str(tmp_path / "data.npz"), ["y"]))
    torch.testing.assert_close(batch.inputs[0], torch.ones(3, 2))
    torch.testing.assert_close(batch.labels, torch.arange(3))


def test_npy_and_a_plain_tensor_are_one_input_without_labels(tmp_path: Path) -> None:
    x = np.arange(14, dtype=">f8").reshape(7, 2)[::-1]
    np.save(tmp_path / "a.npy", x)
    torch.save(torch.from_numpy(x.astype(float)), tmp_path / "a.pt")
    for name in ("a.npy", "a.pt"):
        data = load_data(str(tmp_path / name), ["x"])
        assert not data.has_labels
        torch.testing.assert_close(whole(data).inputs[0], torch.from_numpy(x.astype(np.float32)))


def test_code_gives_anything_that_python_could_give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_batches.py").write_text(
        "import torch\n"
        "def pair():\n    return torch.ones(5, 2), torch.arange(5)\n"
        "def generator():\n    for i in range(3):\n        yield torch.full((4, 2), float(i)), torch.zeros(4)\n"
    )
    monkeypatch.chdir(tmp_path)
    assert len(load_data("my_batches:pair", ["x"])) == 5
    data = load_data("my_batches.py:generator", ["x"])
    assert numbers(data) == numbers(data) == [0] * 4 + [1] * 4 + [2] * 4


# --- conversion -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "becomes"),
    [
        (np.uint8, torch.float32), (np.float64, torch.float32), (np.float16, torch.float32),
        (np.int64, torch.int64), (np.int32, torch.int32), (np.int16, torch.int64), (np.uint16, torch.int64),
        (np.bool_, torch.bool),
    ],
)  # fmt: skip
def test_numbers_become_what_models_compute_with_and_are_not_scaled(given: type, becomes: torch.dtype) -> None:
    x = np.array([[0, 1], [1, 1]]).astype(given) * given(1 if given is np.bool_ else 100)
    got = as_dataset(x, ["x"]).head(2).inputs[0]
    assert got.dtype == becomes
    assert got.tolist() == x.tolist()


def test_normalize_divides_8_bit_images_by_255_and_takes_floats_as_they_are(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 1, 5, 7), np.uint8)
    np.savez(tmp_path / "eight.npz", x=images)
    np.savez(tmp_path / "float.npz", x=(images / 255).astype(np.float32))
    expected = torch.from_numpy((images / 255 - 0.1307) / 0.3081).float()
    for name in ("eight", "float"):
        got = whole(load_data(str(tmp_path / f"{name}.npz"), ["x"], normalize="0.1307,0.3081")).inputs[0]
        torch.testing.assert_close(got, expected)


def test_normalize_by_channel_takes_each_channel_by_its_own(tmp_path: Path) -> None:
    x = torch.rand(5, 3, 4, 4)
    write(tmp_path / "x.npz", {"x": x})
    got = whole(load_data(str(tmp_path / "x.npz"), ["x"], normalize="1,2,3,4,5,6")).inputs[0]
    for channel in range(3):
        torch.testing.assert_close(got[:, channel], (x[:, channel] - (channel + 1)) / (channel + 4))


@pytest.mark.parametrize("shape", [(3, 5, 7), (3, 5, 7, 1), (3, 35), (3, 1, 5, 7)])
def test_images_are_brought_to_the_shape_of_the_input(tmp_path: Path, shape: tuple[int, ...]) -> None:
    x = np.arange(105, dtype=np.uint8).reshape(shape)
    np.save(tmp_path / "x.npy", x)
    got = whole(load_data(str(tmp_path / "x.npy"), ["x"], image_shape=(1, 5, 7))).inputs[0]
    torch.testing.assert_close(got, torch.arange(105.0).reshape(3, 1, 5, 7))


def test_colours_that_come_last_are_turned_not_folded(tmp_path: Path) -> None:
    x = torch.arange(2 * 4 * 6 * 3, dtype=torch.uint8).reshape(2, 4, 6, 3)
    np.save(tmp_path / "x.npy", x.numpy())
    got = whole(load_data(str(tmp_path / "x.npy"), ["x"], image_shape=(3, 4, 6))).inputs[0]
    torch.testing.assert_close(got, x.movedim(3, 1).float())


# --- folders of images ----------------------------------------------------------------------------


def image(path: Path, value: int, size: tuple[int, int] = (7, 5), mode: str = "L") -> None:
    images = pytest.importorskip("PIL.Image")
    path.parent.mkdir(parents=True, exist_ok=True)
    images.new(mode, size, value if mode == "L" else (value, 0, 1)).save(path)


def test_a_folder_of_images_is_labelled_by_its_class_folders(tmp_path: Path) -> None:
    for name, value in (("b/1.png", 10), ("b/0.png", 20), ("a/9.png", 30)):
        image(tmp_path / name, value)
    (tmp_path / "a" / "notes.txt").write_text("no image")
    data = load_data(str(tmp_path), ["x"])
    for _ in range(2):  # decoded, and kept
        batch = whole(data)
        assert batch.labels is not None
        assert batch.labels.tolist() == [0, 1, 1]
        assert batch.inputs[0].shape == (3, 1, 5, 7)
        assert batch.inputs[0][:, 0, 0, 0].tolist() == [30, 20, 10]
    rest, back = data.split(0.4, 0)
    assert len(rest) == 2
    assert len(back) == 1


def test_loose_images_have_no_labels_and_colour_has_three_channels(tmp_path: Path) -> None:
    image(tmp_path / "1.png", 9, mode="RGB")
    data = load_data(str(tmp_path), ["x"])
    assert not data.has_labels
    assert whole(data).inputs[0][0, :, 0, 0].tolist() == [9, 0, 1]


def test_images_of_different_size_are_refused_or_resized_to_the_input(tmp_path: Path) -> None:
    image(tmp_path / "a" / "1.png", 10)
    image(tmp_path / "a" / "2.png", 20, (9, 9))
    with pytest.raises(CompressorError, match=r"2.png: is 9x9, the first image 7x5; .*--input-shape"):
        whole(load_data(str(tmp_path), ["x"]))
    got = whole(load_data(str(tmp_path), ["x"], image_shape=(3, 4, 6))).inputs[0]
    assert got.shape == (2, 3, 4, 6)
    assert got[:, 2, 3, 5].tolist() == [10, 20]


def test_folders_that_are_no_class_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CompressorError, match="holds no images"):
        load_data(str(tmp_path), ["x"])
    (tmp_path / "empty").mkdir()
    image(tmp_path / "full" / "1.png", 1)
    with pytest.raises(CompressorError, match="class folder 'empty' holds no images"):
        load_data(str(tmp_path), ["x"])
    (tmp_path / "empty" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"0" * 30)
    with pytest.raises(CompressorError, match=r"broken.png: is not an image"):
        load_data(str(tmp_path), ["x"])


# --- refusals -------------------------------------------------------------------------------------


def refusals(folder: Path) -> Iterator[tuple[str, dict, str]]:
    x = np.ones((3, 2), np.float32)
    bad = x.copy()
    bad[2, 1] = np.nan
    np.savez(folder / "good.npz", x=x, labels=np.arange(3))
    np.savez(folder / "names.npz", a=x, b=x)
    np.savez(folder / "rows.npz", x=x, labels=np.arange(4))
    np.savez(folder / "labels.npz", labels=np.arange(4))
    np.savez(folder / "both.npz", x=x, labels=np.arange(3), y=np.arange(3))
    np.savez(folder / "nan.npz", x=bad)
    np.savez(folder / "empty.npz", x=x[:0])
    np.savez(folder / "text.npz", x=np.array(["a", "b"]))
    np.savez(folder / "objects.npz", x=np.array([{}, {}], dtype=object))
    np.save(folder / "objects.npy", np.array([{}, {}], dtype=object))
    np.save(folder / "number.npy", np.float32(3))
    np.savez(folder / "tokens.npz", x=np.ones((3, 2), np.int64))
    (folder / "garbage.npz").write_bytes(b"PK\x03\x04 nothing of the kind")
    (folder / "garbage.safetensors").write_bytes(b"nothing of the kind")
    (folder / "garbage.pt").write_bytes(b"nothing of the kind")
    (folder / "pickled.pt").write_bytes(pickle.dumps(pytest.raises))
    (folder / "table.csv").write_text("1,2\n")
    (folder / "images.gz").write_bytes(gzip.compress(b"0"))
    yield "missing.npz", {}, "no such file"
    yield "table.csv", {}, r"files ending in '.csv' are not read; give .npz, .npy"
    yield "images.gz", {}, r"files ending in '.gz' are not read"
    yield "names.npz", {}, "the model's inputs are x; it holds a, b"
    yield "rows.npz", {}, "rows differ: 'x' has 3, 'labels' has 4"
    yield "labels.npz", {}, "the model's inputs are x; it holds labels"
    yield "both.npz", {}, "holds labels and y: say which are the labels"
    yield "good.npz", {"label_key": "digit"}, "no array 'digit' for the labels; it holds labels, x"
    yield "number.npy", {"label_key": "digit"}, "label key 'digit' was given, but the arrays have no names"
    yield "nan.npz", {}, "'x' holds NaN or infinity, first in row 2"
    yield "empty.npz", {}, "holds no examples"
    yield "text.npz", {}, "'x' holds <U1"
    yield "objects.npz", {}, "holds Python objects"
    yield "objects.npy", {}, "holds Python objects"
    yield "number.npy", {}, "'x' is a single number"
    yield "garbage.npz", {}, "cannot be read"
    yield "garbage.safetensors", {}, "is not a safetensors file"
    yield "garbage.pt", {}, "holds more than tensors|cannot be read"
    yield "pickled.pt", {}, "holds more than tensors"
    yield "good.npz", {"normalize": "0.5"}, "normalize '0.5': write MEAN,STD"
    yield "good.npz", {"normalize": "0.5,0"}, "each std above 0"
    yield "good.npz", {"normalize": "1,1,1,2,2,2"}, "normalize has 3 means, the inputs are"
    yield "tokens.npz", {"normalize": "0,1"}, "no input is 8-bit or floating"


def test_what_does_not_fit_is_one_clear_line_that_names_the_file(tmp_path: Path) -> None:
    for name, options, said in refusals(tmp_path):
        with pytest.raises(CompressorError, match=said) as caught:
            load_data(str(tmp_path / name), ["x"], **options)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (iter([torch.ones(2, 2)]), "can be read only once"),
        (3, "a int is not data"),
        ([], "gives no batches"),
        ((torch.ones(2), torch.ones(2), torch.ones(2)), r"holds 3 arrays, the model takes 1 \(x\)"),
        ([torch.full((2, 2), float("inf"))], "'x' holds NaN or infinity"),
        ((torch.ones(2, 2), ["a", "b"]), "'labels' holds <U1"),
        (("weights", torch.ones(2)), "'x' is a str, not an array"),
        (torch.ones(2, 2).to_sparse(), "'x' is sparse"),
        ((torch.ones(1, 2), torch.ones(1)), "too few to hold a part back"),
        ([torch.ones(1, 2)], "too few to hold a part back"),
    ],
)
def test_python_data_that_does_not_fit_is_refused_in_one_line(value: object, said: str) -> None:
    with pytest.raises(CompressorError, match=said):
        as_dataset(value, ["x"]).split(0.5, 0)


def test_nan_is_found_far_down_and_its_row_named() -> None:
    x = torch.zeros(9001)
    x[8500] = float("nan")
    with pytest.raises(CompressorError, match="'x' holds NaN or infinity, first in row 8,500"):
        as_dataset(x, ["x"])


def test_a_function_that_gives_the_same_iterator_twice_is_found_out() -> None:
    once = iter([torch.ones(2, 2)] * 3)
    data = as_dataset(lambda: once, ["x"])
    with pytest.raises(CompressorError, match="gave batches once only"):
        list(data.batches(2)), list(data.batches(2))


def test_the_real_lenet_finds_0_95_percent_of_the_test_digits_hard(data_folder: Path, tmp_path: Path) -> None:
    """Kept here because it reads real files: uint8 images in, a published figure out."""
    from torch import nn

    from compressor.measure import evaluate

    def read(name: str, skip: int) -> np.ndarray:
        return np.frombuffer(gzip.decompress((data_folder / "mnist" / name).read_bytes())[skip:], np.uint8)

    names = sorted(path.name for path in (data_folder / "mnist").glob("t10k*"))
    images = read(next(n for n in names if "images" in n), 16).reshape(-1, 28, 28)
    labels = read(next(n for n in names if "labels" in n), 8)
    np.savez(tmp_path / "mnist.npz", pixels=images, labels=labels)
    parts = [nn.Conv2d(1, 20, 5), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2), nn.Flatten()]
    net = nn.Sequential(*parts, nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10))
    weights = torch.load(data_folder / "lenet_caffe" / "lenet_state_dict.pt", weights_only=True)
    net.load_state_dict(dict(zip(net.state_dict(), weights.values(), strict=True)))
    std = 256 / 255  # x/255/std = x/256, as Caffe trained it
    data = load_data(str(tmp_path / "mnist.npz"), ["x"], normalize=f"0,{std}", image_shape=(1, 28, 28))
    found = evaluate(lambda inputs: net(*inputs), data, "error")
    assert found.examples == 10_000
    assert found.value == pytest.approx(0.0095)


def test_images_of_more_than_8_bits_are_refused_and_not_cut_off(tmp_path: Path) -> None:
    images = pytest.importorskip("PIL.Image")
    images.fromarray(np.full((5, 7), 63_000, np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(CompressorError, match=r"a\.png: has more than 8 bits a channel"):
        whole(load_data(str(tmp_path), ("x",)))


def test_complex_inputs_are_refused_and_not_halved() -> None:
    with pytest.raises(CompressorError, match="complex"):
        whole(as_dataset(torch.ones(4, 3, dtype=torch.complex64), ("x",)))


def test_what_the_code_of_the_data_raises_is_said_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "data.py").write_text("def make():\n    return {}['missing']\n")
    with pytest.raises(CompressorError, match=r"data\.py:make' raised KeyError: 'missing'"):
        load_data(f"{tmp_path / 'data.py'}:make", ("x",))


def test_data_from_python_takes_the_options_that_files_take() -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8), dtype=np.uint8)
    given = {"images": images, "digit": np.arange(20)}
    data = as_dataset(given, ["x"], label_key="digit", normalize="0.5,0.25", image_shape=(1, 8, 8))
    first = data.head(20)
    torch.testing.assert_close(first.inputs[0], (torch.from_numpy(images).unsqueeze(1) / 255 - 0.5) / 0.25)
    assert first.labels is not None
    assert first.labels.tolist() == list(range(20))
    again = as_dataset(torch_data.TensorDataset(first.inputs[0]), ["x"], normalize="1,2")
    torch.testing.assert_close(again.head(20).inputs[0], (first.inputs[0] - 1) / 2)
    with pytest.raises(CompressorError, match="is a Dataset, ready for the model: give label_key and normalize where"):
        as_dataset(data, ["x"], normalize="1,2")
    with pytest.raises(CompressorError, match="normalize 'half': write MEAN,STD"):
        as_dataset(given, ["x"], normalize="half")
