"""A generation as a stream: OpenAI's events, and what all APIs' streams have in common."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from typing import Any

from codellama.engine.completion import Piece, TokenLogprob
from codellama.server.generation import Generation
from codellama.server.refusals import Refusal, encode
from codellama.server.schema import StreamOptions
from codellama.server.shapes import DONE, Chunks, Held, counts, event, timings, usage
from codellama.server.web import Call

SSE = b"text/event-stream; charset=utf-8"
Logprobs = Callable[[int, Sequence[TokenLogprob]], Any]


Write = Callable[[int, Piece], bytes]


def failed(message: str) -> Refusal:
    """The refusal for a reply that could not be computed."""
    return Refusal(500, f"the reply could not be computed: {message}", code="engine_error")


async def written(
    generation: Generation, write: Write, fail: Callable[[Refusal], bytes], unread_chars: int
) -> AsyncGenerator[bytes, None]:
    """What `write` makes of each piece, those of one step together.

    Args:
        fail: what ends a stream that has begun.
        unread_chars: text that may wait for a client that does not read it.

    Raises:
        Refusal: the first thing that came was an error.
    """
    has_sent = False
    refusal: Refusal | None = None
    async for batch in generation.batches():
        parts = []
        for index, piece in batch:
            if piece.finish_reason == "error":
                assert piece.completion is not None, "an ending carries the completion"
                refusal = failed(piece.completion.error or "unknown")
                break
            parts.append(write(index, piece))
        if generation.unread_chars > unread_chars:
            refusal = failed("the client reads too slowly")
            generation.cancel()
        data = b"".join(parts)
        if data:
            has_sent = True
            yield data
        if refusal is not None:
            break
    else:
        if generation.failure is not None:
            refusal = Refusal(503, generation.failure, code="engine_failed", retry_after=30)
    if refusal is not None:
        if not has_sent:
            raise refusal
        yield fail(refusal)


async def events(
    call: Call,
    generation: Generation,
    chunks: Chunks,
    *,
    options: StreamOptions | None,
    logprobs: Logprobs | None = None,
    before: Sequence[tuple[int, str, str]] = (),
) -> AsyncIterator[bytes]:
    """All of a stream's bytes, those of one step together.

    Args:
        logprobs: the JSON value for a reply's entries; None leaves them out.
        before: chunks (reply, text, logprobs) that come before the replies' own.

    Raises:
        Refusal: the first thing that came was an error.
    """
    options = StreamOptions() if options is None else options
    held = Held(len(generation.found))
    opened = [False] * len(generation.found)
    is_good = True

    def write(index: int, piece: Piece) -> bytes:
        entries = held.take(index, piece)
        if entries is None:
            return b""
        begin = "" if opened[index] else chunks.open(index)
        opened[index] = True
        shown = "null" if logprobs is None else encode(logprobs(index, entries)).decode()
        tail = ""
        if options.continuous_usage_stats:
            tail = f',"usage":{encode(_so_far(generation, held)).decode()}'
        if piece.completion is None:
            return (begin + chunks.chunk(index, piece.text, shown, tail)).encode()
        reason = generation.reason(piece.completion)
        return (begin + chunks.last(index, piece.text, shown, reason, tail)).encode()

    def fail(refusal: Refusal) -> bytes:
        nonlocal is_good
        is_good = False
        return event(refusal.body("openai")) + DONE * call.state.settings.done_after_error

    head = "".join(chunks.chunk(index, text, entries, "") for index, text, entries in before)
    limit = call.state.settings.limits.unread_bytes
    async with contextlib.aclosing(written(generation, write, fail, limit)) as parts:
        async for part in parts:
            yield head.encode() + part
            head = ""
    if not is_good:
        return
    end = b""
    if options.include_usage:
        done = [one for one in generation.found if one is not None]
        end = chunks.usage(usage(done, generation.n), timings(done[0])).encode()
    yield end + DONE


def _so_far(generation: Generation, held: Held) -> dict[str, Any]:
    return counts(sum(len(prompt.ids) for prompt in generation.prompts), sum(held.n_tokens))
