"""Peak memory of a streamed job on a synthetic model of 4 GB: at most the model's size and twice its largest layer.

The model is a row of dense layers of 4,096 by 4,096 in a file of safetensors, or with ``--onnx`` in ONNX with external
data, more than the 2 GB that such a file itself can hold. The job is ``--stream`` with a method that fits in closed
form, in a process of its own. Writes ``benchmarks/results/scale.json``, ``scale_onnx.json``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from facts import facts, keep, parser, show

WIDTH = 4096
ARCH = f"""
from torch import nn

def build(layers):
    return nn.Sequential(*(nn.Linear({WIDTH}, {WIDTH}) for _ in range(layers)))

def quick():
    return build(6)

def full():
    return build(60)
"""
WITHIN = """
import json, resource, sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from compressor.pipeline import make_recipe
from compressor.stream import stream
idle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
started = time.monotonic()
name, arch, method = sys.argv[1:]
recipe = make_recipe(model=name, arch=arch or None, method=method, stream=True, threads=1)
report = stream(recipe, Path("out"))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({
    "idle_bytes": idle, "peak_bytes": peak, "seconds": time.monotonic() - started,
    "params_before": report.before.params, "params_after": report.after.params,
    "size_bytes": sum(report.after.size_bytes.values()), "off": report.verification[0].max_rel,
}))
"""


def write(folder: Path, layers: int) -> int:
    """The model's file, written layer by layer; its bytes."""
    from compressor_converters.tensor_stream import Writer

    generator = torch.Generator().manual_seed(0)
    writer = Writer(folder / "model.safetensors")
    for number in range(layers):
        writer.add(f"{number}.weight", torch.randn(WIDTH, WIDTH, generator=generator) / WIDTH**0.5)
        writer.add(f"{number}.bias", torch.zeros(WIDTH))
    writer.close({"format": "pt"})
    (folder / "arch.py").write_text(ARCH)
    return (folder / "model.safetensors").stat().st_size


def write_onnx(folder: Path, layers: int) -> int:
    """The same as a graph with its weights in a file beside it; the bytes of both."""
    from onnx import TensorProto, helper

    generator = torch.Generator().manual_seed(0)
    nodes, stored, value, length = [], [], "x", WIDTH * WIDTH * 4
    with (folder / "model.onnx.data").open("wb") as out:
        for i in range(layers):
            tensor = TensorProto(name=f"w{i}", data_type=TensorProto.FLOAT, dims=[WIDTH, WIDTH], data_location=1)
            for key, said in (("location", "model.onnx.data"), ("offset", i * length), ("length", length)):
                tensor.external_data.add(key=key, value=str(said))
            weight = torch.eye(WIDTH) + 0.3 * torch.randn(WIDTH, WIDTH, generator=generator) / WIDTH**0.5
            out.write(weight.numpy().tobytes())  # near the identity: sixty fitted maps still let a signal through
            stored.append(tensor)
            nodes.append(helper.make_node("MatMul", [value, f"w{i}"], [f"m{i}"], name=f"layer{i}"))
            value = "y" if i == layers - 1 else f"a{i}"
            nodes.append(helper.make_node("Tanh", [f"m{i}"], [value]))
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", WIDTH]) for name in "xy")
    graph = helper.make_graph(nodes, "wide", [x], [y], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return sum(path.stat().st_size for path in folder.iterdir())


def measure(folder: Path, quick: bool, method: str, *, onnx: bool) -> dict[str, Any]:
    """Write the model, stream it in a fresh process, and say what that took."""
    size = (write_onnx if onnx else write)(folder, 6 if quick else 60)
    given = ["model.onnx", ""] if onnx else ["model.safetensors", f"arch.py:{'quick' if quick else 'full'}"]
    done = subprocess.run(
        [sys.executable, "-c", WITHIN, *given, method], cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    layer = WIDTH * WIDTH * 4
    bound = size + 2 * layer
    return {**facts(0), "method": method, "model_bytes": size, "layer_bytes": layer, "bound_bytes": bound, **found}


def main() -> int:
    """Measure, print, keep; 1 where the bound does not hold."""
    arguments = parser(__doc__, quick="a model of 400 MB; nothing kept")
    arguments.add_argument("--method", default="monarch", help="one that fits in closed form")
    arguments.add_argument("--onnx", action="store_true", help="from ONNX to ONNX")
    arguments.add_argument("--folder", help="where there is room for twice the model; default: the system's")
    options = arguments.parse_args()
    needed = (1 if options.quick else 10) * 10**9
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        free = shutil.disk_usage(name).free
        if free < needed:
            print(f"{name} has {free / 1e9:.1f} GB free, {needed / 1e9:.0f} are needed", file=sys.stderr)
            return 2
        result = measure(Path(name), options.quick, options.method, onnx=options.onnx)
    gb = {key: f"{value / 1e9:.2f} GB" for key, value in result.items() if key.endswith("_bytes")}
    lines = [
        f"model {gb['model_bytes']}, largest layer {gb['layer_bytes']}, written {gb['size_bytes']}",
        f"peak {gb['peak_bytes']} of {gb['bound_bytes']} ({gb['idle_bytes']} of it before the job), "
        f"{result['seconds']:.0f} s, off by {result['off']:.1e}",
    ]
    show(result, lines, as_json=options.json)
    if not options.quick:
        keep("scale_onnx" if options.onnx else "scale", result)
    return 0 if result["peak_bytes"] <= result["bound_bytes"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
