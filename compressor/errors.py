"""The one error type for what a user can mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

GIVEN_UP = "given up; nothing was written"  # said of Ctrl-C, with exit status 130


class CompressorError(Exception):
    """What was asked, what was found, what to do, in one line; the command prints it and exits with 2."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


def one_line(text: str) -> str:
    """``text`` in one line that moves no cursor: names in it are from files."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in " ".join(text.split()))


def nearest(name: str, known: Iterable[str]) -> str:
    """Name the closest of ``known`` as a question, or list them all when nothing is close."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean '{close[0]}'?" if close else f"choose from: {', '.join(known)}"


def reason(error: BaseException) -> str:
    """The root cause of ``error`` in one line of bounded length."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = next((line for line in lines if not line.endswith(":")), type(error).__name__)
    return text if len(text) <= 200 else text[:199] + "…"
