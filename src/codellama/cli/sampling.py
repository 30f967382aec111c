"""The flags that say how tokens are chosen, and the `SamplingParams` they make."""

from __future__ import annotations

import os
import re
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

from codellama.cli.usage import UsageError
from codellama.cli.values import above_zero

if TYPE_CHECKING:
    from codellama.engine.params import SamplingParams

TO_THE_END = "end"
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\"}
# Flags that carry their value unchanged into the field of the same name.
_FIELDS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "logprobs")


def add_arguments(parser: ArgumentParser, *, max_tokens: int) -> None:
    """The sampling flags; `max_tokens` is this verb's default."""
    group = parser.add_argument_group("sampling")
    add = group.add_argument
    add("--temperature", type=float, metavar="T", help="0 takes the likeliest token (default: 0.2)")
    add("--top-p", type=float, metavar="P", help="keep the likeliest tokens up to this mass "
        "(default: 0.95)")  # fmt: skip
    add("--top-k", type=int, metavar="K", help="keep the K likeliest tokens (default: all)")
    add("--min-p", type=float, metavar="P", help="drop tokens less likely than P times the "
        "likeliest (default: 0)")  # fmt: skip
    add("--repetition-penalty", type=float, metavar="R", help="above 1 makes tokens already in "
        "the text less likely (default: 1)")  # fmt: skip
    add("--seed", type=int, help="repeats a result; without it one is drawn and shown")
    add(
        "--max-tokens",
        type=_count_or_end,
        default=max_tokens,
        metavar="N",
        help=f"stop after N tokens; `end` goes to the end of the context (default: {max_tokens})",
    )
    add(
        "--stop",
        type=_unescape,
        action="append",
        default=[],
        metavar="TEXT",
        help="stop before TEXT; \\n, \\t, \\r and \\\\ are understood; may be given several times",
    )
    add("--n", type=above_zero, default=1, metavar="N", help="make N results (default: 1)")
    add("--logprobs", type=int, metavar="K", help="with --json: each token's log-probability and "
        "those of the K likeliest")  # fmt: skip


def check(args: Namespace) -> None:
    """Raises UsageError when flags contradict each other."""
    if args.logprobs is not None and not args.json:
        raise UsageError("--logprobs is shown by --json only")


def params(args: Namespace) -> SamplingParams:
    """What the flags ask for. The seed is always set, so that it can be shown and repeated.

    Raises:
        CodeLlamaError: a number is out of its range.
    """
    from codellama.engine.params import SamplingParams

    given: dict[str, Any] = {
        name: getattr(args, name) for name in _FIELDS if getattr(args, name) is not None
    }
    return SamplingParams(
        **given,
        max_tokens=None if args.max_tokens == TO_THE_END else args.max_tokens,
        stop=tuple(args.stop),
        seed=_draw_seed() if args.seed is None else args.seed,
    )


def describe(params: SamplingParams) -> str:
    """The sampling in half a line: what was chosen and what repeats it."""
    if params.temperature == 0:
        words = ["greedy"]
    else:
        words = [f"temperature {params.temperature:g}"]
        words += [f"top-p {params.top_p:g}"] if params.top_p < 1 else []
        words += [f"top-k {params.top_k}"] if params.top_k else []
        words += [f"min-p {params.min_p:g}"] if params.min_p else []
        words += [f"seed {params.seed}"]
    if params.repetition_penalty != 1:
        words.append(f"repetition penalty {params.repetition_penalty:g}")
    return ", ".join(words)


def _draw_seed() -> int:
    return int.from_bytes(os.urandom(4), "little")


def _unescape(text: str) -> str:
    return re.sub(r"\\([ntr\\])", lambda found: _ESCAPES[found[1]], text)


def _count_or_end(text: str) -> int | str:
    return TO_THE_END if text == TO_THE_END else above_zero(text)
