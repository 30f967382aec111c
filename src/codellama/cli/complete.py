"""`codellama complete`: continue a text."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from codellama.cli import loading, results, sampling, terminal
from codellama.cli.prompts import text_from
from codellama.cli.results import Work
from codellama.cli.terminal import Console
from codellama.cli.usage import UsageError


def add_arguments(parser: ArgumentParser) -> None:
    parser.usage = "codellama complete [TEXT | -] [options]"
    parser.description = "Continue a text. Only what the model adds is written, as it is made."
    parser.add_argument(
        "text", metavar="TEXT", nargs="?", help="the text; `-` or a pipe reads standard input"
    )
    parser.add_argument("--file", type=Path, metavar="F", help="read the text from a file")
    results.add_arguments(parser)
    terminal.add_arguments(parser)
    loading.add_arguments(parser)
    sampling.add_arguments(parser, max_tokens=256)


def run(args: Namespace) -> int:
    sampling.check(args)
    text = text_from(args.text, args.file, noun="text")
    if text is None:
        raise UsageError("there is no text: give TEXT, `-` or --file")
    console = Console.open(args)
    params = sampling.params(args)
    llm = loading.load(args, params, console)
    work = Work(
        stream=lambda params: llm.stream(text, params, allow_control=args.allow_control),
        several=lambda params, n: llm.complete(text, params, n=n, allow_control=args.allow_control),
    )
    results.show(work, args, params, console)
    return 0
