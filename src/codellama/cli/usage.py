"""The parser every verb is described with, and what a senseless command line gets."""

from __future__ import annotations

import argparse
import sys
from typing import Any, NoReturn

from codellama.cli.terminal import printable


class UsageError(Exception):
    """Arguments that are well-formed one by one and make no sense together: exit code 2."""


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are one sentence and one hint, like every other error here."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("formatter_class", _Help)
        options.setdefault("allow_abbrev", False)
        super().__init__(**options)

    def error(self, message: str) -> NoReturn:
        text = f"{self.prog}: {message}\n  → {self.prog} --help lists what it takes\n"
        self.exit(2, printable(text, sys.stderr))


class _Help(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        # One width everywhere, so that the reference page does not depend on a window.
        super().__init__(prog, max_help_position=26, width=92)
