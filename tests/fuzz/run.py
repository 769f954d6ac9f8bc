"""Fuzz every loader for a while: ``python run.py [--seconds N] [--target NAME …]``; 1 where something was found.

Needs atheris. Each loader runs in a process of its own with bounded memory, from the seeds in ``corpus/`` and what
former runs have kept in ``--keep``; what breaks it is left in the folder ``findings`` beside this file.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import targets

HERE = Path(__file__).resolve().parent
CORPUS, FINDINGS = HERE / "corpus", HERE / "findings"
ROOT = HERE.parent.parent
MEMORY_MB, SLOW_SECONDS = 6000, 60


def write_seeds() -> None:
    """Write the seeds anew."""
    for name, contents in targets.seeds().items():
        (CORPUS / name).mkdir(parents=True, exist_ok=True)
        for number, content in enumerate(contents):
            (CORPUS / name / f"seed{number}").write_bytes(content)


def fuzz(name: str, seconds: int, keep: Path) -> tuple[int, int, str]:
    """Fuzz the target ``name``: status, inputs tried, and the end of what was said."""
    (keep / name).mkdir(parents=True, exist_ok=True)
    FINDINGS.mkdir(exist_ok=True)
    command = [
        sys.executable, str(HERE / "fuzz.py"), name, f"-max_total_time={seconds}", f"-rss_limit_mb={MEMORY_MB}",
        f"-timeout={SLOW_SECONDS}", "-max_len=20000", "-print_final_stats=1", f"-artifact_prefix={FINDINGS}/{name}-",
        str(keep / name), str(CORPUS / name),
    ]  # fmt: skip
    roots = os.pathsep.join(str(ROOT / part) for part in (".", "kernels", "converters"))
    done = subprocess.run(
        command, cwd=HERE, env={**os.environ, "PYTHONPATH": roots, "OMP_NUM_THREADS": "1"}, text=True, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors="replace",
    )  # fmt: skip
    tried = re.findall(r"number_of_executed_units:\s*(\d+)", done.stdout)
    return done.returncode, int(tried[-1]) if tried else 0, done.stdout[-4000:]


def main() -> int:
    """Fuzz, print a line for each loader, and say what was found."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seconds", type=int, default=60, help="for all loaders together")
    options.add_argument("--target", action="append", choices=sorted(targets.TARGETS), help="only this one; repeatable")
    options.add_argument("--keep", type=Path, help="folder for inputs that cover more; goes on from what is there")
    options.add_argument("--seeds", action="store_true", help="write the seeds anew, and end")
    asked = options.parse_args()
    if asked.seeds:
        write_seeds()
        return 0
    names = asked.target or list(targets.TARGETS)
    found = 0
    with tempfile.TemporaryDirectory() as temporary:
        for name in names:
            started = time.monotonic()
            status, tried, said = fuzz(name, max(1, asked.seconds // len(names)), asked.keep or Path(temporary))
            word = "nothing found" if status == 0 else f"FOUND (status {status})"
            print(f"{name:17} {tried:>9,} inputs  {time.monotonic() - started:6.1f} s  {word}", flush=True)
            if status:
                found += 1
                print(said, flush=True)
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
