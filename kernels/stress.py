"""Random cases of all kernels from two threads: ``python kernels/stress.py [SECONDS] [KIND ...]``.

Kinds are the sanitizers ``address,undefined`` and ``thread``; ``wide``, the code for AVX-512 on AVX2; ``neon``,
cross-compiled for ARM and run by qemu; and ``clang`` and ``clang-neon``, the same code by that compiler: all unless
named. Needs cmake and a C++ compiler, for ARM that of aarch64 and ``qemu-aarch64``.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

from build import HERE

ARM_COMPILER, ARM_EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
CLANG = "clang++"
ARM_SYSTEM = "/usr/aarch64-linux-gnu"  # where Debian puts the libraries of a cross compiler


def instruction_sets() -> list[str]:
    """Those of the kernels that this machine runs: only they are compiled, as sanitized code takes long to compile."""
    if platform.machine() != "x86_64":
        return ["neon"]
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    needed = {"sse4": ["sse4_1"], "avx2": ["avx2", "fma"], "avx512": ["avx512f", "avx512vl", "avx512dq", "avx512bw"]}
    return [isa for isa, wanted in needed.items() if all(flag in flags for flag in wanted)]


def build_stress(folder: Path, *options: str) -> None:
    """Configure with ``options`` and compile ``ck_stress`` in ``folder``."""
    configure = ["cmake", "-S", str(HERE), "-B", str(folder), "-DCK_STRESS=ON", *options]
    subprocess.run(configure, check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["cmake", "--build", str(folder), "--target", "ck_stress", "--parallel", "2"], check=True)


def stress(kind: str, seconds: float, folder: Path) -> None:
    """Build and run ``kind`` in ``folder``; CalledProcessError where something is wrong."""
    command = [str(folder / "ck_stress"), str(seconds)]
    if kind.endswith("neon"):
        cross = {"SYSTEM_NAME": "Linux", "SYSTEM_PROCESSOR": "aarch64", "CXX_COMPILER": ARM_COMPILER}
        if kind == "clang-neon":
            cross |= {"CXX_COMPILER": CLANG, "CXX_COMPILER_TARGET": "aarch64-linux-gnu"}
        build_stress(folder, *(f"-DCMAKE_{name}={value}" for name, value in cross.items()))
        subprocess.run([ARM_EMULATOR, "-L", ARM_SYSTEM, *command], check=True)
        return
    if kind == "wide":
        build_stress(folder, "-DCK_ISAS=wide")
        subprocess.run(command, check=True)
        return
    isas = instruction_sets()
    how = f"-DCMAKE_CXX_COMPILER={CLANG}" if kind == "clang" else f"-DCK_SANITIZE={kind}"
    build_stress(folder, how, f"-DCK_ISAS={';'.join(isas)}")
    for isa in isas:
        subprocess.run(command, check=True, env={**os.environ, "COMPRESSOR_KERNELS_ISA": isa})


if __name__ == "__main__":
    for named in sys.argv[2:] or ["address,undefined", "thread", "wide", "neon", "clang", "clang-neon"]:
        stress(named, float(sys.argv[1]) if len(sys.argv) > 1 else 10, HERE.parent / "build" / named.replace(",", "-"))
