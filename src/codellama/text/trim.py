"""Making a file that is larger than the context fit: what is far from the hole is left out."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass

from codellama.errors import ContextTooLong
from codellama.text.tokenizer import Tokenizer

_MARKERS = 4  # beginning of text, and the three marks of an infilling prompt
_CHARS_PER_TOKEN = 64  # more than any piece of these vocabularies has; bounds what is counted often
_STEPS = 8  # coarse cuts in one room
_CHARS_A_STEP = 3  # characters of a token of source code, roughly
_Count = Callable[[str], int]


@dataclass(frozen=True, kw_only=True)
class Trimmed:
    """The text around a hole that is shown to the model, and how many tokens of it are not."""

    prefix: str
    suffix: str
    prefix_dropped: int = 0
    suffix_dropped: int = 0

    @property
    def n_dropped(self) -> int:
        return self.prefix_dropped + self.suffix_dropped


def room_for_prompt(context: int, max_tokens: int | None) -> int:
    """Tokens of text around a hole that fit: the answer gets its due, but at most half."""
    answer = min(256 if max_tokens is None else max_tokens, context // 2)
    return max(0, context - answer - _MARKERS)


def trim(
    hole: tuple[str, str],
    tokenizer: Tokenizer,
    room: int,
    *,
    allow_control: bool,
    may_drop: bool,
    coarse_from: int | None = None,
) -> Trimmed:
    """Leaves out the start of the prefix and the end of the suffix until both fit `room` tokens.

    The prefix is the better guide and gets three quarters of the room; what either does not use,
    the other gets. Cuts are made at line starts, or within a line that alone is too long.

    With `coarse_from`, the place of the prefix in a longer text, cuts are made only about every
    eighth of the room, at places that stay the same while that text grows at its end.

    Raises:
        ContextTooLong: both do not fit as they are, and nothing may be dropped.
    """

    def n_prefix(text: str) -> int:
        return len(tokenizer.encode(text, allow_control=allow_control))

    def n_suffix(text: str) -> int:
        return len(tokenizer.encode_bare(text, allow_control=allow_control))

    prefix, suffix = hole
    before, after = n_prefix(prefix), n_suffix(suffix)
    if before + after <= room:
        return Trimmed(prefix=prefix, suffix=suffix)
    if not may_drop:
        raise ContextTooLong(
            f"the text around the hole has {before + after} tokens, and beside the answer there "
            f"is room for {room}",
            hint="leave out --no-trim to drop what is far from the hole, or raise --max-seq-len",
        )
    left = room - before
    if coarse_from is not None:
        left -= left % max(1, room // _STEPS)
    suffix = _head(suffix, n_suffix, min(after, max(room // 4, left)))
    kept_after = n_suffix(suffix)
    prefix = _tail(prefix, n_prefix, room - kept_after, coarse_from)
    return Trimmed(
        prefix=prefix,
        suffix=suffix,
        prefix_dropped=before - n_prefix(prefix),
        suffix_dropped=after - kept_after,
    )


def _tail(text: str, count: _Count, room: int, coarse_from: int | None) -> str:
    """The longest end of `text` in `room` tokens that begins at a line start, if any does."""
    reach = text[max(0, len(text) - _CHARS_PER_TOKEN * room) :]
    starts = [0] * (len(reach) == len(text))
    starts += [found.end() for found in re.finditer(r"\n(?!\Z)", reach)]
    if coarse_from is not None:
        few = _spread(starts, coarse_from + len(text) - len(reach), room)
        if few and count(reach[few[-1] :]) <= room:
            starts = few
    # Later starts need fewer tokens: find the first that fits.
    first = _first(len(starts), lambda k: count(reach[starts[k] :]) <= room)
    if first < len(starts):
        return reach[starts[first] :]
    last = starts[-1] if starts else 0
    return reach[last + _first(len(reach) - last, lambda k: count(reach[last + k :]) <= room) :]


def _spread(starts: list[int], origin: int, room: int) -> list[int]:
    """Of line starts the first in each stretch of a text in which they are counted from `origin`.

    The first stretch counts only where it is seen from its beginning.
    """
    size = max(1, room * _CHARS_A_STEP // _STEPS)
    cells = [(origin + start) // size for start in starts]
    return [
        start
        for i, start in enumerate(starts)
        if (cells[i] != cells[i - 1] if i else origin + start == 0)
    ]


def _head(text: str, count: _Count, room: int) -> str:
    """The longest beginning of `text` in `room` tokens that ends at a line start, if any does."""
    reach = text[: _CHARS_PER_TOKEN * room]
    ends = [found.end() for found in re.finditer(r"\n(?!\Z)", reach)]
    ends += [len(reach)] * (len(reach) == len(text) or reach.endswith("\n"))
    ends.reverse()
    first = _first(len(ends), lambda k: count(reach[: ends[k]]) <= room)
    if first < len(ends):
        return reach[: ends[first]]
    line = ends[-1] if ends else len(reach)
    return reach[: line - _first(line, lambda k: count(reach[: line - k]) <= room)]


def _first(n: int, fits: Callable[[int], bool]) -> int:
    """The first of 0..n-1 for which `fits` holds, where it holds for all after it; n if none."""
    return bisect_left(range(n), True, key=fits)
