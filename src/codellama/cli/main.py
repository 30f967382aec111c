"""From the words on the command line to a verb's `run`, and from an exception to an exit code.

Exit codes: 0 done; 1 it could not be done, said in one sentence; 2 the command line makes no sense;
3 programs cannot be isolated on this machine, so none was run; 70 a bug in codellama; 130 stopped
by Ctrl-C; 141 whoever read the output left.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from codellama.cli.terminal import printable
from codellama.cli.usage import Parser, UsageError
from codellama.cli.version import package_version
from codellama.errors import CodeLlamaError, ConfigError, MissingExtra, SandboxUnavailable

VERBS = {
    "complete": "continue a text",
    "infill": "fill a hole in a file or a text",
    "chat": "ask one question, or hold a conversation",
    "solve": "write code until it passes your tests",
    "serve": "serve models over HTTP",
    "batch": "answer a file of requests",
    "cluster": "let machines work together",
    "lsp": "suggest code in an editor, as a language server",
    "info": "describe a checkpoint from its headers",
    "models": "list the members of the Code Llama family and their sizes",
    "plan": "what a model needs, where it fits and how fast it would be",
    "convert": "write a checkpoint in another place or number format",
    "quantize": "write a checkpoint as a smaller GGUF file, and report what that cost",
    "bench": "measure speed, beside what the machine can do",
    "eval": "run the published evaluations, beside the paper's figures",
    "bench-repo": "measure models on holes that your own git history filled",
    "train": "train a model",
    "data": "prepare a training corpus",
}
"""What each verb does. Its module is `codellama.cli.<verb>`, with `add_arguments` and `run`; a dash
in the verb is an underscore in the module."""

_EXTRAS = {"train": "train", "data": "train"}


def parser() -> Parser:
    """The parser of what comes before the verb."""
    listing = "\n".join(f"  {verb:<10} {does}" for verb, does in VERBS.items())
    found = Parser(
        prog="codellama",
        usage="codellama VERB ...",
        description=f"Code Llama on a plain CPU.\n\nverbs:\n{listing}",
        epilog="codellama VERB --help describes a verb.\n\n"
        "Results go to standard output, everything else to standard error.\n"
        "Exit codes: 0 done, 1 could not be done, 2 usage, 3 programs cannot be isolated here,\n"
        "70 a bug, 130 Ctrl-C, 141 reader gone.",
    )
    found.add_argument("--version", action="store_true", help="show the version and leave")
    _add_traceback(found)
    return found


def verb_parser(verb: str) -> Parser:
    """The parser of what comes after `verb`; its module is imported for it."""
    does = VERBS[verb]
    found = Parser(prog=f"codellama {verb}", description=does[0].upper() + does[1:] + ".")
    module = importlib.import_module(f"codellama.cli.{verb.replace('-', '_')}")
    module.add_arguments(found)
    found.set_defaults(run=module.run)
    _add_traceback(found)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line and returns its exit code; only `argparse` leaves by `SystemExit`."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    _require_streams()
    try:
        if sys.stdout is None:
            raise ConfigError("standard output is closed")
        try:
            code = _run(arguments)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        _drop_output()
        return 141
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if isinstance(error, OSError):
            _drop_output()
        if "--traceback" in _before_texts(arguments):
            import traceback

            traceback.print_exception(error)
        return _explain(error, arguments)
    return code


def _run(arguments: list[str]) -> int:
    # Nothing before the verb takes a value, so the first word is the verb.
    at = next((i for i, word in enumerate(arguments) if not word.startswith("-")), len(arguments))
    top = parser()
    if top.parse_args(arguments[:at]).version:
        print(f"codellama {package_version('(not installed)')}")
        return 0
    verb = next(iter(arguments[at:]), None)
    if verb is None:
        top.error(f"say what to do: {', '.join(VERBS)}")
    if verb not in VERBS:
        top.error(f"there is no verb {verb!r}; the verbs are {', '.join(VERBS)}")
    chosen = verb_parser(verb)
    args = chosen.parse_args(arguments[at + 1 :])
    try:
        code: int = args.run(args)
    except UsageError as error:
        chosen.error(str(error))
    return code


def _require_streams() -> None:
    """Whoever started us may have closed what we read from and complain to."""
    if sys.stdin is None:
        sys.stdin = os.fdopen(os.open(os.devnull, os.O_RDONLY))
    if sys.stderr is None:
        sys.stderr = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")


def _drop_output() -> None:
    """After a failed write, Python must not try again to write the rest on its way out."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _before_texts(arguments: Sequence[str]) -> Sequence[str]:
    """The arguments up to `--`, after which a flag is a text."""
    return arguments[: arguments.index("--")] if "--" in arguments else arguments


def _explain(error: Exception, arguments: Sequence[str]) -> int:
    """Says on standard error what went wrong and what to do; returns the exit code."""
    missing = getattr(error, "name", None) if isinstance(error, ModuleNotFoundError) else None
    if missing is not None and missing.split(".")[0] == "torch":
        verb = next((word for word in arguments if word in VERBS), "")
        error = MissingExtra(f"codellama {verb}", _EXTRAS.get(verb, "torch"))
    if isinstance(error, CodeLlamaError):
        text, hint, code = str(error), error.hint, 3 if isinstance(error, SandboxUnavailable) else 1
    elif isinstance(error, MemoryError):
        text, code = "there is not enough memory", 1
        hint = "use a smaller or quantised model, or a smaller --max-seq-len"
    elif isinstance(error, OSError) and error.strerror is not None:
        named = f"{error.filename}: " if error.filename is not None else ""
        text, hint, code = named + error.strerror, None, 1
    else:
        text = f"this is a bug in codellama: {type(error).__name__}: {error}"
        hint, code = "run it again with --traceback and report what it prints", 70
    lines = [f"codellama: {text}"] + ([f"  → {hint}"] if hint else [])
    sys.stderr.write(printable("\n".join(lines) + "\n", sys.stderr))
    return code


def _add_traceback(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--traceback", action="store_true", help="on an error, show where in the program it arose"
    )
