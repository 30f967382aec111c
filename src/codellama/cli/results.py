"""Showing what the model made: streamed text, several results, or JSON lines."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from codellama.cli.sizes import counted
from codellama.cli.source import Hole
from codellama.cli.terminal import Console
from codellama.errors import RequestError

if TYPE_CHECKING:
    from codellama.engine.completion import Completion, Piece, TokenLogprob
    from codellama.engine.params import SamplingParams


def add_arguments(parser: ArgumentParser) -> None:
    """The flag `show` reads besides those of sampling."""
    parser.add_argument("--json", action="store_true", help="one JSON object per result and line")


@dataclass(frozen=True, kw_only=True)
class Work:
    """One request, in the two ways it can be run, and what stands around its text."""

    stream: Callable[[SamplingParams], Iterator[Piece]]
    several: Callable[[SamplingParams, int], Sequence[Completion]]
    hole: Hole | None = None  # given, results are shown in their place


def show(work: Work, args: Namespace, params: SamplingParams, console: Console) -> Completion:
    """Runs the work, writes its results and returns the last.

    Raises:
        RequestError: a result ended with an error.
    """
    if args.json or args.n > 1:
        made = work.several(params, args.n)
        for i, found in enumerate(made, 1):
            if args.json:
                console.write(json.dumps(_object(found, args.model, work)) + "\n")
            else:
                console.say(f"--- {i} of {args.n}")
                text = found.text if work.hole is None else work.hole.filled(found.text)
                console.write(text if text.endswith("\n") else text + "\n")
        completions = list(made)
    else:
        completion = stream(work, params, console).completion
        assert completion is not None, "a stream ends with its completion"
        completions = [completion]
    for completion in completions:
        require_success(completion)
    console.say(" · ".join(_speed(completions, params)))
    return completions[-1]


@dataclass(frozen=True, kw_only=True)
class Streamed:
    """What was written, and the completion unless the stream was stopped before its end."""

    text: str
    completion: Completion | None


def stream(
    work: Work, params: SamplingParams, console: Console, stopped: Callable[[], bool] | None = None
) -> Streamed:
    """Writes one result as it is made, until `stopped` says so (asked after each piece).

    KeyboardInterrupt ends a stream that can be stopped; else it goes through.
    """
    hole = Hole(prefix="", suffix="") if work.hole is None else work.hole
    writer = console.writer()
    writer.write(hole.prefix)
    texts: list[str] = []
    completion = None
    with _closing(work.stream(params)) as pieces:
        try:
            for piece in pieces:
                writer.write(hole.in_file(piece.text))
                texts.append(piece.text)
                completion = piece.completion
                if stopped is not None and stopped():
                    break
        except KeyboardInterrupt:
            if stopped is None:
                raise
    writer.write(hole.suffix)
    writer.end()
    return Streamed(text="".join(texts), completion=completion)


@contextmanager
def _closing(pieces: Iterator[Piece]) -> Iterator[Iterator[Piece]]:
    """A stream that is left early is closed, which ends its request."""
    try:
        yield pieces
    finally:
        if isinstance(pieces, Generator):
            pieces.close()


def require_success(completion: Completion) -> None:
    """Raises RequestError when the engine could not go on."""
    if completion.finish_reason == "error":
        raise RequestError(f"the model stopped: {completion.error}")


def cut_by(completion: Completion, params: SamplingParams) -> str | None:
    """What cut a result before its end, in words."""
    if completion.finish_reason != "length":
        return None
    if len(completion.token_ids) == params.max_tokens:
        return f"cut at --max-tokens {params.max_tokens}"
    return "cut at the end of the context"


def _speed(completions: Sequence[Completion], params: SamplingParams) -> list[str]:
    first = completions[0].timings
    cached = f", {first.cached_tokens} of them known" if first.cached_tokens else ""
    made = sum(completion.timings.completion_tokens for completion in completions)
    seconds = max(c.timings.prefill_s + c.timings.decode_s for c in completions)
    rate = first.tokens_per_s if len(completions) == 1 else made / seconds if seconds else None
    shown = f" at {rate:.3g} tok/s" if rate is not None and rate < 1000 else ""
    shown = f" at {rate:.0f} tok/s" if rate is not None and rate >= 1000 else shown
    drafted = sum(completion.timings.drafted_tokens for completion in completions)
    accepted = sum(completion.timings.accepted_tokens for completion in completions)
    guessed = [f"{accepted} of {counted(drafted, 'drafted token')} accepted"] if drafted else []
    cut = [words for c in completions if (words := cut_by(c, params)) is not None]
    return [
        f"{counted(first.prompt_tokens, 'prompt token')}{cached}",
        f"first token after {1000 * (first.queue_s + first.prefill_s):.0f} ms",
        f"{counted(made, 'token')}{shown}",
        *guessed,
        *dict.fromkeys(cut),
    ]


def _object(completion: Completion, model: str, work: Work) -> dict[str, Any]:
    timings = completion.timings
    found = {
        "text": completion.text,
        "token_ids": list(completion.token_ids),
        "finish_reason": completion.finish_reason,
        "prompt_tokens": completion.prompt_tokens,
        "seed": completion.seed,
        "logprobs": _logprobs(completion.logprobs),
        "timings": asdict(timings) | {"tokens_per_s": timings.tokens_per_s},
        "model": model,
    }
    if work.hole is not None:
        found["whole"] = work.hole.filled(completion.text)
    if completion.error is not None:
        found["error"] = completion.error
    return found


def _logprobs(found: tuple[TokenLogprob, ...] | None) -> list[dict[str, Any]] | None:
    if found is None:
        return None
    return [
        {"token_id": token.token_id, "logprob": token.logprob,
         "top": [{"token_id": i, "logprob": value} for i, value in token.top]}
        for token in found
    ]  # fmt: skip
