"""Schedules that count the steps of a training, kept and taken up again as torch's schedules of the rate are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


class Schedule:
    """What changes as a training goes on; ``kept`` names the attributes on which its course depends."""

    kept: ClassVar[tuple[str, ...]]

    def state_dict(self) -> dict[str, Any]:
        """The course so far and its settings, as plain numbers: to be saved beside that of the optimiser."""
        return {name: getattr(self, name) for name in self.kept}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from ``state_dict``, with its settings; ValueError where it is not of such a schedule."""
        if set(state_dict) != set(self.kept):
            raise ValueError(
                f"a {type(self).__name__} is kept as {', '.join(self.kept)}, and this state has"
                f" {', '.join(map(str, state_dict)) or 'nothing'}; give what its state_dict() gave"
            )
        for name in self.kept:
            setattr(self, name, state_dict[name])
        self._apply()

    def _apply(self) -> None:
        """Set what follows the schedule; nothing does unless it is said here."""
