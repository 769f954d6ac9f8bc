"""A bound on the memory that running a graph may take: a small file can ask for any amount, by shapes or loops."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from compressor.errors import CompressorError

LEAST = 8 << 30  # bytes that any graph may take, where the machine has them
TIMES = 32  # and so many times what the model and its inputs are
_SAID = ("Failed to allocate memory", "bad_alloc", "bad allocation")  # by onnxruntime


class RoomError(CompressorError):
    """The graph asked for more memory than it may take."""


@contextlib.contextmanager
def bounded(path: Path, nbytes: int) -> Iterator[None]:
    """Within, allocations fail that go beyond the room of a graph with ``nbytes`` of weights and inputs.

    What fails for want of memory is raised as RoomError. Where the system has no such bound there is none.
    """
    room = min(LEAST + TIMES * nbytes, _free() * 9 // 10)
    try:
        with _limit(room):
            yield
    except Exception as error:  # onnxruntime raises classes of its own, which share no base
        said = f"{error} {error.__cause__}"
        if isinstance(error, MemoryError) or any(word in said for word in _SAID):
            raise RoomError(
                f"{path}: running it takes more than {room / 2**30:.1f} GB, the most that a graph of its size may;"
                " smaller inputs or batches (--train batch_size=1) take less"
            ) from None
        raise


@contextlib.contextmanager
def _limit(room: int) -> Iterator[None]:
    """Let this process take ``room`` bytes more than it has."""
    try:
        import resource
    except ImportError:  # Windows
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    most = _held() + room
    bounds = [most, *(one for one in (soft, hard) if one != resource.RLIM_INFINITY)]
    resource.setrlimit(resource.RLIMIT_DATA, (min(bounds), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _held() -> int:
    """Bytes of data of this process; 0 where the kernel does not say, so that the bound is the stricter."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        return int(Path("/proc/self/statm").read_text().split()[5]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def _free() -> int:
    """Bytes that the machine could still give."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return 1 << 62
