"""Where a verb's text comes from: the command line, a file, or standard input."""

from __future__ import annotations

import sys
from pathlib import Path

from codellama.cli.source import SourceFile, check_text, decode
from codellama.cli.usage import UsageError


def text_from(argument: str | None, file: Path | None, *, noun: str) -> str | None:
    """The text of `TEXT`, of `-` or a pipe on standard input, or of `--file`.

    None when there is none: no argument, no file, and standard input is a terminal.

    Raises:
        UsageError: both an argument and a file are given.
        PromptError: a file is missing or unreadable, or the text is not UTF-8.
    """
    if file is not None:
        if argument is not None:
            raise UsageError(f"give the {noun} as TEXT or with --file, not both")
        return SourceFile.read(file).text.removeprefix("\ufeff")
    if argument is not None and argument != "-":
        return check_text(argument, f"the {noun}")
    if argument is None and sys.stdin.isatty():
        return None
    return decode(sys.stdin.buffer.read(), "standard input")
