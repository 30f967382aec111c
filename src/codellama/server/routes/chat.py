"""OpenAI's chat."""

from __future__ import annotations

import dataclasses
from typing import Any

from codellama.engine.completion import Completion
from codellama.server import grammars, prompting
from codellama.server.answers import chat_answer, whole
from codellama.server.checks import check_bundle, no_stream_of_nothing, too_many
from codellama.server.refusals import Refusal
from codellama.server.routes import replay
from codellama.server.schema import ChatRequest
from codellama.server.shapes import ChatChunks, chat_logprobs
from codellama.server.streaming import SSE, events
from codellama.server.web import Call, Endpoint


async def chat(call: Call, body: ChatRequest) -> None:
    """`POST /v1/chat/completions`."""
    if body.tools and body.tool_choice not in (None, "auto", "none"):
        raise Refusal(
            400, "this model cannot call tools; it answers in text", code="unsupported",
            param="tool_choice",
        )  # fmt: skip
    served = call.state.find(body.model)
    check_bundle(body, is_selected=False)
    if body.n > call.state.settings.limits.choices:
        raise too_many("n", body.n, call.state.settings.limits.choices)
    prompt = prompting.with_stop_ids(
        await prompting.chat(call, served, body.messages), body.stop_token_ids
    )
    max_tokens = body.max_completion_tokens
    if max_tokens is None:
        max_tokens = body.max_tokens if body.max_tokens is not None else body.n_predict
    prompting.check_fits(served, [prompt], max_tokens)
    if body.stream and max_tokens == 0:
        raise no_stream_of_nothing()
    k = (body.top_logprobs or 0) if body.logprobs else None
    params = prompting.params(call.state.settings, body, max_tokens=max_tokens, logprobs=k)
    tokenizer = served.model.tokenizer
    chunks = ChatChunks(served.name, call.state.version)
    constraint = await grammars.constraint(call, served, body.response_format, [prompt])
    generation = served.service.submit(
        [prompt], params, body.n, scope=call.key_scope, constraint=constraint
    )
    generation.be_done_in(body.deadline_ms)
    async with call.watching(generation):
        if body.stream:
            await call.stream(
                SSE,
                events(
                    call, generation, chunks, options=body.stream_options,
                    logprobs=None if k is None else lambda _, e: chat_logprobs(tokenizer, e),
                ),
            )  # fmt: skip
            return
        found = await whole(generation)
    if max_tokens == 0:
        found = [_nothing(one) for one in found]
    answer = chat_answer(call, served, chunks, generation, found, with_logprobs=k is not None)
    if body.bundle:
        made = await replay.bundles(call, served, generation, found)
        for choice, bundle in zip(answer["choices"], made, strict=True):
            choice["bundle"] = bundle
    await call.json(answer)


def _nothing(one: Completion) -> Completion:
    """A reply that was only asked for to have its prompt read."""
    return dataclasses.replace(one, text="", token_ids=(), finish_reason="length", logprobs=None)


ENDPOINTS: list[Endpoint[Any]] = [
    Endpoint("/v1/chat/completions", ("POST",), chat, ChatRequest, generates=True),
    Endpoint("/v1beta/chat/completions", ("POST",), chat, ChatRequest, generates=True),
]
