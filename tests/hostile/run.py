"""Give every hostile file to the command and write down what it did: ``python run.py FOLDER [NAME …]``.

One line of JSON for each. Memory is bounded for all of them together, and what starts a process, connects or writes
outside of FOLDER is noticed while it happens.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOM_BYTES = 2 << 30  # of address space beyond what the program itself takes
SECONDS = 60
_STARTS = {"os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect", "pty.spawn"}


class Watch:
    """Notes what must not happen, while it is on."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.seen, self.on = str(folder), [], False
        sys.addaudithook(self._look)

    @contextlib.contextmanager
    def watching(self) -> Iterator[list[str]]:
        self.seen, self.on = [], True
        try:
            yield self.seen
        finally:
            self.on = False

    def _look(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event in _STARTS:
            self.seen.append(f"{event} {arguments!r:.100}")
        elif event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
            path, mode, flags = os.fsdecode(arguments[0]), arguments[1] or "", arguments[2] or 0
            writes = any(letter in mode for letter in "wax+") or flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            place = os.path.realpath(path)
            if writes and not place.startswith(self.folder) and place != os.devnull:
                self.seen.append(f"writes {path}")


def main(folder: Path, names: list[str]) -> None:
    from case import CASES, MARKER, NETS, network

    for module in ("pickles", "archives", "tensors", "texts", "onnx_files"):
        importlib.import_module(module)
    import torch

    from compressor.cli import cli
    from compressor.console import exit_status

    torch.set_num_threads(1)
    os.chdir(folder)
    tempfile.tempdir = str(folder / "tmp")
    (folder / "tmp").mkdir()
    (folder / "nets.py").write_text(NETS)
    torch.save(network().state_dict(), folder / "weights.pth")

    def command(arguments: list[str]) -> tuple[int, str]:
        said = io.StringIO()
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            status = exit_status(lambda: cli.main(arguments, prog_name="compress", standalone_mode=False))
        return status, said.getvalue()

    job = ["--method", "svd", "--set", "rank=2", "--input-shape", "1,7", "--target", "*", "-o", "done", "--quiet"]
    made = command(["weights.pth", "--arch", "nets.py:mlp", *job])
    print(json.dumps({"name": None, "status": made[0], "said": made[1]}), flush=True)
    watch, room = Watch(folder), None
    for number, (name, case) in enumerate(CASES.items()):
        if names and name not in names:
            continue
        here = folder / f"case-{number}"
        here.mkdir()
        os.chdir(here)
        (here / "nets.py").write_text(NETS)
        arguments = case.write(here)
        if room is None:
            room = _size("VmSize") + ROOM_BYTES
            resource.setrlimit(resource.RLIMIT_AS, (room, room))
        before = {path.relative_to(here) for path in here.rglob("*")}
        peak, started = _size("VmHWM"), time.monotonic()
        signal.signal(signal.SIGPROF, _too_long)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)  # of the processor: the machine may be busy
        with watch.watching() as seen:
            status, said = command(arguments)
        signal.setitimer(signal.ITIMER_PROF, 0)
        after = {str(path.relative_to(here)) for path in here.rglob("*") if path.relative_to(here) not in before}
        found = {
            "name": name, "status": status, "said": said, "forbidden": list(seen), "left": sorted(after),
            "marker": any(path.name == MARKER for path in folder.rglob(MARKER)),
            "grew_bytes": _size("VmHWM") - peak, "seconds": round(time.monotonic() - started, 2),
        }  # fmt: skip
        print(json.dumps(found), flush=True)
        os.chdir(folder)
        shutil.rmtree(here)


def _too_long(*_: object) -> None:
    raise TimeoutError(f"no answer in {SECONDS} s")


def _size(name: str) -> int:
    """Bytes of this process as the kernel counts them."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    return 0


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), sys.argv[2:])
