"""Exported layers in onnxruntime, one thread: function bodies, native operators and a dense Gemm, timed in turns.

``--versions`` makes an environment for each version of onnxruntime, installs it there from the registry, and checks and
times the same files in it: below each other, on its bodies, with the library, and how far the two differ. Writes
``benchmarks/results/onnx_native.json``, or ``onnx_versions.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

import torch
from facts import facts, keep
from torch import nn

from compressor.layers import build
from compressor_converters.onnx_file import save_onnx
from compressor_kernels import onnx_library_path

VERSIONS = ("1.17.3", "1.20.1", "1.24.4", "")  # "": the current release
OLD_NUMPY = ("1.17", "1.18")  # built against numpy 1
EQUAL = 1e-5

Layer = tuple[str, dict[str, Any]]  # method and settings
Case = tuple[str, dict[str, Any], int, int]  # and N, and batch


def cases(quick: bool) -> list[Case]:
    """What is exported and timed."""
    batches = (1, 128) if quick else (1, 32, 128)
    cascades: list[Layer] = [("acdc", {"depth": 1}), ("acdc", {"depth": 12})]
    layers = [*cascades, ("acdc", {"depth": 2, "basis": "dct2d"}), ("fastfood", {}), ("pruned", {"density": 0.05})]
    by_size = {1024: layers} if quick else {1024: layers, 4096: layers, 9216: cascades}
    return [(*layer, n, batch) for n, found in by_size.items() for layer in found for batch in batches]


def export(folder: Path, found: list[Case]) -> None:
    """Write the models and the ``cases.json`` that `onnx_timing` takes. "nothing" is what a call costs by itself."""
    rows = []
    for method, settings, n, batch in found:
        layer = method + "".join(f",{key}={value}" for key, value in settings.items())
        files = {"model": f"{layer},n={n}", "dense": f"dense,n={n}", "nothing": f"nothing,n={n}"}
        torch.manual_seed(0)
        made = {
            "model": build(method, n, n, bias=True, config=settings),
            "dense": nn.Linear(n, n),
            "nothing": nn.ReLU(),
        }
        for kind, name in files.items():
            path = folder / f"{name}.onnx"
            if not path.exists():
                save_onnx(made[kind].eval(), (torch.zeros(2, n),), path, input_names=["x"])
        rows.append({"name": f"{layer},n={n},batch={batch}", "n": n, "batch": batch, **files})
    (folder / "cases.json").write_text(json.dumps(rows), encoding="utf-8")


def timed(python: Path, folder: Path, library: Path, seconds: float) -> dict[str, Any]:
    """What `onnx_timing` prints, run by ``python``."""
    script = Path(__file__).resolve().parent / "onnx_timing.py"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [str(python), str(script), str(folder), str(library), str(seconds)],
        env=environment | {"OMP_NUM_THREADS": "1"},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def environment(folder: Path, version: str) -> Path:
    """The interpreter of a fresh virtual environment with that version of onnxruntime; wheels only."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    wanted = [f"onnxruntime=={version}" if version else "onnxruntime"]
    wanted += ["numpy<2"] if version.startswith(OLD_NUMPY) else []
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--only-binary=:all:", *wanted], check=True)
    return python


def table(result: dict[str, Any]) -> str:
    """The figures as text: microseconds with their spread, and ratios."""
    kinds = ("body", "native", "dense", "nothing")
    lines = [
        f"onnxruntime {result['onnxruntime']}, one thread, microseconds: median (10th to 90th percentile)",
        f"{'':36} {'differs':>8}" + "".join(f"{kind:>25}" for kind in kinds) + "  body/native dense/native",
    ]
    for row in result["rows"]:
        us = row["us"]
        spread = "".join(
            f"{us[kind]['median_us']:9.1f} ({us[kind]['p10_us']:.1f} to {us[kind]['p90_us']:.1f})".rjust(25)
            for kind in kinds
        )
        ratios = [us[kind]["median_us"] / us["native"]["median_us"] for kind in ("body", "dense")]
        said = f"{row['difference']:8.1e}" if row["nodes"] else "not run"
        lines.append(f"{row['name']:36} {said:>8}{spread} {ratios[0]:12.1f} {ratios[1]:12.1f}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="N = 1024 only, shorter")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of the table")
    parser.add_argument(
        "--versions", nargs="*", help=f"versions of onnxruntime; without any: {', '.join(VERSIONS)}current"
    )
    arguments = parser.parse_args()
    library = onnx_library_path()
    if library is None:
        sys.exit("the native kernels are not built: run python kernels/build.py")
    seconds = 0.3 if arguments.quick else 2.0
    results = []
    with tempfile.TemporaryDirectory() as place:
        files = Path(place) / "files"
        files.mkdir()
        export(files, cases(arguments.quick))
        if arguments.versions is None:
            results.append(timed(Path(sys.executable), files, library, seconds))
        else:
            for i, version in enumerate(arguments.versions or VERSIONS):
                python = environment(Path(place) / f"environment{i}", version)
                results.append(timed(python, files, library, seconds))
    for result in results:
        if not arguments.json:
            print(table(result), end="\n\n")
    report = {**facts(0), "quick": arguments.quick, "results": results}
    if arguments.json:
        print(json.dumps(report, indent=1))
    elif not arguments.quick:
        keep("onnx_native" if arguments.versions is None else "onnx_versions", report)
    wrong = [(r["onnxruntime"], row["name"]) for r in results for row in r["rows"] if row["difference"] > EQUAL]
    unused = [(r["onnxruntime"], row["name"]) for r in results for row in r["rows"] if not row["nodes"]]
    if wrong or unused:
        sys.exit(f"not equal to {EQUAL}: {wrong}; not run natively: {unused}")


if __name__ == "__main__":
    main()
