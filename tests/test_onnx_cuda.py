"""The operators for onnxruntime's CUDA provider, on the kernels' emulation: everything but the GPU itself is real.

The emulation is the CUDA kernels' own code on the host. It stands where their library would, and the operators are
said to be the CPU's, so that an onnxruntime without a GPU runs them.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from cuda_oracle import emulator
from native_oracle import layer

import compressor
from compressor_converters.onnx_file import save_onnx
from compressor_kernels import cuda, native

pytestmark = [pytest.mark.slow, pytest.mark.skipif(native.library() is None, reason="the native kernels are not built")]

_PROGRAM = """
import ctypes, json, sys
import numpy as np, onnxruntime
from compressor_kernels import native
library, model, folder = sys.argv[1:]
assert native.onnx_for_cuda(library)
options = onnxruntime.SessionOptions()
options.register_custom_ops_library(str(native.library_path()))
assert native.onnx_is_registered()
session = onnxruntime.InferenceSession(model, options)
emulation, counts = ctypes.CDLL(library), (ctypes.c_int64 * 4)()
emulation.ck_emulator_counts(counts)
for rows in (1, 3, 37):
    y = session.run(None, {session.get_inputs()[0].name: np.load(f"{folder}/{rows}.npy")})[0]
    np.save(f"{folder}/{rows}_y.npy", y)
emulation.ck_emulator_counts(counts)
print(json.dumps([native.onnx_kernels(), counts[0], counts[1], counts[2]]))
"""

ROWS = (1, 3, 37)
CASES: list[tuple[str, dict[str, Any], int, int, bool]] = [  # and whether there is a kernel on a GPU
    ("acdc", {"depth": 3, "basis": "dct"}, 128, 128, True),
    ("acdc", {"depth": 2, "relu": True, "permutation": "random", "size": 128}, 120, 77, True),
    ("acdc", {"depth": 2, "permutation": "none"}, 1024, 1024, True),
    ("acdc", {"depth": 2}, 300, 300, False),
    ("acdc", {"depth": 2, "basis": "dct2d"}, 256, 256, False),
    ("fastfood", {}, 100, 200, True),
    ("fastfood", {"features": "relu", "width": 200}, 128, 10, True),
    ("fastfood", {"features": "rbf", "width": 100}, 64, 10, True),
    ("fastfood", {}, 20, 20, False),
]


def run(file: Path, inputs: list[np.ndarray], library: Path, **environment: str) -> tuple[list[np.ndarray], list[int]]:
    """What a process of its own gives for ``inputs``, and its counts: nodes, races, unwritten reads, accesses."""
    for rows, x in zip(ROWS, inputs, strict=True):
        np.save(file.parent / f"{rows}.npy", x)
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(library), str(file), str(file.parent)],
        env={"PATH": "/usr/bin:/bin", **environment}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [np.load(file.parent / f"{rows}_y.npy") for rows in ROWS], [
        int(n) for n in done.stdout.strip("[]\n").split(",")
    ]


@pytest.mark.parametrize(
    ("method", "settings", "inputs", "outputs", "has_kernel", "dtype"),
    [(*case, np.float32) for case in CASES] + [(*CASES[i], np.float16) for i in (1, 3, 7)],
)
def test_a_file_gives_the_same_on_the_cuda_kernels(
    method: str, settings: dict[str, Any], inputs: int, outputs: int, has_kernel: bool, dtype: type, tmp_path: Path
) -> None:
    made, file = layer(method, settings, inputs, outputs), tmp_path / "model.onnx"
    save_onnx(
        made if dtype == np.float32 else made.half(), (torch.zeros(2, inputs).to(next(made.parameters()).dtype),), file
    )
    xs = [np.random.default_rng(rows).standard_normal((rows, inputs)).astype(dtype) for rows in ROWS]
    found, (nodes, races, unwritten, accesses) = run(
        file, xs, Path(emulator().library._name), COMPRESSOR_KERNELS_ORT_EMULATION="1"
    )
    assert (nodes, races, unwritten) == (1, 0, 0)
    assert (accesses > 0) == has_kernel
    session = onnxruntime.InferenceSession(str(file))
    for x, y in zip(xs, found, strict=True):
        expected = session.run(None, {session.get_inputs()[0].name: x})[0].astype(np.float64)
        tolerance = 1e-5 if dtype == np.float32 else 1e-2
        assert y.dtype == dtype
        assert np.abs(y - expected).max() <= tolerance * max(1.0, np.abs(expected).max())


@pytest.mark.parametrize("method", ["acdc", "monarch"])
def test_without_cuda_in_onnxruntime_the_cpu_takes_over(method: str, tmp_path: Path) -> None:
    """ACDC has an operator for either; Monarch, which has none on a GPU, its body."""
    file = tmp_path / "model.onnx"
    save_onnx(layer(method, {}, 128, 128), (torch.zeros(2, 128),), file)
    xs = [np.random.default_rng(rows).standard_normal((rows, 128)).astype(np.float32) for rows in ROWS]
    found, counts = run(file, xs, Path(emulator().library._name))
    assert counts == [int(method == "acdc"), 0, 0, 0]
    session = onnxruntime.InferenceSession(str(file))
    for x, y in zip(xs, found, strict=True):
        expected = session.run(None, {session.get_inputs()[0].name: x})[0]
        assert np.abs(y - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("path", ["absent.so", "empty.so"])
def test_a_library_that_does_not_load_is_none(path: str, tmp_path: Path) -> None:
    (tmp_path / "empty.so").write_bytes(b"")
    assert not native.onnx_for_cuda(tmp_path / path)


def test_a_provider_that_onnxruntime_has_not_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    save_onnx(layer("acdc", {}, 5, 5), (torch.zeros(2, 5),), file)
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        with pytest.raises(compressor.CompressorError, match="has no CUDAExecutionProvider; it has "):
            compressor.onnx_session(file, providers=["CUDAExecutionProvider"])


@pytest.mark.skipif(
    "CUDAExecutionProvider" not in onnxruntime.get_available_providers() or not cuda.library_path().exists(),
    reason="no onnxruntime for CUDA, or no CUDA kernels",
)
@pytest.mark.parametrize(("method", "settings", "inputs", "outputs", "has_kernel"), CASES)
def test_on_a_gpu_a_file_gives_the_same_with_the_kernels_and_without(
    method: str, settings: dict[str, Any], inputs: int, outputs: int, has_kernel: bool, tmp_path: Path
) -> None:
    file = tmp_path / "model.onnx"
    save_onnx(layer(method, settings, inputs, outputs), (torch.zeros(2, inputs),), file)
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    before = native.onnx_kernels()
    session = compressor.onnx_session(file, providers=providers)
    assert native.onnx_kernels() == before + 1, has_kernel
    for rows in ROWS:
        x = {
            session.get_inputs()[0].name: np.random.default_rng(rows).standard_normal((rows, inputs)).astype(np.float32)
        }
        expected = compressor.onnx_session(file, native=False).run(None, x)[0]
        assert np.abs(session.run(None, x)[0] - expected).max() <= 1e-5 * max(1.0, np.abs(expected).max())
