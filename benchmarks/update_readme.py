"""Fill the README's tables, between their markers, from the command itself and from committed results.

``make readme`` runs it; with ``--check`` it only says whether the README is up to date (exit status 1 if not).
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import click

from compressor.cli import cli
from compressor.console import costs
from compressor.layers import methods
from compressor.training import Training

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
RESULTS = ROOT / "benchmarks" / "results"


def methods_table() -> str:
    """Every method and preset: what it is, what it stores and multiplies, its source."""
    lines = [
        "| method | what it is | parameters | MACs | source |",
        "| --- | --- | ---: | ---: | --- |",
        f"| dense | | {1024**2:,} | {1024**2:,} | |",
    ]
    for entry in methods().values():
        cost = costs(entry)
        what = entry.summary if entry.name == entry.layer.method else f"preset of `{entry.layer.method}`"
        lines.append(f"| `{entry.name}` | {what} | {cost['params']:,} | {cost['macs']:,} | {entry.source} |")
    return "\n".join(lines)


def commands() -> str:
    """The sub-commands, one line each."""
    rows = [f"| `compress {name}` | {_first_sentence(command.help)} |" for name, command in cli.commands.items()]
    return "\n".join(["| command | what it does |", "| --- | --- |", *rows])


def options() -> str:
    """Every option of every command, with the commands that have it."""
    found: dict[str, tuple[str, str, list[str]]] = {}
    for name, command in cli.commands.items():
        for option in command.params:
            if isinstance(option, click.Option):
                shown = ", ".join(f"`{spelling}`" for spelling in option.opts)
                key = option.opts[-1] + (option.help or "")
                found.setdefault(key, (shown, option.help or "", []))[2].append(name)
    everywhere = list(cli.commands)
    rows = []
    for shown, text, names in found.values():
        where = "all" if names == everywhere else ", ".join(names)
        rows.append(f"| {shown} | {where} | {text.replace('|', chr(92) + '|')} |")
    return "\n".join(["| option | of | what it does |", "| --- | --- | --- |", *rows])


def training() -> str:
    """Every option of the training, with its default."""
    defaults = Training().model_dump(mode="json")
    rows = [
        f"| `{name}` | {'–' if defaults[name] is None else defaults[name]} | {field.description} |"
        for name, field in Training.model_fields.items()
    ]
    return "\n".join(["| `--train` | default | what it is |", "| --- | ---: | --- |", *rows])


def demo() -> str:
    """The demo's before/after table."""
    path = RESULTS / "demo.json"
    if not path.exists():
        return "_not measured yet: `make demo`_"
    result = json.loads(path.read_text(encoding="utf-8"))
    before, after = result["before"], result["after"]
    rows = [
        ("test accuracy", f"{before['accuracy']:.2%}", f"{after['accuracy']:.2%}", ""),
        _count("parameters", before["params"], after["params"]),
        _count("in dense layers", before["dense_params"], after["dense_params"]),
        _count("MACs per image", before["macs"], after["macs"]),
        *(
            _count(f"bytes of {name}", before["size_bytes"][name], size)
            for name, size in after["size_bytes"].items()
            if name in before["size_bytes"]
        ),
    ]
    for runtime, batches in after["latency_ms"].items():
        for batch, row in batches.items():
            old, new = before["latency_ms"][runtime][batch]["median"], row["median"]
            ratio = f"{old / new:.2f}×" if new <= old else f"{new / old:.2f}× **slower**"
            rows.append((f"ms, {runtime}, batch {batch}", f"{old:.3f}", f"{new:.3f}", ratio))
    lines = ["| MNIST convnet (ccexam) | original | acdc | |", "| --- | ---: | ---: | ---: |"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([*lines, "", _machine(result)])


def comparison(name: str, title: str, figures: dict[str, tuple[str, str]]) -> str:
    """The networks of a comparison, a line each; ``figures`` are the heading and format of each key of quality."""
    path = RESULTS / f"{name}.json"
    if not path.exists():
        return "_not measured yet: `make bench`_"
    result = json.loads(path.read_text(encoding="utf-8"))
    qualities = [heading for heading, _ in figures.values()]
    heads = ["dense parameters", "smaller", "ONNX bytes", "MACs", *qualities, "ms, onnxruntime"]
    original = result["rows"][0]
    dense = original["dense_params"]
    is_native = any(row.get("native_ms") for row in result["rows"])
    if is_native:
        heads.append("ms, native kernels")
    lines = [f"| {' | '.join((title, *heads))} |", f"| --- |{' ---: |' * len(heads)}"]
    for row in result["rows"]:
        counted = f"{row['dense_params']:,}" if row["dense_params"] else "–"
        ratio = f"{dense / row['dense_params']:.1f}×" if row["dense_params"] else "–"
        size, macs = (f"{row[key]:,}" if row.get(key) else "–" for key in ("onnx_bytes", "macs"))
        found = [format(row[key], kind) for key, (_, kind) in figures.items()]
        timed = [_ms(row[key], original[key]) for key in ("latency_ms", "native_ms")[: 1 + is_native]]
        cells = (row["name"], counted, ratio, size, macs, *found, *timed)
        lines.append(f"| {' | '.join(cells)} |")
    how = f"{result['epochs']} epochs of training each; the original as it is."
    if result.get("training"):
        how += f" Options: `--train {' --train '.join(result['training'])}`."
    notes = [f"{row['name']}: {row['note']}." for row in result["rows"] if row.get("note")]
    return "\n".join([*lines, "", *notes, how, _machine(result)])


def _ms(value: float | None, original: float | None) -> str:
    if value is None or original is None:
        return "–"
    return f"{value:.3f}" + (", slower" if value > original else "")


KINDS = {
    "warm": "",
    "cold": "cold caches",
    "python": "from Python, against `nn.Linear`",
    "train": "forward and backward, against the layer in plain torch",
}


_SIZES, _BATCHES = (1024, 4096, 9216), (1, 128)  # the others stay in the results


def kernels() -> str:
    """How many times as quick as the dense layer the native kernels are."""
    path = RESULTS / "kernels_cpu.json"
    if not path.exists():
        return "_not measured yet: `python benchmarks/kernels_cpu.py --keep`_"
    result = json.loads(path.read_text(encoding="utf-8"))
    heads = ["N", "K", "batch", "dense, µs", "native, µs", "times as quick", "of the FMA peak", "of a copy's speed"]
    lines = [f"| op | {' | '.join(heads)} | |", f"| --- |{' ---: |' * len(heads)} --- |"]
    for row in result["rows"]:
        if row["n"] not in _SIZES or row["batch"] not in _BATCHES:
            continue
        floors = ["" if row[key] is None else f"{row[key]:.0%}" for key in ("fma", "memory")]
        times = f"{row['ratio']:.1f} ± {row['spread']:.1f}"
        figures = [f"{row[key]:,}" for key in ("n", "k", "batch")]
        figures += [f"{row['dense_us']:,.1f}", f"{row['ours_us']:,.2f}", times, *floors]
        note = ", ".join(word for word in (row["variant"], KINDS[row["kind"]]) if word)
        lines.append(f"| {row['op']} | {' | '.join(figures)} | {note} |")
    versions = ", ".join(f"{name} {result['versions'][name]}" for name in ("torch", "onnxruntime"))
    where = [result["machine"]["processor"], result["isa"], "one thread", versions, result["note"]]
    return "\n".join([*lines, "", ", ".join(word for word in where if word) + "."])


def onnx_versions() -> str:
    """Exported layers against the dense one on every version of onnxruntime, on their bodies and natively."""
    path = RESULTS / "onnx_versions.json"
    if not path.exists():
        return "_not measured yet: `python benchmarks/onnx_versions.py`_"
    report = json.loads(path.read_text(encoding="utf-8"))
    results = report["results"]
    heads = ["layer", "N", "batch", *(result["onnxruntime"] for result in results), "dense, µs"]
    found = [f"| {' | '.join(heads)} |", f"| --- | ---: | ---: |{' ---: |' * (len(results) + 1)}"]
    for rows in zip(*(result["rows"] for result in results), strict=True):
        cells = [rows[0]["layer"], f"{rows[0]['n']:,}", str(rows[0]["batch"])]
        for row in rows:
            us = {kind: figures["median_us"] for kind, figures in row["us"].items()}
            slower = ", slower" if us["native"] > us["body"] else ""
            cells.append(f"{_times(us['dense'] / us['body'])} → {_times(us['dense'] / us['native'])}{slower}")
        found.append(f"| {' | '.join(cells)} | {rows[-1]['us']['dense']['median_us']:,.0f} |")
    apart = max(row["difference"] for result in results for row in result["rows"])
    note = (
        f"The two differ by at most {apart:.0e} of the output. {report['machine']['processor']}, one thread (median)."
    )
    return "\n".join([*found, "", note])


def onnx_files() -> str:
    """One line a file and method."""
    path = RESULTS / "onnx_files.json"
    if not path.exists():
        return "_not measured yet: `make bench`_"
    result = json.loads(path.read_text(encoding="utf-8"))
    heads = ["file", "exporter", "inputs", "method", "maps replaced", "parameters", "MACs", "ONNX bytes", "error", "ms"]
    lines = [f"| {' | '.join(heads)} |", f"| --- | --- | --- | --- |{' ---: |' * 6}"]
    for row in result["rows"]:
        said = [f"`{row['file']}` ({row['package']})", row["exporter"], row["inputs"], row["method"]]
        if "failure" in row:
            lines.append(f"| {' | '.join(said)} | {row['failure']} | | | | | |")
            continue
        pairs = [
            " → ".join("–" if one is None else f"{one:,}" for one in row[key]) for key in ("params", "macs", "bytes")
        ]
        error = f"{row['relative_error']:.3f}" + ("" if row["trained"] else ", not trained")
        timed = [("", row["ms"]), ("native kernels: ", row.get("native_ms") or (None, None))]
        times = "; ".join(
            f"{runtime}{old:.2f} → {new:.2f}" + (", slower" if new > old else "")
            for runtime, (old, new) in timed
            if new is not None
        )
        cells = (*said, f"{row['replaced']} of {row['maps']}", *pairs, error, times)
        lines.append(f"| {' | '.join(cells)} |")
    how = f"{result['epochs']} epochs of training. " if result["epochs"] else "Fitted layer by layer, not trained. "
    return "\n".join([*lines, "", how + _machine(result)])


def scale() -> str:
    """What streamed jobs took, a sentence each."""
    said = []
    for name, what in (("scale", "safetensors"), ("scale_onnx", "ONNX with external data")):
        path = RESULTS / f"{name}.json"
        if not path.exists():
            continue
        found = json.loads(path.read_text(encoding="utf-8"))
        size, layer, peak, bound, written = (
            f"{found[f'{key}_bytes'] / 1e9:.2f} GB" for key in ("model", "layer", "peak", "bound", "size")
        )
        said.append(
            f"Measured (`benchmarks/scale.py`), {what}: a model of {size}, largest layer {layer}, by"
            f" `{found['method']}` to {written}: the process took {peak} at most, Python and torch with it; the model"
            f" and twice its largest layer are {bound}."
        )
    return "\n".join(said) or "_not measured yet: `make bench`_"


def folder() -> str:
    """What a fresh process made of a compressed folder, in one sentence."""
    path = RESULTS / "hugging_face.json"
    if not path.exists():
        return "_not measured yet: `make bench`_"
    found = json.loads(path.read_text(encoding="utf-8"))
    before, after = found["dense_params"]
    return (
        f"Measured (`benchmarks/hugging_face.py`): all-MiniLM-L6-v2 by `{found['method']}`, {before:,} to {after:,}"
        f" dense parameters: sentence embeddings by `from_pretrained` in a fresh process are off those in memory by"
        f" {found['fresh_process_off']:.1e}, those of stock onnxruntime by {found['onnxruntime_off']:.1e}."
    )


def kernels_job() -> str:
    """What the kernels do for a whole job, in one sentence."""
    path = RESULTS / "kernels_job.json"
    if not path.exists():
        return "_not measured yet: `make bench`_"
    found = json.loads(path.read_text(encoding="utf-8"))
    plain, native = (row["wall_time_s"] for row in found["rows"])
    return (
        f"A whole job (`benchmarks/kernels_job.py`), the Caffe LeNet by ACDC in {found['epochs']} epochs, most of it"
        f" convolutions: {plain:.0f} s in plain torch, {native:.0f} s with the kernels."
    )


def vectors() -> str:
    """What whole vectors of outputs cost against single weights, in one sentence."""
    path = RESULTS / "vectors.json"
    if not path.exists():
        return "_not measured yet: `make bench`_"
    found = json.loads(path.read_text(encoding="utf-8"))
    said = []
    for block in dict.fromkeys(row["block"] for row in found["rows"]):
        rows = [row for row in found["rows"] if row["block"] == block]
        errors = " and ".join(f"{row['error']:.2%}" for row in rows)
        said.append(f"{errors} with `block={block}` ({rows[0]['bytes']:,} bytes of model.safetensors)")
    return (
        f"The {found['job']} by `pruned` at density {found['density']} (`benchmarks/vectors.py`), {found['epochs']}"
        f" epoch{'s' * (found['epochs'] > 1)} of training, a figure a seed: test errors of {', '.join(said)};"
        f" the original has {found['rows'][0]['original']:.2%}."
    )


_LENET = ("Caffe LeNet on MNIST", {"error": ("test error", ".2%")})
_LSTM = ("LSTM on rows of MNIST", {"error": ("test error", ".2%")})
_MINILM = ("all-MiniLM-L6-v2 on SICK", {"spearman": ("Spearman", ".4f"), "cosine": ("cosine with the original", ".4f")})

TABLES: dict[str, Callable[[], str]] = {
    "methods": methods_table,
    "commands": commands,
    "options": options,
    "training": training,
    "demo": demo,
    "lenet": lambda: comparison("caffe_lenet", *_LENET),
    "lenet_every": lambda: comparison("caffe_lenet_every", *_LENET),
    "lenet_onnx": lambda: comparison("caffe_lenet_onnx", *_LENET),
    "onnx_files": onnx_files,
    "lstm": lambda: comparison("lstm", *_LSTM),
    "kernels": kernels,
    "kernels_job": kernels_job,
    "vectors": vectors,
    "onnx_versions": onnx_versions,
    "minilm": lambda: comparison("minilm", *_MINILM),
    "folder": folder,
    "scale": scale,
}


def fill(text: str) -> str:
    """``text`` with every marked part replaced by its table."""
    for name, table in TABLES.items():
        marked = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if not marked.search(text):
            raise SystemExit(f"README.md has no part marked {name}")
        content = table()
        text = marked.sub(lambda found, content=content: f"{found[1]}{content}\n{found[2]}", text)
    return text


def main() -> int:
    """Fill or check; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 if the README is out of date")
    check = parser.parse_args().check
    old = README.read_text(encoding="utf-8")
    new = fill(old)
    if check:
        print("README.md is up to date" if old == new else "README.md is out of date: make readme", file=sys.stderr)
        return int(old != new)
    README.write_text(new, encoding="utf-8")
    return 0


def _count(name: str, before: int, after: int) -> tuple[str, str, str, str]:
    return name, f"{before:,}", f"{after:,}", f"{before / after:.1f}× less" if after <= before else "**more**"


def _machine(result: dict) -> str:
    versions = ", ".join(f"{name} {result['versions'][name]}" for name in ("torch", "onnxruntime"))
    machine = f"{result['machine']['processor']}, latency at batch 1 on one thread (median)"
    return f"{machine}, {versions}, seed {result['seed']}."


def _times(ratio: float) -> str:
    return f"{ratio:.0f}×" if ratio >= 10 else f"{ratio:.1f}×"


def _first_sentence(text: str | None) -> str:
    return " ".join((text or "").split("\n\n")[0].split()).removesuffix(".")


if __name__ == "__main__":
    raise SystemExit(main())
