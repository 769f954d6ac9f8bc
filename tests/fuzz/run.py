"""Fuzz every loader for a while: ``python run.py [--seconds N] [--target NAME …]``; 1 where something was found.

Needs atheris. Each loader runs in a process of its own with bounded memory, from the seeds in ``corpus/`` and what
former runs have kept in ``--keep``; what breaks it is left in the folder ``findings`` beside this file. ``--log FILE``
puts what was tried into a JSON file, in place of what it said of the same loaders: so a long run can be made in parts.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import resource
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import targets
from seeds import seeds

HERE = Path(__file__).resolve().parent
CORPUS, FINDINGS = HERE / "corpus", HERE / "findings"
ROOT = HERE.parent.parent
MEMORY_MB, SLOW_SECONDS = 6000, 60


def write_seeds() -> None:
    """Write the seeds anew."""
    for name, contents in seeds().items():
        (CORPUS / name).mkdir(parents=True, exist_ok=True)
        for number, content in enumerate(contents):
            (CORPUS / name / f"seed{number}").write_bytes(content)


def fuzz(name: str, seconds: int, keep: Path) -> tuple[dict[str, Any], str]:
    """Fuzz the target ``name``: what there is to know of it, and the end of what was said."""
    (keep / name).mkdir(parents=True, exist_ok=True)
    FINDINGS.mkdir(exist_ok=True)
    command = [
        sys.executable, str(HERE / "fuzz.py"), name, f"-max_total_time={seconds}", f"-rss_limit_mb={MEMORY_MB}",
        f"-timeout={SLOW_SECONDS}", "-max_len=20000", "-print_final_stats=1", f"-artifact_prefix={FINDINGS}/{name}-",
        str(keep / name), str(CORPUS / name),
    ]  # fmt: skip
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    roots = os.pathsep.join(str(ROOT / part) for part in (".", "kernels", "converters"))
    done = subprocess.run(
        command, cwd=HERE, env={**os.environ, "PYTHONPATH": roots, "OMP_NUM_THREADS": "1"}, text=True, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors="replace",
    )  # fmt: skip
    tried = re.findall(r"number_of_executed_units:\s*(\d+)", done.stdout)
    spent = re.findall(r"Done \d+ runs in (\d+) second", done.stdout)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    covered = re.findall(r"cov: (\d+)", done.stdout)
    found = {
        "status": done.returncode, "inputs": int(tried[-1]) if tried else 0, "seconds": int(spent[-1]) if spent else 0,
        "processor_seconds": round(used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime),
        "branches": int(covered[-1]) if covered else 0,
    }  # fmt: skip
    return found, done.stdout[-4000:]


def write_log(path: Path, found: dict[str, dict[str, Any]]) -> None:
    """Put ``found``, by target, into the log ``path``."""
    before = json.loads(path.read_text())["targets"] if path.exists() else {}
    every = {name: {**before, **found}[name] for name in targets.TARGETS if name in {**before, **found}}
    packages = ("atheris", "torch", "onnx", "onnxruntime", "safetensors", "transformers", "PyYAML", "numpy")
    log = {
        "seconds": sum(entry["seconds"] for entry in every.values()),
        "processor_seconds": sum(entry["processor_seconds"] for entry in every.values()),
        "inputs": sum(entry["inputs"] for entry in every.values()),
        "findings": sum(entry["status"] != 0 for entry in every.values()),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "targets": every,
    }  # fmt: skip
    path.write_text(json.dumps(log, indent=1) + "\n")


def main() -> int:
    """Fuzz, print a line for each loader, and say what was found."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seconds", type=int, default=60, help="for all loaders together")
    options.add_argument("--target", action="append", choices=sorted(targets.TARGETS), help="only this one; repeatable")
    options.add_argument("--keep", type=Path, help="folder for inputs that cover more; goes on from what is there")
    options.add_argument("--log", type=Path, help="JSON file to put the figures into")
    options.add_argument("--seeds", action="store_true", help="write the seeds anew, and end")
    asked = options.parse_args()
    if asked.seeds:
        write_seeds()
        return 0
    names = asked.target or list(targets.TARGETS)
    found = {}
    with tempfile.TemporaryDirectory() as temporary:
        for name in names:
            found[name], said = fuzz(name, max(1, asked.seconds // len(names)), asked.keep or Path(temporary))
            one = found[name]
            word = "nothing found" if one["status"] == 0 else f"FOUND (status {one['status']})"
            print(f"{name:17} {one['inputs']:>9,} inputs  {one['seconds']:>5} s  {word}", flush=True)
            if one["status"]:
                print(said, flush=True)
            if asked.log is not None:
                write_log(asked.log, found)
    return int(any(one["status"] for one in found.values()))


if __name__ == "__main__":
    raise SystemExit(main())
