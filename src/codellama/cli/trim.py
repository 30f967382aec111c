"""Making a file that is larger than the context fit: what is far from the hole is left out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from codellama.errors import ContextTooLong

if TYPE_CHECKING:
    from codellama.text.tokenizer import Tokenizer

_MARKERS = 4  # beginning of text, and the three marks of an infilling prompt
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
    hole: tuple[str, str], tokenizer: Tokenizer, room: int, *, allow_control: bool, may_drop: bool
) -> Trimmed:
    """Leaves out the start of the prefix and the end of the suffix until both fit `room` tokens.

    The prefix is the better guide and gets three quarters of the room; what either does not use,
    the other gets. Cuts are made at line starts, or within a line that alone is too long.

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
    suffix = _head(suffix, n_suffix, min(after, max(room // 4, room - before)))
    kept_after = n_suffix(suffix)
    prefix = _tail(prefix, n_prefix, room - kept_after)
    return Trimmed(
        prefix=prefix,
        suffix=suffix,
        prefix_dropped=before - n_prefix(prefix),
        suffix_dropped=after - kept_after,
    )


def _tail(text: str, count: _Count, room: int) -> str:
    """The longest end of `text` in `room` tokens that begins at a line start, if any does."""
    starts = [0, *(at + 1 for at, char in enumerate(text[:-1]) if char == "\n")]
    # Later starts need fewer tokens: find the first that fits.
    start = _first(len(starts), lambda k: count(text[starts[k] :]) <= room)
    if start < len(starts):
        return text[starts[start] :]
    last = starts[-1]
    return text[last + _first(len(text) - last, lambda k: count(text[last + k :]) <= room) :]


def _head(text: str, count: _Count, room: int) -> str:
    """The longest beginning of `text` in `room` tokens that ends at a line start, if any does."""
    ends = [len(text), *(at for at in range(len(text) - 1, 0, -1) if text[at - 1] == "\n")]
    end = _first(len(ends), lambda k: count(text[: ends[k]]) <= room)
    if end < len(ends):
        return text[: ends[end]]
    first = ends[-1]
    return text[: first - _first(first, lambda k: count(text[: first - k]) <= room)]


def _first(n: int, fits: Callable[[int], bool]) -> int:
    """The first of 0..n-1 for which `fits` holds, where it holds for all after it; n if none."""
    low, high = 0, n
    while low < high:
        middle = (low + high) // 2
        if fits(middle):
            high = middle
        else:
            low = middle + 1
    return low
