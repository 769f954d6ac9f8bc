"""Networks that run step by step, such as a graph's: asked for one thing after another, they run no step twice."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass
class Frontier:
    """How far a pass has come in a network that runs in steps: the first step that was not run, and what it needs."""

    step: int = 0
    values: dict[str, Tensor] | None = None  # None: nothing is kept, it starts anew
    kept_bytes: int = 0

    def move(self, step: int, values: Mapping[str, Tensor], room: int) -> None:
        """Go on from ``step`` the next time, unless ``values`` take more than ``room`` bytes."""
        size = sum(value.nbytes for value in values.values())
        if size <= room:
            self.step, self.values, self.kept_bytes = step, dict(values), size


@dataclass
class Question:
    """What a batch is run for: what goes into one module, or comes out of it, in each of the batch's passes."""

    frontiers: list[Frontier]  # of the passes; more are added as they begin
    first: int  # step that calls the module
    last: int
    room: int  # bytes, for all of the frontiers
    passes: int = 0  # begun

    def begin(self, values: dict[str, Tensor]) -> tuple[int, dict[str, Tensor]]:
        """Begin the next pass, from the inputs ``values``: the step to go on from, and its values."""
        if self.passes == len(self.frontiers):
            self.frontiers.append(Frontier())
        frontier = self.frontiers[self.passes]
        self.passes += 1
        if frontier.values is None or frontier.step > self.first:
            return 0, values
        return frontier.step, dict(frontier.values)

    def reached(self, step: int, values: Mapping[str, Tensor]) -> None:
        """Before ``step`` of the pass: the next question starts where this one's module is first called."""
        if step == self.first:
            own = self.frontiers[self.passes - 1]
            others = sum(one.kept_bytes for one in self.frontiers if one is not own)
            own.move(step, values, self.room - others)


class Stepwise(nn.Module):
    """A network that runs step by step, so that it can go on from where a former question left off."""

    question: Question | None = None  # the one under way

    def steps_calling(self, name: str) -> tuple[int, int]:
        """The first and the last step that call the module ``name``; ValueError where none does."""
        raise NotImplementedError

    @contextlib.contextmanager
    def answering(self, frontiers: list[Frontier], name: str, room: int) -> Iterator[None]:
        """Within, a pass goes on from its frontier where that lies before ``name``, moves it there, and ends behind."""
        self.question = Question(frontiers, *self.steps_calling(name), room)
        try:
            yield
        finally:
            self.question = None
