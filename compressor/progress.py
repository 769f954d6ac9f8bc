"""How the pipeline says how far it is: silent here; the command line shows bars."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol


class Stage(Protocol):
    """One stage under way."""

    def __call__(self, steps: int = 1, note: str = "") -> None:
        """Advance by ``steps``; ``note`` is a short state such as a loss."""


class Progress(Protocol):
    """Opens stages: ``with progress("fit", 12) as advance: advance()``."""

    def __call__(self, title: str, total: int | None = None) -> AbstractContextManager[Stage]: ...


def silent(title: str, total: int | None = None) -> AbstractContextManager[Stage]:
    """Progress that says nothing."""

    @contextlib.contextmanager
    def stage() -> Iterator[Stage]:
        yield lambda steps=1, note="": None

    return stage()


@dataclass
class Limit:
    """When to stop early: a time limit in seconds, or a caller's wish (Ctrl-C)."""

    seconds: float | None = None
    asked: Callable[[], bool] = lambda: False
    started: float = field(default_factory=time.monotonic)

    @property
    def elapsed(self) -> float:
        """Seconds since the run started."""
        return time.monotonic() - self.started

    @property
    def reason(self) -> str | None:
        """Why the run has to stop now, or None."""
        if self.asked():
            return "interrupted"
        if self.seconds is not None and self.elapsed > self.seconds:
            return "time limit"
        return None
