"""What the model is shown: text around the cursor and pieces of other places, to an exact budget.

Pieces stand at the front of the prefix, each under a comment with the name of its file, as
llama.cpp's `/infill` puts its `input_extra`. The least telling come first, so that what is close to
the matter is close to the cursor.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Protocol

_MARKERS = 4  # beginning of text, and the three marks of an infilling prompt
_SUFFIX_SHARE = 4  # of the room, one part in so many is the suffix's
_PIECES_SHARE = 4
_SLACK = (
    4  # a window that has to move leaves one part in so many free, so as not to move again soon
)
_CHARS_PER_TOKEN = 12  # a text with more characters per token of room is not even tokenised


class Counter(Protocol):
    """Counts the tokens of texts as they stand in an infilling prompt."""

    def prefix(self, text: str) -> int: ...

    def suffix(self, text: str) -> int: ...


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Text from another place, under a name to show."""

    name: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Packed:
    """A prompt of `n_tokens` ids in all, and where in the document its prefix begins."""

    prefix: str
    suffix: str
    n_tokens: int
    start: int
    pieces: tuple[Piece, ...] = ()


def pack(
    prefix: str,
    suffix: str,
    pieces: Sequence[Piece],
    counter: Counter,
    *,
    budget: int,
    comment: str = "#",
    previous: Packed | None = None,
) -> Packed:
    """The most telling text around a cursor that is no longer than `budget` tokens, marks included.

    The suffix gets a quarter of the room and the pieces another; what they leave, the prefix gets,
    and what fits whole is taken whole. `pieces` come most important first, and those that do not
    fit are left out. A window that began at `previous.start` keeps its beginning while it fits, so
    that a server finds the prompt of the key press before in its cache.

    Raises:
        ValueError: the budget is too small for the marks.
    """
    room = budget - _MARKERS
    if room < 0:
        raise ValueError(f"a budget of {budget} tokens has no room for the {_MARKERS} marks")
    n_before = _bounded(prefix, counter.prefix, room)
    after = _head(suffix, counter.suffix, max(room // _SUFFIX_SHARE, room - n_before))
    n_after = counter.suffix(after)
    room -= n_after
    shown = _fitting(pieces, counter, room // _PIECES_SHARE, comment)
    front = "".join(_titled(piece, comment) for piece in reversed(shown))
    start = _start(prefix, front, counter.prefix, room, previous)
    while shown and counter.prefix(front + prefix[start:]) > room:
        shown = shown[:-1]
        front = "".join(_titled(piece, comment) for piece in reversed(shown))
    whole = front + prefix[start:]
    return Packed(
        prefix=whole,
        suffix=after,
        n_tokens=_MARKERS + counter.prefix(whole) + n_after,
        start=start,
        pieces=tuple(shown),
    )


def _bounded(text: str, count: Callable[[str], int], room: int) -> int:
    """The tokens of a text, or more than `room` where it is far too long to be counted."""
    return room + 1 if len(text) > _CHARS_PER_TOKEN * (room + 1) else count(text)


def _titled(piece: Piece, comment: str) -> str:
    return f"{comment} {piece.name}\n{piece.text.rstrip()}\n\n"


def _fitting(pieces: Sequence[Piece], counter: Counter, room: int, comment: str) -> list[Piece]:
    kept = []
    for piece in pieces:
        n = counter.prefix(_titled(piece, comment))
        if n <= room:
            kept.append(piece)
            room -= n
    return kept


def _start(
    prefix: str, front: str, count: Callable[[str], int], room: int, previous: Packed | None
) -> int:
    """Where the shown part of a prefix begins: at a line, or within one that is too long."""
    if previous is not None and previous.start <= len(prefix):
        kept = prefix[previous.start :]
        is_line = previous.start == 0 or prefix[previous.start - 1] == "\n"
        if is_line and _bounded(kept, count, room) <= room and count(front + kept) <= room:
            return previous.start
    least = max(0, len(prefix) - _CHARS_PER_TOKEN * max(1, room))
    starts = [least + found.end() for found in re.finditer(r"\n(?!\Z)", prefix[least:])]
    if least == 0:
        starts.insert(0, 0)
    if starts and starts[0] == 0 and count(front + prefix) <= room:
        return 0

    def fits(limit: int, k: int) -> bool:
        return count(front + prefix[starts[k] :]) <= limit

    loose = room - room // _SLACK
    for limit in (loose, room):
        at = _first(len(starts), partial(fits, limit))
        if at < len(starts):
            return starts[at]
    # Not even the last line fits: its end, beside no pieces if need be.
    last = starts[-1] if starts else least
    return last + _first(len(prefix) - last, lambda k: count(prefix[last + k :]) <= room)


def _head(text: str, count: Callable[[str], int], room: int) -> str:
    """The longest beginning of a text in `room` tokens that ends with a line, if any does."""
    reach = text[: _CHARS_PER_TOKEN * max(1, room)]
    if len(reach) == len(text) and count(text) <= room:
        return text
    ends = [found.end() for found in re.finditer(r"\n", reach)]
    ends.reverse()
    at = _first(len(ends), lambda k: count(reach[: ends[k]]) <= room)
    if at < len(ends):
        return reach[: ends[at]]
    line = ends[-1] if ends else len(reach)
    return reach[: line - _first(line, lambda k: count(reach[: line - k]) <= room)]


def _first(n: int, fits: Callable[[int], bool]) -> int:
    """The first of 0..n-1 for which `fits` holds, where it holds for all after it; n if none."""
    return bisect_left(range(n), True, key=fits)


class RememberedCounter:
    """A counter that counts a text it has just seen only once."""

    def __init__(self, counter: Counter, size: int = 512) -> None:
        self.prefix = lru_cache(maxsize=size)(counter.prefix)
        self.suffix = lru_cache(maxsize=size)(counter.suffix)
