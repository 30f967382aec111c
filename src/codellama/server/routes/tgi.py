"""Text Generation Inference's API, as Continue and llm-ls use it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from codellama.engine.completion import Completion, Piece
from codellama.server import prompting
from codellama.server.answers import whole
from codellama.server.generation import Generation
from codellama.server.schema import Body, TgiParameters, TgiRequest
from codellama.server.served import Served
from codellama.server.shapes import event, token_text
from codellama.server.streaming import SSE, written
from codellama.server.web import Call, Endpoint

_REASONS = {"stop": "eos_token", "length": "length"}


async def generate(call: Call, body: TgiRequest) -> None:
    """`POST /generate`."""
    served, generation, asked = await _start(call, body)
    async with call.watching(generation):
        found = (await whole(generation))[0]
    await call.json(_answer(served, body, asked, found))


async def generate_stream(call: Call, body: TgiRequest) -> None:
    """`POST /generate_stream`."""
    served, generation, asked = await _start(call, body)
    async with call.watching(generation):
        await call.stream(SSE, _events(call, served, generation, body, asked))


async def _start(call: Call, body: TgiRequest) -> tuple[Served, Generation, TgiParameters]:
    served = call.state.find("")
    asked = body.parameters or TgiParameters()
    told = prompting.telling(call, body.order, seed=asked.seed)
    prompt = await prompting.text_prompt(call, served, body.inputs, told)
    params = prompting.drawn(
        call.state.settings,
        max_tokens=100 if asked.max_new_tokens is None else asked.max_new_tokens,
        temperature=asked.temperature,
        top_p=asked.top_p,
        top_k=asked.top_k,
        stop=asked.stop,
        seed=asked.seed,
        repetition_penalty=asked.repetition_penalty,
        frequency_penalty=asked.frequency_penalty,
        logprobs=0,
    )
    return served, served.service.submit([prompt], params, 1, scope=call.key_scope), asked


def _answer(
    served: Served, body: TgiRequest, asked: TgiParameters, one: Completion
) -> dict[str, Any]:
    text = (body.inputs if asked.return_full_text else "") + one.text
    found: dict[str, Any] = {"generated_text": text}
    if asked.details:
        found["details"] = _details(one) | {
            "prefill": [],
            "tokens": [
                _token(served, entry.token_id, entry.logprob) for entry in one.logprobs or ()
            ],
        }
    return found


def _details(one: Completion) -> dict[str, Any]:
    reason = "stop_sequence" if one.stop_string is not None else one.finish_reason
    return {
        "finish_reason": _REASONS.get(reason, reason),
        "generated_tokens": len(one.token_ids),
        "seed": one.seed,
    }


def _token(served: Served, token_id: int, logprob: float) -> dict[str, Any]:
    text = token_text(served.model.tokenizer, token_id)
    return {"id": token_id, "text": text, "logprob": logprob, "special": False}


def _events(
    call: Call, served: Served, generation: Generation, body: TgiRequest, asked: TgiParameters
) -> AsyncIterator[bytes]:
    held: list[tuple[int, float]] = []

    def write(_: int, piece: Piece) -> bytes:
        held.extend((entry.token_id, entry.logprob) for entry in piece.logprobs or ())
        one = piece.completion
        if not piece.text and one is None:
            return b""
        token_id, logprob = held[-1] if held else (served.model.tokenizer.eos_id, 0.0)
        held.clear()
        token = {
            "id": token_id, "text": piece.text, "logprob": logprob, "special": not piece.text,
        }  # fmt: skip
        if one is None:
            return event({"token": token, "generated_text": None, "details": None})
        text = _answer(served, body, asked, one)["generated_text"]
        return event({"token": token, "generated_text": text, "details": _details(one)})

    limit = call.state.settings.limits.unread_bytes
    return written(generation, write, lambda refusal: event(refusal.body("tgi")), limit)


async def info(call: Call, _: Body) -> None:
    """`GET /info`."""
    served = call.state.find("")
    await call.json(
        {
            "model_id": served.name,
            "max_input_length": served.max_seq_len - 1,
            "max_input_tokens": served.max_seq_len - 1,
            "max_total_tokens": served.max_seq_len,
            "version": call.state.version,
        }
    )


ENDPOINTS: list[Endpoint[Any]] = [
    Endpoint("/generate", ("POST",), generate, TgiRequest, generates=True),
    Endpoint("/generate_stream", ("POST",), generate_stream, TgiRequest, generates=True),
    Endpoint("/info", ("GET",), info),
]
