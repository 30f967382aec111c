"""The reference page of the command line, made from the parsers themselves.

python -m codellama.cli.reference > docs/cli.md
"""

from __future__ import annotations

import argparse

from codellama.cli.main import VERBS, parser, verb_parser

_HEAD = """\
# Command line

This page is what `--help` says. Results go to standard output and everything else to standard
error, so that output can be piped; `--quiet` leaves errors only. On a terminal, control characters
in what a model writes are shown instead of obeyed; files and pipes get them as they are.

| exit code | meaning |
| --- | --- |
| 0 | done |
| 1 | it could not be done; standard error says why and what helps |
| 2 | the command line makes no sense |
| 70 | a bug in codellama; `--traceback` shows where |
| 130 | stopped by Ctrl-C |
| 141 | whoever read the output left, as `head` does |
"""


def page() -> str:
    """The whole page, in Markdown."""
    parts = [_HEAD, _section("codellama", parser().format_help())]
    for verb in VERBS:
        parts += _sections(verb_parser(verb))
    return "\n".join(parts)


def _sections(parser: argparse.ArgumentParser) -> list[str]:
    """The help of a parser and of the parsers below it."""
    found = [_section(parser.prog, parser.format_help())]
    for action in parser._actions:  # argparse has no public way to the parsers below one
        if isinstance(action, argparse._SubParsersAction):
            found += [part for below in action.choices.values() for part in _sections(below)]
    return found


def _section(title: str, text: str) -> str:
    return f"## {title}\n\n```text\n{text.rstrip()}\n```\n"


if __name__ == "__main__":
    print(page(), end="")
