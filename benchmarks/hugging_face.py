"""all-MiniLM-L6-v2, folder in, folder out: what a fresh process makes of it by ``AutoModel.from_pretrained``.

The folder is compressed from its weights alone. A fresh process that knows nothing but ``import compressor`` embeds
sentences with the result, stock onnxruntime does with model.onnx; both must give what the network in memory gives.
Writes ``benchmarks/results/hugging_face.json``.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from facts import facts, keep, parser, show
from packages import ROOT, minilm
from torch import Tensor, nn

from compressor.measure import first_output, ort_session, run_ort
from compressor.pipeline import compress

SENTENCES = [
    "A man is playing a guitar.",
    "Somebody plays an instrument on a stage in front of many people.",
    "The price of oil fell again on Tuesday, for the third time in a row.",
    "Yes.",
    "How do I make a trained network smaller without losing what it has learned, and prove that nothing was lost?",
]
FRESH = """
import sys
import numpy as np, torch
import compressor
from transformers import AutoModel, AutoTokenizer
folder, texts, out = sys.argv[1], sys.argv[2].split("|"), sys.argv[3]
words = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
model = AutoModel.from_pretrained(folder)
with torch.no_grad():
    states = model(words["input_ids"], words["attention_mask"])[0]
mask = words["attention_mask"][..., None]
np.save(out, torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1).numpy())
"""


def pooled(states: Tensor, mask: Tensor) -> Tensor:
    """One unit vector a sentence: the mean of its tokens' last states."""
    return nn.functional.normalize((states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True), dim=-1)


@torch.no_grad()
def measure(method: str, settings: dict[str, Any], seed: int) -> dict[str, Any]:
    """Compress, reload in a fresh process and in onnxruntime, and compare embeddings."""
    from transformers import AutoModel, AutoTokenizer

    source = minilm()
    words = AutoTokenizer.from_pretrained(source, local_files_only=True)(SENTENCES, padding=True, return_tensors="pt")
    ids, mask = words["input_ids"], words["attention_mask"]
    with tempfile.TemporaryDirectory() as name:
        out = Path(name) / "small"
        result = compress(source, method, settings=settings, target=("encoder.*",), output=out, seed=seed)
        memory = pooled(first_output(result.model(ids, mask)), mask)
        vectors = Path(name) / "vectors.npy"
        program = [sys.executable, "-c", FRESH, str(out), "|".join(SENTENCES), str(vectors)]
        subprocess.run(program, check=True, cwd=ROOT)
        fresh = torch.from_numpy(np.load(vectors))
        states = torch.from_numpy(np.asarray(run_ort(ort_session(out / "model.onnx"), (ids, mask))[0]))
        original = AutoModel.from_pretrained(source, local_files_only=True).eval()
        before = pooled(first_output(original(ids, mask)), mask)
        sizes = {path.name: path.stat().st_size for path in (source / "model.safetensors", out / "model.onnx")}
        sizes["compressed"] = (out / "model.safetensors").stat().st_size
    report = result.report
    return {
        **facts(seed), "method": method, "settings": settings, "sentences": len(SENTENCES),
        "dense_params": [report.before.dense_params, report.after.dense_params], "size_bytes": sizes,
        "fresh_process_off": float((fresh - memory).abs().max()),
        "onnxruntime_off": float((pooled(states, mask) - memory).abs().max()),
        "cosine_with_original": float((memory * before).sum(1).mean()),
        "checks": [check.file for check in report.verification], "wall_time_s": report.wall_time_s,
    }  # fmt: skip


def main() -> int:
    """Measure, print, keep; 1 where an embedding differs by more than 1e-5."""
    arguments = parser(__doc__, quick="a smaller rank; nothing kept")
    arguments.add_argument("--method", default="svd")
    arguments.add_argument("--fraction", type=float, default=0.4, help="of svd: rank over each layer's smaller side")
    options = arguments.parse_args()
    settings = {"fraction": 0.1 if options.quick else options.fraction} if options.method == "svd" else {}
    result = measure(options.method, settings, options.seed)
    lines = [
        f"dense parameters {result['dense_params'][0]:,} to {result['dense_params'][1]:,}",
        f"embeddings of a fresh process off by {result['fresh_process_off']:.1e}, of onnxruntime by"
        f" {result['onnxruntime_off']:.1e}; cosine with the original's {result['cosine_with_original']:.4f}",
    ]
    show(result, lines, as_json=options.json)
    if not options.quick and options.method == "svd":
        keep("hugging_face", result)
    return 0 if max(result["fresh_process_off"], result["onnxruntime_off"]) <= 1e-5 else 1


if __name__ == "__main__":
    raise SystemExit(main())
