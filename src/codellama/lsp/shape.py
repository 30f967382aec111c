"""How much to suggest at a place: within the line, a few lines, or a block."""

from __future__ import annotations

import re
from dataclasses import dataclass

_OPENERS = (":", "{", "(", "[", "=>", "do", "then", "else")
_CLOSERS = re.compile(r"[\s)\]}>;,:'\"`]*")


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The most lines that a suggestion may have, and the tokens that this takes at most."""

    max_lines: int
    max_tokens: int

    @property
    def is_single_line(self) -> bool:
        return self.max_lines == 1


def shape_at(prefix: str, suffix: str, inside: str, *, max_lines: int, max_tokens: int) -> Shape:
    """What fits where the cursor stands between `prefix` and `suffix`.

    Text to the right of it, a comment, a string, or code to the left that opens nothing: the line.
    A line of its own: a few lines, or a block where the line above opens one.
    """
    line = prefix[prefix.rfind("\n") + 1 :]
    rest = suffix.partition("\n")[0]
    single = Shape(max_lines=1, max_tokens=min(max_tokens, 48))
    if inside != "code" or max_lines == 1 or not _CLOSERS.fullmatch(rest):
        return single
    block = Shape(max_lines=max_lines, max_tokens=max_tokens)
    if line.strip():
        return block if opens_block(line) and not rest.strip(" )]}") else single
    if rest.strip():
        return single
    above = last_line(prefix[: len(prefix) - len(line)])
    if not above or opens_block(above):
        return block
    few = min(max_lines, 6)
    return Shape(max_lines=few, max_tokens=min(max_tokens, 16 * few))


def opens_block(line: str) -> bool:
    """Whether what follows a line is expected to be deeper than it."""
    code = re.sub(r"\s*(#|//).*$", "", line).rstrip()
    word = re.search(r"\w+$", code)
    ends = word[0] if word is not None else code
    return ends in _OPENERS or code.endswith((":", "{", "(", "[", "=>"))


def last_line(text: str) -> str:
    """The last line of a text that is not blank, or nothing."""
    return next((line for line in reversed(text.split("\n")) if line.strip()), "")


def indent_of(line: str) -> int:
    """Columns of white space in front of a line; a tab goes to the next multiple of eight."""
    return len(line[: len(line) - len(line.lstrip())].expandtabs(8))


class Scope:
    """Says, while a text comes, whether it has left the block that it began in.

    Only indentation is looked at: it costs nothing per token, and what is shown in the end is cut
    by the grammar.
    """

    def __init__(self, prefix: str, shape: Shape) -> None:
        line = prefix[prefix.rfind("\n") + 1 :]
        self._shape = shape
        self._least = indent_of(line) if not line.strip() else indent_of(line) + 1

    def is_over(self, text: str) -> bool:
        """Whether the complete lines of `text` are all that will be used of it."""
        complete = text.split("\n")[:-1]
        if not text.strip():
            return len(text) > 64
        if self._shape.is_single_line:
            return bool(complete)
        if len(complete) >= self._shape.max_lines:
            return True
        if repeats(complete):
            return True
        later = [line for line in complete[1:] if line.strip()]
        return any(indent_of(line) < self._least for line in later)


def repeats(lines: list[str]) -> bool:
    """Whether the last line that is not blank stands there three times in a row."""
    full = [line for line in lines if line.strip()]
    return len(full) >= 3 and full[-1] == full[-2] == full[-3]
