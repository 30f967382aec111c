"""Text to ids and back, for llama.cpp's and vLLM's clients."""

from __future__ import annotations

from typing import Any

from codellama.server import prompting
from codellama.server.refusals import Refusal
from codellama.server.schema import Body, DetokenizeRequest, PromptRequest, TokenizeRequest
from codellama.server.served import Served
from codellama.server.shapes import token_text
from codellama.server.web import Call, Endpoint


async def tokenize(call: Call, body: TokenizeRequest) -> None:
    """`POST /tokenize`: llama.cpp's with `content`, vLLM's with `prompt` or `messages`."""
    served = call.state.find(body.model)
    if body.content is not None:
        ids = await _encoded(call, served, body.content, body.add_special)
        if body.with_pieces:
            await call.json({"tokens": [{"id": i, "piece": _piece(served, i)} for i in ids]})
        else:
            await call.json({"tokens": ids})
        return
    if body.messages is not None:
        ids = list((await prompting.chat(call, served, body.messages)).ids)
    elif body.prompt is not None:
        ids = await _encoded(call, served, body.prompt, body.add_special_tokens)
    else:
        raise Refusal(400, "`content`, `prompt` or `messages` is missing", code="invalid_value")
    answer = {"count": len(ids), "max_model_len": served.max_seq_len, "tokens": ids}
    await call.json(answer | {"token_strs": None})


async def _encoded(call: Call, served: Served, text: str, bos: bool) -> list[int]:
    prompting.check_length(served, len(text))
    tokenizer = served.model.tokenizer
    return await call.state.off_loop(len(text), lambda: tokenizer.encode(text, bos=bos))


def _piece(served: Served, token_id: int) -> str | list[int]:
    raw = served.model.tokenizer.token_bytes(token_id)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return list(raw)


async def prompt_ids(call: Call, body: PromptRequest) -> None:
    """`POST /v1/prompt_ids`: the ids that the model would read, each with its text."""
    served = call.state.find(body.model)
    if body.messages is not None:
        prompt = await prompting.chat(call, served, body.messages)
    elif body.prompt is None:
        raise Refusal(400, "`prompt` or `messages` is missing", code="invalid_value")
    elif isinstance(body.prompt, list):
        prompt = prompting.ids_prompt(served, body.prompt)
        served.service.engine.check(prompt, prompting.drawn(call.state.settings))
    elif body.suffix is not None:
        told = prompting.Telling(order=body.order)
        prompt = await prompting.infill(call, served, body.prompt, body.suffix, told)
    else:
        told = prompting.Telling(order=body.order)
        prompt = await prompting.text_prompt(call, served, body.prompt, told)
    tokenizer = served.model.tokenizer

    controls = tokenizer.control_ids

    def named() -> list[dict[str, Any]]:
        return [
            {
                "id": token_id,
                "text": tokenizer.piece(token_id).lstrip("▁")
                if token_id in controls
                else token_text(tokenizer, token_id),
                "is_control": token_id in controls,
            }
            for token_id in prompt.ids
        ]

    answer = {
        "count": len(prompt.ids),
        "max_model_len": served.max_seq_len,
        "stop_token_ids": sorted(prompt.stop_ids),
        "begun": prompt.begun,
        "tokens": await call.state.off_loop(8 * len(prompt.ids), named),
    }
    await call.json(answer)


async def detokenize(call: Call, body: DetokenizeRequest) -> None:
    """`POST /detokenize`: llama.cpp's key and vLLM's, with the same text."""
    served = call.state.find(body.model)
    tokenizer, tokens = served.model.tokenizer, body.tokens
    text = await call.state.off_loop(len(tokens), lambda: tokenizer.decode(tokens))
    await call.json({"content": text, "prompt": text})


async def tokenizer_info(call: Call, _: Body) -> None:
    """`GET /tokenizer_info`: the marks that evaluators ask for."""
    tokenizer = call.state.find("").model.tokenizer
    eos, bos = tokenizer.piece(tokenizer.eos_id), tokenizer.piece(tokenizer.bos_id)
    await call.json(
        {
            "tokenizer_class": "LlamaTokenizer",
            "bos_token": bos,
            "eos_token": eos,
            "pad_token": None,
            "unk_token": tokenizer.piece(tokenizer.unk_id),
            "chat_template": None,
        }
    )


ENDPOINTS: list[Endpoint[Any]] = [
    Endpoint("/tokenize", ("POST",), tokenize, TokenizeRequest),
    Endpoint("/v1/prompt_ids", ("POST",), prompt_ids, PromptRequest),
    Endpoint("/detokenize", ("POST",), detokenize, DetokenizeRequest),
    Endpoint("/tokenizer_info", ("GET",), tokenizer_info),
]
