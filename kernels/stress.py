"""Random cascades from two threads under sanitizers: ``python kernels/stress.py [SECONDS] [SANITIZERS ...]``.

Sanitizers are ``address,undefined`` and ``thread`` unless named. Needs cmake and a C++ compiler.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from build import HERE


def stress(sanitizers: str, seconds: float, folder: Path) -> None:
    """Build ``ck_stress`` in ``folder`` and run it; CalledProcessError where something is wrong."""
    options = [f"-DCK_SANITIZE={sanitizers}", "-DCK_STRESS=ON"]
    subprocess.run(["cmake", "-S", str(HERE), "-B", str(folder), *options], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["cmake", "--build", str(folder), "--target", "ck_stress", "--parallel", "2"], check=True)
    isas = ["sse4", "avx2", "avx512"] if os.uname().machine == "x86_64" else ["neon"]
    for isa in isas:  # one that this machine has not is replaced by the best that it has
        environment = {**os.environ, "COMPRESSOR_KERNELS_ISA": isa}
        subprocess.run([str(folder / "ck_stress"), str(seconds)], check=True, env=environment)


if __name__ == "__main__":
    for named in sys.argv[2:] or ["address,undefined", "thread"]:
        stress(named, float(sys.argv[1]) if len(sys.argv) > 1 else 10, HERE.parent / "build" / named.replace(",", "-"))
