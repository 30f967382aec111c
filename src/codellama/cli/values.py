"""Words of a command line as values, for the parsers of several verbs."""

from __future__ import annotations

import re
from argparse import ArgumentTypeError


def above_zero(text: str) -> int:
    """A whole number above 0. Raises ArgumentTypeError."""
    if not text.isascii() or not text.isdigit() or not text.strip("0"):
        raise ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def position(text: str) -> tuple[int, int | None]:
    """A line and perhaps a column, counted as they are given. Raises ArgumentTypeError."""
    found = re.fullmatch(r"(\d{1,9})(?::(\d{1,9}))?", text, re.ASCII)
    if found is None:
        raise ArgumentTypeError(f"{text!r} is not LINE or LINE:COL, such as 12 or 12:5")
    return int(found[1]), None if found[2] is None else int(found[2])
