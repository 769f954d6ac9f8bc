"""Exported files through onnxruntime, on their bodies and on the native operators: equality, and times in turns.

Needs numpy and onnxruntime only, so that it runs in an environment with any version of them. Called with a folder of
models and a ``cases.json`` that says which, a library, and seconds for each case, it prints one JSON document.
"""

from __future__ import annotations

import ctypes
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

TURN_S = 0.002  # one candidate's turn, before the next one's


def session(path: Path, library: Path | None) -> onnxruntime.InferenceSession:
    """``path`` on one thread, with the operators of ``library`` or without."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if library is not None:
        options.register_custom_ops_library(str(library))
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def bound(found: onnxruntime.InferenceSession, x: np.ndarray) -> Callable[[], object]:
    """A call of the session with its input and output in place: what is timed is the model, not Python's copies."""
    binding = found.io_binding()
    binding.bind_cpu_input(found.get_inputs()[0].name, x)
    binding.bind_output(found.get_outputs()[0].name)
    return lambda: found.run_with_iobinding(binding)


def in_turns(runs: Mapping[str, Callable[[], object]], seconds: float) -> dict[str, dict[str, float]]:
    """Microseconds of a call of each of ``runs``: median, 10th and 90th percentile of the turns' means.

    The candidates take turns of about 2 ms, in an order that turns from round to round, so that all meet a disturbance.
    What counts is the thread's own time on the processor: a session of one thread works in the thread that calls it.
    """
    calls = {}
    for name, run in runs.items():
        run()
        start = time.thread_time()
        run()
        calls[name] = max(1, min(1000, int(TURN_S / max(1e-7, time.thread_time() - start))))
    samples: dict[str, list[float]] = {name: [] for name in runs}
    names, end = list(runs), time.perf_counter() + seconds
    while time.perf_counter() < end or len(samples[names[0]]) < 4:
        for name in names:
            run, count = runs[name], calls[name]
            run()
            start = time.thread_time()
            for _ in range(count):
                run()
            samples[name].append((time.thread_time() - start) / count * 1e6)
        names.append(names.pop(0))
    return {
        name: {
            "median_us": statistics.median(found),
            "p10_us": float(np.percentile(found, 10)),
            "p90_us": float(np.percentile(found, 90)),
        }
        for name, found in samples.items()
    }


def measured(folder: Path, case: dict[str, Any], library: Path, seconds: float) -> dict[str, Any]:
    """One case: how many nodes ran natively, the largest difference relative to the output, and times."""
    kernels = ctypes.CDLL(str(library)).ck_onnx_kernels
    kernels.restype = ctypes.c_int64
    x = np.random.default_rng(0).standard_normal((case["batch"], case["n"])).astype(np.float32)
    files = {kind: folder / f"{case[kind]}.onnx" for kind in ("model", "dense", "nothing")}
    before = kernels()
    stock, native = session(files["model"], None), session(files["model"], library)
    nodes = kernels() - before
    [expected], [found] = (one.run(None, {"x": x}) for one in (stock, native))
    others = {kind: bound(session(files[kind], None), x) for kind in ("dense", "nothing")}
    return {
        **{key: case[key] for key in ("layer", "n", "batch")},
        "nodes": nodes,
        "difference": float(np.abs(found - expected).max() / max(1.0, np.abs(expected).max())),
        "us": in_turns({"body": bound(stock, x), "native": bound(native, x), **others}, seconds),
    }


def main() -> None:
    folder, library, seconds = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
    cases = json.loads((folder / "cases.json").read_text(encoding="utf-8"))
    rows = [measured(folder, case, library, seconds) for case in cases]
    print(json.dumps({"onnxruntime": onnxruntime.__version__, "rows": rows}))


if __name__ == "__main__":
    main()
