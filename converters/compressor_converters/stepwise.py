"""Networks that run step by step, such as a graph's: asked for one thing after another, they run no step twice."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass
class Frontier:
    """How far a batch has come in a network that runs in steps: the first step that was not run, and what it needs."""

    step: int = 0
    values: dict[str, Tensor] | None = None  # None: nothing is kept, it starts anew
    kept_bytes: int = 0

    def move(self, step: int, values: dict[str, Tensor], room: int) -> None:
        """Go on from ``step`` the next time, unless ``values`` take more than ``room`` bytes."""
        size = sum(value.nbytes for value in values.values())
        if size <= room:
            self.step, self.values, self.kept_bytes = step, dict(values), size


class Stepwise(nn.Module):
    """A network that runs step by step, so that it can go on from where a former question left off."""

    asked: tuple[Frontier, int, int] | None = None  # of the question under way: where from, up to which step, and room

    def first_step(self, name: str) -> int:
        """The step that first calls the module ``name``; ValueError where none does."""
        raise NotImplementedError

    @contextlib.contextmanager
    def going_on(self, frontier: Frontier, name: str, room: int) -> Iterator[None]:
        """Within, a pass starts at ``frontier`` where that lies before ``name``, and moves it there."""
        self.asked = (frontier, self.first_step(name), room)
        try:
            yield
        finally:
            self.asked = None
