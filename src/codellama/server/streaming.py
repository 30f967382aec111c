"""A generation as a stream of OpenAI's events."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from codellama.engine.completion import TokenLogprob
from codellama.server.generation import Generation
from codellama.server.refusals import Refusal, encode
from codellama.server.schema import StreamOptions
from codellama.server.shapes import DONE, Chunks, Held, counts, event, timings, usage
from codellama.server.web import Call

Logprobs = Callable[[int, Sequence[TokenLogprob]], Any]


def failed(message: str) -> Refusal:
    """The refusal for a reply that could not be computed."""
    return Refusal(500, f"the reply could not be computed: {message}", code="engine_error")


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
    limit = call.state.settings.limits.unread_bytes
    has_sent = False
    head = [chunks.chunk(index, text, entries, "") for index, text, entries in before]
    async for batch in generation.batches():
        parts, head = head, []
        error: str | None = None
        for index, piece in batch:
            if piece.finish_reason == "error":
                assert piece.completion is not None, "an ending carries the completion"
                error = piece.completion.error or "unknown"
                break
            entries = held.take(index, piece)
            if entries is None:
                continue
            if not opened[index]:
                opened[index] = True
                parts.append(chunks.open(index))
            shown = "null" if logprobs is None else encode(logprobs(index, entries)).decode()
            tail = ""
            if options.continuous_usage_stats:
                tail = f',"usage":{encode(_so_far(generation, held)).decode()}'
            if piece.completion is None:
                parts.append(chunks.chunk(index, piece.text, shown, tail))
            else:
                reason = generation.reason(piece.completion)
                parts.append(chunks.last(index, piece.text, shown, reason, tail))
        if generation.unread_chars > limit:
            error = "the client reads too slowly"
            generation.cancel()
        data = "".join(parts).encode()
        if error is not None:
            if not has_sent and not data:
                raise failed(error)
            yield data + _error(call, failed(error))
            return
        if data:
            has_sent = True
            yield data
    if generation.failure is not None:
        refusal = Refusal(503, generation.failure, code="engine_failed", retry_after=30)
        if not has_sent:
            raise refusal
        yield _error(call, refusal)
        return
    end = b""
    if options.include_usage:
        done = [one for one in generation.found if one is not None]
        end = chunks.usage(usage(done, generation.n), timings(done[0])).encode()
    yield end + DONE


def _error(call: Call, refusal: Refusal) -> bytes:
    return event(refusal.body("openai")) + DONE * call.state.settings.done_after_error


def _so_far(generation: Generation, held: Held) -> dict[str, Any]:
    return counts(sum(len(prompt.ids) for prompt in generation.prompts), sum(held.n_tokens))
