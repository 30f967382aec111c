"""Ending a stream of text where a stop string begins."""

from __future__ import annotations

from collections.abc import Iterable

from codellama.errors import RequestError


class StopFilter:
    """Lets text through up to the first stop string, no part of which is ever shown.

    The text ends at the stop string that is complete first; of several complete at once, the
    longest counts. So the cut does not depend on the pieces in which text arrives.

    Raises:
        RequestError: a stop string is empty.
    """

    def __init__(self, stops: Iterable[str]) -> None:
        self._stops = [_Matcher(stop) for stop in dict.fromkeys(stops)]
        self._held = ""
        self.hit: str | None = None  # the stop string that ended the text

    @property
    def stopped(self) -> bool:
        return self.hit is not None

    def push(self, text: str) -> str:
        """What may be shown now; nothing once a stop string was complete.

        Text that may be the beginning of a stop string is held back. Linear in the text.
        """
        if self.stopped:
            return ""
        seen = self._held + text
        if not self._stops:
            return seen
        for at, char in enumerate(text, len(self._held) + 1):
            complete = [m.stop for m in self._stops if m.push(char)]
            if complete:
                self.hit = max(complete, key=len)
                self._held = ""
                return seen[: at - len(self.hit)]
        keep = len(seen) - max(m.n_matched for m in self._stops)
        self._held = seen[keep:]
        return seen[:keep]

    def finish(self) -> str:
        """What was held back and turned out to be no stop string."""
        held, self._held = self._held, ""
        return held


class _Matcher:
    """How much of a stop string the text so far ends with (Knuth, Morris and Pratt)."""

    def __init__(self, stop: str) -> None:
        if not stop:
            raise RequestError("a stop string is empty")
        self.stop = stop
        self.n_matched = 0
        self._fallback = [0, 0]  # longest proper border of each beginning
        for char in stop[1:]:
            self._fallback.append(self._next(self._fallback[-1], char))

    def push(self, char: str) -> bool:
        self.n_matched = self._next(self.n_matched, char)
        return self.n_matched == len(self.stop)

    def _next(self, matched: int, char: str) -> int:
        while matched and self.stop[matched] != char:
            matched = self._fallback[matched]
        return matched + 1 if self.stop[matched] == char else 0
