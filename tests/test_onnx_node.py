"""An exported model runs elsewhere as it is: in Node, by the onnxruntime that npm has, with the same outputs."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from compressor.layers import build
from compressor_converters.onnx_file import save_onnx

pytestmark = pytest.mark.slow

PACKAGE = "onnxruntime-node@1.30.0"
SCRIPT = """
const ort = require("onnxruntime-node");
const fs = require("fs");
(async () => {
  const [model, input, output, rows] = process.argv.slice(2);
  const session = await ort.InferenceSession.create(model);
  const bytes = fs.readFileSync(input);
  const values = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
  const x = new ort.Tensor("float32", values, [Number(rows), values.length / Number(rows)]);
  const found = await session.run({ x });
  fs.writeFileSync(output, Buffer.from(found.output.data.buffer));
  console.log(JSON.stringify(found.output.dims));
})();
"""


@pytest.fixture(scope="module")
def node_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package in it, as ``npm install`` makes it; nothing but npm's own registry is asked."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("needs node and npm")
    folder = tmp_path_factory.mktemp("node")
    (folder / "run.js").write_text(SCRIPT)
    install = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--silent", PACKAGE]
    done = subprocess.run(install, cwd=folder, capture_output=True, text=True, timeout=600)
    if done.returncode:
        pytest.skip(f"npm cannot give {PACKAGE}: {done.stderr.strip()[-200:]}")
    return folder


@pytest.mark.slow  # npm fetches some 100 MB
def test_node_gives_what_torch_gives(node_folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    layers = [build("acdc", 60, 48, bias=True, config={}), nn.ReLU(), build("fastfood", 48, 40, bias=True, config={}),
              build("svd", 40, 10, bias=True, config={"rank": 3})]  # fmt: skip
    model = nn.Sequential(*layers).eval()
    x = torch.randn(5, 60)
    assert save_onnx(model, (x,), tmp_path / "model.onnx", input_names=["x"]) is None
    (tmp_path / "x.bin").write_bytes(x.numpy().tobytes())
    arguments = [str(tmp_path / "model.onnx"), str(tmp_path / "x.bin"), str(tmp_path / "y.bin"), "5"]
    done = subprocess.run(["node", "run.js", *arguments], cwd=node_folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    got = np.frombuffer((tmp_path / "y.bin").read_bytes(), np.float32).reshape(json.loads(done.stdout))
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(got.copy()), model(x), rtol=1e-5, atol=1e-5)
