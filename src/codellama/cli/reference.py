"""The reference page of the command line, made from the parsers themselves.

python -m codellama.cli.reference > docs/cli.md
"""

from __future__ import annotations

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
    parts += [_section(f"codellama {verb}", verb_parser(verb).format_help()) for verb in VERBS]
    return "\n".join(parts)


def _section(title: str, text: str) -> str:
    return f"## {title}\n\n```text\n{text.rstrip()}\n```\n"


if __name__ == "__main__":
    print(page(), end="")
