"""Whole answers that several APIs share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from codellama.engine.completion import Completion
from codellama.server.generation import Generation
from codellama.server.refusals import Refusal
from codellama.server.served import Served
from codellama.server.shapes import ChatChunks, by_deadline, chat_logprobs, timings, usage
from codellama.server.streaming import failed
from codellama.server.web import Call


def chat_answer(
    call: Call,
    served: Served,
    chunks: ChatChunks,
    generation: Generation,
    found: Sequence[Completion],
    *,
    with_logprobs: bool = False,
) -> dict[str, Any]:
    """A whole answer in the chat shape."""
    tokenizer = served.model.tokenizer
    texts = [by_deadline(generation, one) for one in found]
    return {
        "id": chunks.id,
        "object": "chat.completion",
        "created": chunks.created,
        "model": served.name,
        "system_fingerprint": call.state.version,
        "choices": [
            {
                "index": i,
                "message": {"role": "assistant", "content": texts[i][0]},
                "logprobs": chat_logprobs(tokenizer, one.logprobs or ()) if with_logprobs else None,
                "finish_reason": generation.reason(one),
                **texts[i][1],
            }
            for i, one in enumerate(found)
        ],
        "usage": usage(found, generation.n),
        "timings": timings(found[0]),
    }


async def whole(generation: Generation) -> list[Completion]:
    """Every reply of a generation.

    Raises:
        Refusal: one of them could not be computed.
    """
    found = await generation.completions()
    if found is None:
        message = generation.failure or "the engine stopped"
        raise Refusal(503, message, code="engine_failed", retry_after=30)
    for one in found:
        if one.finish_reason == "error":
            raise failed(one.error or "unknown")
    return found
