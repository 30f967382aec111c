"""Colour for the code in a streamed answer, line by line.

Pygments colours a whole text. To colour a stream, the lines of an open code block are held until
they are complete; each is then shown with the colours it has in the block so far, so that a string
which began three lines above is still a string.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

from pygments.formatters import TerminalFormatter
from pygments.lexer import Lexer
from pygments.lexers import get_lexer_by_name
from pygments.token import _TokenType
from pygments.util import ClassNotFound

FENCE = "```"


class Highlighter:
    """Turns pieces of an answer into pieces to show; joined and stripped of colour they are equal.

    Text outside code blocks passes at once, but for a line's first characters while they may still
    become a fence.
    """

    def __init__(self) -> None:
        self._formatter: TerminalFormatter[str] = TerminalFormatter()
        self._line = ""  # of the current line, what is not shown yet
        self._at_start = True  # whether `_line` starts at the start of its line
        self._block: _Block | None = None

    def push(self, text: str) -> str:
        """What can be shown once `text` has arrived."""
        return "".join(self._show(text))

    def finish(self) -> str:
        """What is left when the answer has ended."""
        line, self._line = self._line, ""
        return self._complete(line) if line else ""

    def _show(self, text: str) -> Iterator[str]:
        for part in _split(text):
            self._line += part
            if part.endswith("\n"):
                line, self._line = self._line, ""
                yield self._complete(line)
                self._at_start = True
            elif self._block is None and not self._may_be_fence():
                line, self._line = self._line, ""
                self._at_start = False
                yield line

    def _may_be_fence(self) -> bool:
        start = self._line.lstrip(" ")
        return self._at_start and (start.startswith(FENCE) or FENCE.startswith(start))

    def _complete(self, line: str) -> str:
        fence = self._at_start and line.lstrip(" ").startswith(FENCE)
        if self._block is not None:
            if fence:
                self._block = None
                return line
            return self._block.colored(line, self._formatter)
        if fence:
            self._block = _Block(line.strip().lstrip("`").split(" ")[0])
        return line


class _Block:
    def __init__(self, language: str) -> None:
        self._lexer = _lexer(language)
        self._lines: list[str] = []

    def colored(self, line: str, formatter: TerminalFormatter[str]) -> str:
        self._lines.append(line)
        if self._lexer is None:
            return line
        code = "".join(self._lines)
        tokens = _tail(self._lexer.get_tokens(code), len(code) - len(line))
        out = io.StringIO()
        formatter.format(tokens, out)
        return out.getvalue()


def _tail(tokens: Iterator[tuple[_TokenType, str]], start: int) -> Iterator[tuple[_TokenType, str]]:
    """The tokens from character `start` on."""
    at = 0
    for kind, text in tokens:
        if at + len(text) > start:
            yield kind, text[max(0, start - at) :]
        at += len(text)


def _lexer(language: str) -> Lexer | None:
    try:
        return get_lexer_by_name(language or "python", stripnl=False, ensurenl=False)
    except ClassNotFound:
        return None


def _split(text: str) -> list[str]:
    lines = text.split("\n")
    return [line + "\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])
