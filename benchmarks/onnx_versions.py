"""Exported layers on several versions of onnxruntime: equal on their bodies and on the native operators, and how quick.

Each version gets an environment of its own in ``.demo/``, kept for the next time, and takes the same files there, by
`onnx_timing`: on one thread, in turns with a dense layer of the same sides. Exit status 1 where the two differ by more
than 1e-5 of the output, or where a node did not run natively. Writes ``benchmarks/results/onnx_versions.json``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from facts import facts, keep, parser, show
from packages import STORE
from torch import nn

from compressor.layers import build
from compressor_converters.onnx_file import save_onnx
from compressor_kernels import onnx_library_path

CURRENT, HERE = "current", "here"
VERSIONS = ("1.17.3", "1.20.1", "1.24.4", CURRENT)  # the last releases of the three, which have wheels for Python 3.11
NUMPY_1 = ("1.17.", "1.18.")  # built against numpy 1
EQUAL = 1e-5

Case = tuple[str, dict[str, Any], int, int]  # method, settings, N, batch


def cases(quick: bool) -> list[Case]:
    """What is exported and timed."""
    layers: list[tuple[str, dict[str, Any]]] = [
        ("acdc", {"depth": 1}),
        ("acdc", {"depth": 12}),
        ("acdc", {"depth": 2, "basis": "dct2d"}),
        ("afdf", {}),
        ("circulant", {}),
        ("fastfood", {}),
        ("monarch", {}),
        ("phd", {}),
        ("pruned", {"density": 0.05}),
        ("pruned", {"density": 0.05, "block": 16}),
        ("toeplitz", {}),
    ]
    sizes = (1024,) if quick else (1024, 4096)
    return [(*layer, n, batch) for n in sizes for layer in layers for batch in (1, 128)]


def export(folder: Path, found: list[Case], seed: int) -> None:
    """Write the models and the ``cases.json`` that `onnx_timing` takes. "nothing" is what a call costs by itself."""
    rows = []
    for method, settings, n, batch in found:
        layer = " ".join([method, *(f"{key}={value}" for key, value in settings.items())])
        files = {"model": f"{layer} {n}", "dense": f"dense {n}", "nothing": f"nothing {n}"}
        for kind, name in files.items():
            path = folder / f"{name}.onnx"
            if not path.exists():
                torch.manual_seed(seed)
                model = build(method, n, n, bias=True, config=settings) if kind == "model" else nn.Linear(n, n)
                model = nn.ReLU() if kind == "nothing" else model
                save_onnx(model.eval(), (torch.zeros(2, n),), path, input_names=["x"])
        rows.append({"layer": layer, "n": n, "batch": batch, **files})
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


def environment(version: str) -> Path:
    """The interpreter of an environment with that version of onnxruntime, made when it is asked for first."""
    if version == HERE:
        return Path(sys.executable)
    folder = STORE / f"onnxruntime-{version}"
    python, stamp = folder / "bin" / "python", folder / "installed"
    if stamp.exists() and version != CURRENT:  # the current release is asked for again: there may be a newer one
        return python
    if not stamp.exists():
        venv.create(folder, with_pip=True, clear=True)
    wanted = [f"onnxruntime=={version}" if version != CURRENT else "onnxruntime"]
    wanted += ["numpy<2"] if version.startswith(NUMPY_1) else []
    pip = [str(python), "-m", "pip", "install", "--quiet", "--upgrade", "--only-binary=:all:"]
    subprocess.run([*pip, *wanted], check=True)
    stamp.touch()
    return python


def lines(results: list[dict[str, Any]]) -> Iterator[str]:
    """The figures as text: microseconds with their spread, and ratios."""
    kinds = ("body", "native", "dense", "nothing")
    for result in results:
        yield f"onnxruntime {result['onnxruntime']}, one thread, microseconds: median (10th to 90th percentile)"
        heads = "".join(f"{kind:>25}" for kind in kinds)
        yield f"{'':38} {'differs':>8}{heads}  dense/body dense/native"
        for row in result["rows"]:
            us = row["us"]
            spread = "".join(
                f"{us[kind]['median_us']:9.1f} ({us[kind]['p10_us']:.1f} to {us[kind]['p90_us']:.1f})".rjust(25)
                for kind in kinds
            )
            ratios = [us["dense"]["median_us"] / us[kind]["median_us"] for kind in ("body", "native")]
            said = f"{row['difference']:8.1e}" if row["nodes"] else "not run"
            name = f"{row['layer']}, {row['n']}, batch {row['batch']}"
            yield f"{name:38} {said:>8}{spread} {ratios[0]:11.1f} {ratios[1]:12.1f}"
        yield ""


def main() -> int:
    options = parser(__doc__, quick="N = 1024 only, shorter")
    options.add_argument(
        "--versions",
        nargs="+",
        default=VERSIONS,
        help=f"versions of onnxruntime, '{CURRENT}' release, '{HERE}': this environment's; {' '.join(VERSIONS)}",
    )
    arguments = options.parse_args()
    library = onnx_library_path()
    if library is None:
        print("the native kernels are not built: run python kernels/build.py", file=sys.stderr)
        return 2
    try:
        interpreters = [environment(version) for version in arguments.versions]
    except subprocess.CalledProcessError as error:
        print(f"cannot be installed here: {' '.join(map(str, error.cmd[-2:]))}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as place:
        export(Path(place), cases(arguments.quick), arguments.seed)
        seconds = 0.2 if arguments.quick else 0.6
        results = [timed(python, Path(place), library, seconds) for python in interpreters]
    report = {**facts(arguments.seed), "quick": arguments.quick, "results": results}
    show(report, lines(results), as_json=arguments.json)
    if not arguments.quick and tuple(arguments.versions) == VERSIONS:
        keep("onnx_versions", report)
    rows = [(result["onnxruntime"], row) for result in results for row in result["rows"]]
    bad = [f"{version} {row['layer']} {row['n']}" for version, row in rows if row["difference"] > EQUAL]
    bad += [f"{version} {row['layer']} {row['n']} (on its body)" for version, row in rows if not row["nodes"]]
    if bad:
        print(f"not equal, or not native: {'; '.join(bad)}", file=sys.stderr)
    return int(bool(bad))


if __name__ == "__main__":
    raise SystemExit(main())
