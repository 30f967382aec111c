"""Ids to text, one id at a time.

The rules are SentencePiece's: a run of byte pieces is UTF-8 in which each byte that is part of no
character becomes one U+FFFD, and the first space of a text is the tokenizer's own and not shown.
"""

from __future__ import annotations

import codecs
import re
from typing import Protocol

SPACE = "▁"  # U+2581 stands for a space inside pieces

_ESCAPED = re.compile("[\udc80-\udcff]")
_BYTES = [bytes((value,)) for value in range(256)]


class Surfaces(Protocol):
    """What each id shows: a text with `SPACE` for spaces, or the value of a byte."""

    def surface(self, token_id: int) -> str | int: ...


class StreamDecoder:
    """Decodes ids as they come. All texts given out, joined, are the decoding of all ids.

    Half a character is held back until it is whole or can no longer become one.
    """

    def __init__(self, surfaces: Surfaces, *, drop_first_space: bool) -> None:
        self._surfaces = surfaces
        self._at_start = drop_first_space
        self._in_bytes = False
        # Python escapes each byte that belongs to no character on its own, which is the rule.
        self._utf8 = codecs.getincrementaldecoder("utf-8")("surrogateescape")

    def push(self, token_id: int) -> str:
        """The text that became certain with this id; -1 is padding and gives none."""
        if token_id == -1:
            return ""
        surface = self._surfaces.surface(token_id)
        if isinstance(surface, int):
            self._at_start, self._in_bytes = False, True
            text = self._utf8.decode(_BYTES[surface])
            return text if text.isascii() else _ESCAPED.sub("\ufffd", text)
        held = self.finish() if self._in_bytes else ""
        if self._at_start and surface:
            self._at_start = False
            surface = surface.removeprefix(SPACE)
        return held + surface.replace(SPACE, " ")

    def finish(self) -> str:
        """What is still held back: U+FFFD for each byte of an unfinished character."""
        self._in_bytes = False
        held = self._utf8.decode(b"", final=True)
        return _ESCAPED.sub("\ufffd", held)
