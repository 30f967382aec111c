"""Going on inside a token.

A text that stops anywhere, as at a cursor, often stops where a longer token would have gone on: a
model that reads `ret` as tokens of their own has rarely seen `urn` follow them. So the last tokens
are taken back, and what is written instead has to begin with their text ("token healing").
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence


class Beginnings:
    """A vocabulary by the bytes that its tokens show.

    Args:
        shown: the bytes of each id that may be written. Ids that show nothing are left out.
    """

    def __init__(self, shown: Mapping[int, bytes]) -> None:
        pairs = sorted((raw, i) for i, raw in shown.items() if raw)
        self._raws = [raw for raw, _ in pairs]
        self._ids = [i for _, i in pairs]
        self._longest = max(map(len, self._raws), default=0)
        self._shown = shown

    def bytes_of(self, token_id: int) -> bytes:
        """What the id shows; nothing for one that may not be written."""
        return self._shown.get(token_id, b"")

    def is_begun_by(self, raw: bytes) -> bool:
        """Whether some token begins with `raw` and goes on."""
        at = bisect_right(self._raws, raw)
        return at < len(self._raws) and self._raws[at].startswith(raw)

    def towards(self, raw: bytes) -> list[int]:
        """The ids of tokens that begin with `raw`, and of those that `raw` begins with."""
        at = bisect_left(self._raws, raw)
        found = []
        while at < len(self._raws) and self._raws[at].startswith(raw):
            found.append(self._ids[at])
            at += 1
        for n in range(1, min(len(raw), self._longest + 1)):
            at = bisect_left(self._raws, raw[:n])
            while at < len(self._raws) and self._raws[at] == raw[:n]:
                found.append(self._ids[at])
                at += 1
        return found

    def take_back(self, ids: Sequence[int]) -> tuple[list[int], str]:
        """The ids that stay of a text's, and the text of those that another token may replace.

        Taken back are the tokens from the first one on in which a token may begin that goes on
        beyond the end, as ` return` begins in the four spaces of `    ret`.
        """
        n, tail = len(ids), b""
        first, begun = n, b""
        while n and len(tail) < self._longest:
            raw = self.bytes_of(ids[n - 1])
            if not raw:
                break
            n, tail = n - 1, raw + tail
            if any(self.is_begun_by(tail[at:]) for at in range(len(raw))):
                first, begun = n, tail
        while first and _is_inside(begun):  # a character of several byte tokens stays whole
            first -= 1
            begun = self.bytes_of(ids[first]) + begun
        return list(ids[:first]), begun.decode()


def _is_inside(raw: bytes) -> bool:
    """Whether `raw` begins inside a character of UTF-8."""
    return bool(raw) and raw[0] & 0xC0 == 0x80
