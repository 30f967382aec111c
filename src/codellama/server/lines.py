"""Ending a reply by its lines: at one indented less, or at the first whole one after some time."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

_LESS = re.compile(r"[ \t]*(?=[^ \t\r\n])")


class LineLimit:
    """Lets a reply's text through up to where its lines say that it ends.

    After the first line break, a line that is indented less than `n_indent` ends the text and is
    not shown. Once `budget_s` have passed, the next line break ends it. What decides is held back:
    the blank beginning of a line.
    """

    def __init__(
        self, n_indent: int, budget_s: float | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._n_indent = n_indent
        self._budget_s = budget_s
        self._clock = clock
        self._started_at = clock()
        self._line: str | None = None  # a line's blank beginning; None within a line
        self.is_over = False

    def push(self, text: str) -> str:
        """What may be shown."""
        if self.is_over or (not self._n_indent and self._budget_s is None):
            return "" if self.is_over else text
        shown: list[str] = []
        for part in re.split(r"(?<=\n)", text):
            if not part or self.is_over:
                continue
            shown.append(self._part(part))
        return "".join(shown)

    def finish(self) -> str:
        """What was held back and ends nothing."""
        held, self._line = self._line or "", None
        return "" if self.is_over else held

    def _part(self, part: str) -> str:
        """The next piece of one line, with its break if it has one."""
        if self._line is not None:
            part, self._line = self._line + part, None
            if not part.strip(" \t"):
                self._line = part
                return ""
            found = _LESS.match(part)
            if found is not None and found.end() < self._n_indent:
                self.is_over = True
                return ""
        if part.endswith("\n"):
            if self._budget_s is not None and self._clock() - self._started_at >= self._budget_s:
                self.is_over = True
            self._line = "" if self._n_indent else None
        return part
