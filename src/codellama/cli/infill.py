"""`codellama infill`: fill a hole in a file or a text."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from codellama.cli import loading, results, sampling, terminal
from codellama.cli.prompts import text_from
from codellama.cli.results import Work
from codellama.cli.sizes import counted
from codellama.cli.source import FILL_ME, Hole, SourceFile, check_text, hole_in_text
from codellama.cli.terminal import Console
from codellama.cli.usage import UsageError
from codellama.cli.values import position
from codellama.text.trim import Trimmed, room_for_prompt, trim

if TYPE_CHECKING:
    from codellama.engine.llm import LLM
    from codellama.engine.params import SamplingParams


def add_arguments(parser: ArgumentParser) -> None:
    parser.usage = (
        "codellama infill FILE --at LINE[:COL] [options]\n"
        f"       codellama infill [-] [options]              (a text with one {FILL_ME})\n"
        "       codellama infill --prefix TEXT --suffix TEXT [options]"
    )
    parser.description = (
        "Fill a hole. Only the text for the hole is written, as it is made.\n\n"
        "Of a file larger than the context, what is far from the hole is not shown to the model;\n"
        "standard error says how much. Byte-order mark and line ends of a file stay as they are."
    )
    add = parser.add_argument
    add(
        "file",
        metavar="FILE",
        nargs="?",
        help=f"the file with the hole; `-` or a pipe reads a text with one {FILL_ME}",
    )
    add(
        "--at",
        type=position,
        metavar="LINE[:COL]",
        help="the hole is before this character, both counted from 1; without COL, the line's end",
    )
    add("--prefix", metavar="TEXT", help="the text before the hole")
    add("--suffix", metavar="TEXT", help="the text after the hole")
    add(
        "--order",
        choices=("psm", "spm"),
        default="psm",
        help="order of the prompt: prefix first, or suffix first (default: psm)",
    )
    add("--write", action="store_true", help="put the result into FILE")
    add("--whole", action="store_true", help="write prefix, middle and suffix")
    add("--no-trim", action="store_true", help="refuse a file larger than the context")
    results.add_arguments(parser)
    terminal.add_arguments(parser)
    loading.add_arguments(parser)
    sampling.add_arguments(parser, max_tokens=256)


def run(args: Namespace) -> int:
    _check(args)
    file = SourceFile.read(Path(args.file)) if args.at is not None else None
    if file is None:
        hole = _hole(args)
    else:
        hole = file.hole_at(*args.at)
        if args.write:
            file.require_writable()
    console = Console.open(args)
    params = sampling.params(args)
    llm = loading.load(args, params, console)
    shown = _fit(hole, llm, args, params, console)
    work = Work(
        stream=lambda params: llm.stream_infill(
            prefix=shown.prefix,
            suffix=shown.suffix,
            params=params,
            order=args.order,
            allow_control=args.allow_control,
        ),
        several=lambda params, n: llm.infill(
            prefix=shown.prefix,
            suffix=shown.suffix,
            params=params,
            order=args.order,
            n=n,
            allow_control=args.allow_control,
        ),
        hole=hole if args.whole else None,
    )
    made = results.show(work, args, params, console)
    if file is not None and args.write:
        file.replace(hole.filled(made.text))
        console.say(f"wrote {file.path}")
    return 0


def _check(args: Namespace) -> None:
    """Raises UsageError unless the arguments name one hole."""
    sampling.check(args)
    parts = args.prefix is not None or args.suffix is not None
    if parts and (args.file is not None or args.at is not None):
        raise UsageError("--prefix and --suffix are the text; leave out FILE and --at")
    if args.at is not None and args.file in (None, "-"):
        raise UsageError("--at needs a FILE to count lines in")
    if args.at is None and args.file not in (None, "-"):
        raise UsageError(f"say where in {args.file} the hole is: --at LINE:COL")
    if args.write and args.at is None:
        raise UsageError("--write needs a FILE and --at")
    if args.write and args.n > 1:
        raise UsageError("--write takes one result; leave out --n")


def _hole(args: Namespace) -> Hole:
    if args.prefix is not None or args.suffix is not None:
        return Hole(
            prefix=check_text(args.prefix or "", "--prefix"),
            suffix=check_text(args.suffix or "", "--suffix"),
        )
    text = text_from(args.file, None, noun="text")
    if text is None:
        raise UsageError(f"there is no hole: give FILE --at, or a text with {FILL_ME}")
    return hole_in_text(text, "standard input")


def _fit(
    hole: Hole, llm: LLM, args: Namespace, params: SamplingParams, console: Console
) -> Trimmed:
    fit = trim(
        (hole.model_prefix, hole.model_suffix),
        llm.tokenizer,
        room_for_prompt(llm.max_seq_len, params.max_tokens),
        allow_control=args.allow_control,
        may_drop=not args.no_trim,
    )
    if fit.n_dropped:
        console.say(
            f"left out {counted(fit.n_dropped, 'token')} ({fit.prefix_dropped} at the start, "
            f"{fit.suffix_dropped} at the end): the context has {llm.max_seq_len}"
        )
    return fit
