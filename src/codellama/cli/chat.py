"""`codellama chat`: ask one question, or hold a conversation."""

from __future__ import annotations

import signal
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from codellama.cli import loading, results, sampling, terminal
from codellama.cli.prompts import text_from
from codellama.cli.results import Work
from codellama.cli.source import check_text
from codellama.cli.terminal import Console
from codellama.cli.usage import UsageError
from codellama.errors import PromptError

if TYPE_CHECKING:
    from codellama.engine.llm import LLM
    from codellama.engine.params import SamplingParams

Messages = Sequence[Mapping[str, str]]


def add_arguments(parser: ArgumentParser) -> None:
    parser.usage = "codellama chat [TEXT | -] [options]"
    parser.description = (
        "Ask one question: TEXT, or a pipe on standard input. Without either, hold a conversation."
    )
    parser.add_argument(
        "text", metavar="TEXT", nargs="?", help="the question; `-` or a pipe reads standard input"
    )
    parser.add_argument("--system", metavar="TEXT", help="what the model is told beforehand")
    parser.add_argument(
        "--chat-form",
        choices=("inst", "step"),
        help="the form of the model's conversations (default: what its files say)",
    )
    terminal.add_color_argument(parser)
    results.add_arguments(parser)
    terminal.add_arguments(parser)
    loading.add_arguments(parser)
    sampling.add_arguments(parser, max_tokens=1024)


def run(args: Namespace) -> int:
    sampling.check(args)
    text = text_from(args.text, None, noun="question")
    system = None if args.system is None else check_text(args.system, "--system")
    console = Console.open(args)
    if text is None:
        _require_conversation(args)
    elif not text.strip():
        raise UsageError("the question is empty")
    params = sampling.params(args)
    llm = loading.load(args, params, console)
    if llm.chat_form is None:
        raise PromptError(
            f"{args.model} does not say that it was trained to chat: it continues text",
            hint="take an Instruct model, use `codellama complete`, or say --chat-form inst",
        )
    if text is None:
        _converse(llm, args, system, params, console)
    else:
        messages = [] if system is None else [{"role": "system", "content": system}]
        work = _work(llm, [*messages, {"role": "user", "content": text}], args)
        results.show(work, args, params, console)
    return 0


def _require_conversation(args: Namespace) -> None:
    """Raises UsageError unless a conversation can be held with these arguments, at a terminal."""
    if not sys.stdout.isatty():
        raise UsageError("a conversation needs a terminal; give TEXT to ask one question")
    if args.json or args.n > 1:
        raise UsageError("--json and --n need a TEXT")


def _work(llm: LLM, messages: Messages, args: Namespace) -> Work:
    return Work(
        stream=lambda params: llm.stream_chat(messages, params, allow_control=args.allow_control),
        several=lambda params, n: llm.chat(messages, params, n=n, allow_control=args.allow_control),
    )


def _converse(
    llm: LLM, args: Namespace, system: str | None, params: SamplingParams, console: Console
) -> None:
    from codellama.cli.conversation import Conversation, converse

    def answer(messages: Messages) -> str | None:
        stop = _Stop()
        with stop.listening():
            made = results.stream(_work(llm, messages, args), params, console, stop)
        if made.completion is None:
            console.say("stopped; /undo forgets this answer")
            return made.text or None
        results.require_success(made.completion)
        cut = results.cut_by(made.completion, params)
        if cut is not None:
            console.say(cut)
        return made.text

    converse(Conversation(system, answer, console), console)


class _Stop:
    """Whether Ctrl-C was pressed while an answer was made.

    Before its first token there is nothing to look between, so Ctrl-C raises KeyboardInterrupt.
    """

    def __init__(self) -> None:
        self._pressed = False
        self._begun = False

    def __call__(self) -> bool:
        self._begun = True
        return self._pressed

    @contextmanager
    def listening(self) -> Iterator[None]:
        before = signal.signal(signal.SIGINT, self._press)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _press(self, number: int, frame: FrameType | None) -> None:
        self._pressed = True
        if not self._begun:
            raise KeyboardInterrupt
