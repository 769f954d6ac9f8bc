"""Build the CUDA kernels beside this package: ``python -m compressor_kernels.build_cuda [--into DIR] [--arch 90 ...]``.

Needs ``nvcc`` (CUDA 12 or later) and a C++ compiler, no headers of torch and no GPU. The library holds machine code for
each architecture and PTX for later ones. Warnings are errors, and so is a register spill: ``ptxas`` says how many
registers each kernel takes, and the table is written beside the library.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
LIBRARY = "_native_cuda.so"
ARCHITECTURES = ("80", "90")


@dataclass(frozen=True)
class Resources:
    """What ``ptxas`` says of one kernel on one architecture."""

    kernel: str
    architecture: str
    registers: int
    spill_bytes: int
    stack_bytes: int


def sources() -> Path:
    """The folder with the CUDA sources: in a checkout beside the package, in an installed one within it."""
    for folder in (PACKAGE / "sources" / "cuda", PACKAGE.parent / "cuda"):
        if (folder / "entries.cu").is_file():  # beside an installed package may be a `cuda` of somebody else
            return folder
    raise FileNotFoundError(f"no CUDA sources in {PACKAGE / 'sources'} nor in {PACKAGE.parent}")


def compiler() -> str | None:
    """The path of ``nvcc``, None where there is none."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or "/usr/local/cuda"
    return shutil.which("nvcc") or shutil.which("nvcc", path=str(Path(home) / "bin"))


def build(into: Path = PACKAGE, architectures: tuple[str, ...] = ARCHITECTURES) -> list[Resources]:
    """Compile and link the library into ``into``; RuntimeError with the compiler's words where that fails.

    A kernel that spills registers is such a failure.
    """
    nvcc = compiler()
    if nvcc is None:
        raise RuntimeError("no nvcc: install the CUDA toolkit, or set CUDA_HOME to where it is")
    *before, last = (f"-gencode=arch=compute_{a},code=[sm_{a}]" for a in architectures)
    codes = [*before, last.replace("]", f",compute_{architectures[-1]}]")]  # PTX of the last
    common = [nvcc, "-std=c++17", "-O3", *codes, "-Xcompiler", "-fPIC,-fvisibility=hidden,-Wall,-Wextra"]
    with tempfile.TemporaryDirectory() as folder:
        files = sorted(sources().glob("*.cu"))
        objects = [Path(folder) / f"{file.stem}.o" for file in files]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            commands = [
                [*common, "-Werror", "all-warnings", "-Xptxas", "-v", "-c", str(file), "-o", str(to)]
                for file, to in zip(files, objects, strict=True)
            ]
            report = "".join(pool.map(_run, commands))
        found = parse(report)
        spilled = [r for r in found if r.spill_bytes]
        if spilled:
            raise RuntimeError(f"registers are spilled:\n{table(spilled)}")
        part = Path(folder) / LIBRARY
        _run([*common, "-shared", "-cudart", "static", *map(str, objects), "-o", str(part)])
        shutil.copyfile(part, into / f"{LIBRARY}.part")
    os.replace(into / f"{LIBRARY}.part", into / LIBRARY)
    (into / f"{LIBRARY}.txt").write_text(table(found) + "\n")
    return found


def parse(report: str) -> list[Resources]:
    """The kernels of a ``ptxas -v`` report; ValueError where a kernel's figures are missing."""
    pattern = re.compile(
        r"Compiling entry function '(?P<name>\w+)' for 'sm_(?P<arch>\w+)'"
        r".*?(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads"
        r".*?Used (?P<registers>\d+) registers",
        re.DOTALL,
    )
    found = [
        Resources(
            readable(m["name"]), m["arch"], int(m["registers"]), int(m["stores"]) + int(m["loads"]), int(m["stack"])
        )
        for m in pattern.finditer(report)
    ]
    if len(found) != report.count("Compiling entry function"):
        raise ValueError("the compiler's report does not read as ptxas -v prints it")
    return sorted(found, key=lambda r: (r.architecture, r.kernel))


def readable(mangled: str) -> str:
    """``acdc_forward_kernel 1024`` for a mangled name: the kernel and the length of its plan."""
    m = re.match(r"_ZN2ck\d+([a-z_]+)", mangled)
    name = m[1] if m else mangled
    plan = re.search(r"(Acdc|Hadamard)PlanILi(\d+)E", mangled)
    if plan is None:
        return name
    return f"{name} {int(plan[2]) if plan[1] == 'Acdc' else 2 ** int(plan[2])}"


def table(kernels: list[Resources]) -> str:
    """The resources as text, one line a kernel."""
    lines = [f"{'kernel':40s} {'arch':>6s} {'registers':>9s} {'spilled B':>9s} {'stack B':>8s}"]
    for r in kernels:
        lines.append(f"{r.kernel:40s} sm_{r.architecture:3s} {r.registers:9d} {r.spill_bytes:9d} {r.stack_bytes:8d}")
    return "\n".join(lines)


def _run(command: list[str]) -> str:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout}")
    return done.stdout


def main(arguments: list[str] | None = None) -> int:
    """Build as asked, print the resources; 1 and the reason where it fails."""
    parser = argparse.ArgumentParser(prog="python -m compressor_kernels.build_cuda", description=__doc__)
    parser.add_argument("--into", type=Path, default=PACKAGE, help="where the library goes (default: the package)")
    parser.add_argument("--arch", nargs="+", default=list(ARCHITECTURES), help="compute capabilities, such as 80 90")
    asked = parser.parse_args(arguments)
    try:
        found = build(asked.into, tuple(asked.arch))
    except (RuntimeError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{table(found)}\n{asked.into / LIBRARY}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
