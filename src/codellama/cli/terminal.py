"""Where text goes: results to standard output, everything else to standard error.

What a model writes is a stranger's text. Shown on a terminal it must not be able to move the
cursor, rename the window or answer for the keyboard, so control characters other than newline and
tab are made visible there. In a file or a pipe every character arrives as it was made.
"""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, Namespace
from dataclasses import dataclass
from typing import TextIO

_CONTROLS = {code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t"}
_CONTROLS |= {0x7F: "\u2421"} | {code: f"\\x{code:02x}" for code in range(0x80, 0xA0)}


def printable(text: str, stream: TextIO) -> str:
    """The text as it may be written to `stream`: without live control characters on a terminal."""
    return text.replace("\r\n", "\n").translate(_CONTROLS) if stream.isatty() else text


@dataclass(frozen=True, kw_only=True)
class Console:
    """The two streams of one command, and what it was told about them."""

    out: TextIO
    err: TextIO
    quiet: bool
    color: bool

    @classmethod
    def open(cls, args: Namespace) -> Console:
        """Standard output and error, prepared for any text; reads `args.quiet` and `args.color`."""
        _prepare(sys.stdout)
        _prepare(sys.stderr)
        color = getattr(args, "color", "never")
        return cls(
            out=sys.stdout,
            err=sys.stderr,
            quiet=getattr(args, "quiet", False),
            color=color == "always" or (color == "auto" and _likes_color(sys.stdout)),
        )

    def write(self, text: str) -> None:
        """A whole result."""
        self.out.write(printable(text, self.out))
        self.out.flush()

    def writer(self) -> Writer:
        """For a result that comes in pieces."""
        return Writer(self)

    def say(self, line: str) -> None:
        """Something decided or measured for the user; `--quiet` drops it."""
        if not self.quiet:
            self.warn(line)

    def warn(self, line: str) -> None:
        """Something the user must see whatever the flags."""
        self.err.write(printable(f"codellama: {line}\n", self.err))
        self.err.flush()


class Writer:
    """One result, written as its pieces come: at once, and in colour where that is wanted."""

    def __init__(self, console: Console) -> None:
        self._out = console.out
        self._ends_line = True
        self._highlighter = None
        if console.color:
            from codellama.cli.highlight import Highlighter

            self._highlighter = Highlighter()

    def write(self, text: str) -> None:
        if not text:
            return
        self._ends_line = text.endswith("\n")
        shown = printable(text, self._out)
        self._out.write(shown if self._highlighter is None else self._highlighter.push(shown))
        self._out.flush()

    def end(self) -> None:
        """What is held back; on a terminal, also the end of an unfinished line."""
        if self._highlighter is not None:
            self._out.write(self._highlighter.finish())
        if self._out.isatty() and not self._ends_line:
            self._out.write("\n")
        self._out.flush()


def add_arguments(parser: ArgumentParser) -> None:
    """The flags `Console.open` reads, but for colour."""
    parser.add_argument("--quiet", action="store_true", help="say nothing on standard error")


def add_color_argument(parser: ArgumentParser) -> None:
    """The flag for verbs that can colour their results."""
    parser.add_argument(
        "--color",
        choices=("auto", "always", "never"),
        default="auto",
        help="colour code in answers (default: auto, on a terminal without NO_COLOR)",
    )


def _likes_color(stream: TextIO) -> bool:
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _prepare(stream: TextIO) -> None:
    # A terminal shows what its encoding can and a question mark for the rest; files get UTF-8.
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is None:
        return
    if stream.isatty():
        reconfigure(errors="replace")
    else:
        reconfigure(encoding="utf-8", errors="replace", newline="")
