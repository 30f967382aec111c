"""Mistral's fill-in-the-middle: an infilling request with an answer in the chat shape."""

from __future__ import annotations

from typing import Any

from codellama.server import grammars, prompting
from codellama.server.answers import chat_answer, whole
from codellama.server.refusals import Refusal
from codellama.server.schema import FimRequest
from codellama.server.shapes import ChatChunks
from codellama.server.streaming import SSE, events
from codellama.server.web import Call, Endpoint


async def fim(call: Call, body: FimRequest) -> None:
    """`POST /v1/fim/completions`. Without a suffix the hole is at the end."""
    served = call.state.find(body.model)
    if body.bundle:
        raise Refusal(400, "`bundle` goes with /v1/completions and chat", code="unsupported")
    seed = body.seed if body.random_seed is None else body.random_seed
    told = prompting.telling(call, body.order, seed=seed, wanted=body.response_format)
    prompt = await prompting.infill(call, served, body.prompt, body.suffix or "", told)
    prompting.check_fits(served, [prompt], body.max_tokens)
    params = prompting.params(
        call.state.settings, body, max_tokens=body.max_tokens, seed=body.random_seed
    )
    chunks = ChatChunks(served.name, call.state.version)
    constraint = await grammars.constraint(call, served, body.response_format, [prompt])
    generation = served.service.submit(
        [prompt], params, 1, scope=call.key_scope, constraint=constraint
    )
    generation.be_done_in(body.deadline_ms)
    async with call.watching(generation):
        if body.stream:
            stream = events(call, generation, chunks, options=body.stream_options)
            await call.stream(SSE, stream)
            return
        found = await whole(generation)
    await call.json(chat_answer(call, served, chunks, generation, found))


ENDPOINTS: list[Endpoint[Any]] = [
    Endpoint("/v1/fim/completions", ("POST",), fim, FimRequest, generates=True),
    Endpoint("/fim/completions", ("POST",), fim, FimRequest, generates=True),
]
