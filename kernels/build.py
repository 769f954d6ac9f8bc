"""Build the native kernels beside their package: ``python kernels/build.py [-DCK_SANITIZE=ON ...]``.

For work from a checkout without an install; ``pip install`` builds them by itself. Needs cmake and a C++ compiler.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def build(*options: str, folder: Path = HERE.parent / "build" / "native", into: Path = HERE) -> Path:
    """Configure with ``options``, compile in ``folder``, install under ``into``; the library's path."""
    prefix = f"-DCMAKE_INSTALL_PREFIX={into}"
    subprocess.run(["cmake", "-S", str(HERE), "-B", str(folder), prefix, *options], check=True)
    subprocess.run(["cmake", "--build", str(folder), "--parallel", "2"], check=True)
    subprocess.run(["cmake", "--install", str(folder)], check=True)
    return into / "compressor_kernels" / "_native.so"


if __name__ == "__main__":
    build(*sys.argv[1:])
