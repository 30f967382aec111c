"""Ollama's API: generate with a suffix, chat, and what is said about models."""

from __future__ import annotations

import datetime
from collections.abc import AsyncIterator, Callable
from typing import Any

from codellama.engine.completion import Completion, Piece
from codellama.engine.params import SamplingParams
from codellama.engine.prompts import Prompt
from codellama.server import grammars, prompting
from codellama.server.answers import whole
from codellama.server.generation import Generation
from codellama.server.refusals import Refusal, encode
from codellama.server.schema import (
    Body,
    GenerateRequest,
    Message,
    OllamaChatRequest,
    OllamaOptions,
    OllamaRequest,
    ResponseFormat,
    ShowRequest,
)
from codellama.server.served import Served
from codellama.server.streaming import written
from codellama.server.web import Call, Endpoint

NDJSON = b"application/x-ndjson"
_VERSION = "0.12.0"  # of the Ollama whose routes these are; clients compare it
_Said = Callable[[str], dict[str, Any]]


async def generate(call: Call, body: GenerateRequest) -> None:
    """`POST /api/generate`: a hole with `suffix`, a text as it is with `raw`, else a question."""
    served = call.state.find(body.model)
    if body.images:
        raise Refusal(400, "this model reads no images", code="unsupported")
    if body.template is not None and body.template != "{{ .Prompt }}":
        raise Refusal(400, "a request cannot bring a template of its own", code="unsupported")
    if not body.prompt and body.suffix is None:
        await _loaded(call, served, {"response": ""})
        return
    seed = None if body.options is None else body.options.seed
    told = prompting.telling(call, body.order, seed=seed, wanted=_format(body))
    prompt: Prompt
    if body.suffix is not None:
        prompt = await prompting.infill(call, served, body.prompt, body.suffix, told)
    elif body.raw or body.template is not None or served.model.chat_form is None:
        prompt = await prompting.text_prompt(call, served, body.prompt, told)
    else:
        turns = [Message(role="user", content=body.prompt)]
        if body.system:
            turns.insert(0, Message(role="system", content=body.system))
        prompt = await prompting.chat(call, served, turns)
    await _answer(call, served, body, prompt, lambda text: {"response": text}, has_context=True)


async def chat(call: Call, body: OllamaChatRequest) -> None:
    """`POST /api/chat`."""
    served = call.state.find(body.model)
    if not body.messages:
        await _loaded(call, served, {"message": {"role": "assistant", "content": ""}})
        return
    turns = [Message(role=m.role, content=m.content) for m in body.messages]
    prompt = await prompting.chat(call, served, turns)
    await _answer(
        call, served, body, prompt,
        lambda text: {"message": {"role": "assistant", "content": text}}, has_context=False,
    )  # fmt: skip


def _format(body: OllamaRequest) -> ResponseFormat | None:
    """Ollama's `format`: "json", or a schema."""
    if not body.format:
        return None
    if isinstance(body.format, dict):
        return ResponseFormat(type="json_schema", json_schema=body.format)
    if body.format != "json":
        raise Refusal(400, "`format` is neither json nor a schema", code="invalid_format")
    return ResponseFormat(type="json_object")


async def _loaded(call: Call, served: Served, said: dict[str, Any]) -> None:
    """Nothing was asked: the model is there, which is what such a request wants to know."""
    head = {"model": served.name, "created_at": _now()}
    await call.json(head | said | {"done": True, "done_reason": "load"})


async def _answer(
    call: Call, served: Served, body: OllamaRequest, prompt: Prompt, said: _Said, *,
    has_context: bool,
) -> None:  # fmt: skip
    options = body.options or OllamaOptions()
    if options.num_ctx is not None and options.num_ctx > served.max_seq_len:
        text = f"num_ctx {options.num_ctx} is more than the {served.max_seq_len} this model keeps"
        call.headers.append((b"x-codellama-note", text.encode()))
    params = _params(call, options)
    constraint = await grammars.constraint(call, served, _format(body), [prompt])
    generation = served.service.submit(
        [prompt], params, 1, scope=call.key_scope, constraint=constraint
    )
    async with call.watching(generation):
        if body.stream:
            await call.stream(NDJSON, _lines(call, served, generation, said, has_context))
            return
        found = await whole(generation)
    await call.json(_last(served, generation, found[0], said(found[0].text), has_context))


def _params(call: Call, options: OllamaOptions) -> SamplingParams:
    top_p = options.top_p
    return prompting.drawn(
        call.state.settings,
        temperature=options.temperature,
        top_p=1.0 if top_p is not None and top_p < 0 else top_p,
        top_k=options.top_k,
        min_p=options.min_p,
        repetition_penalty=options.repeat_penalty,
        presence_penalty=options.presence_penalty,
        frequency_penalty=options.frequency_penalty,
        seed=options.seed,
        stop=options.stop,
        max_tokens=options.num_predict,
    )


def _lines(
    call: Call, served: Served, generation: Generation, said: _Said, has_context: bool
) -> AsyncIterator[bytes]:
    def write(_: int, piece: Piece) -> bytes:
        data = b""
        if piece.text:
            data = _line(_head(served) | said(piece.text) | {"done": False})
        if piece.completion is not None:
            data += _line(_last(served, generation, piece.completion, said(""), has_context))
        return data

    limit = call.state.settings.limits.unread_bytes
    return written(generation, write, lambda refusal: _line(refusal.body("ollama")), limit)


def _head(served: Served) -> dict[str, Any]:
    return {"model": served.name, "created_at": _now()}


def _last(
    served: Served,
    generation: Generation,
    one: Completion,
    said: dict[str, Any],
    has_context: bool,
) -> dict[str, Any]:
    t = one.timings
    total = t.queue_s + t.prefill_s + t.decode_s
    found = _head(served) | said | {"done": True, "done_reason": generation.reason(one)}
    if has_context:
        found["context"] = [*generation.prompts[0].ids, *one.token_ids]
    return found | {
        "total_duration": int(1e9 * total),
        "load_duration": 0,
        "prompt_eval_count": one.prompt_tokens,
        "prompt_eval_duration": int(1e9 * t.prefill_s),
        "eval_count": len(one.token_ids),
        "eval_duration": int(1e9 * t.decode_s),
    }


def _line(value: Any) -> bytes:
    return encode(value) + b"\n"


def _now() -> str:
    now = datetime.datetime.now(datetime.UTC)
    return now.isoformat(timespec="microseconds").replace("+00:00", "Z")


async def version(call: Call, _: Body) -> None:
    """`GET /api/version`."""
    await call.json({"version": _VERSION})


def _details(served: Served) -> dict[str, Any]:
    n = served.model.runner.config.n_params
    size = f"{n / 1e9:.1f}B" if n >= 1e9 else f"{n / 1e6:.1f}M"
    return {
        "parent_model": "",
        "format": "codellama",
        "family": "llama",
        "families": ["llama"],
        "parameter_size": size,
        "quantization_level": "",
    }


def _entry(served: Served) -> dict[str, Any]:
    created = datetime.datetime.fromtimestamp(served.created, datetime.UTC)
    return {
        "name": served.name,
        "model": served.name,
        "modified_at": created.isoformat().replace("+00:00", "Z"),
        "size": 4 * served.model.runner.config.n_params,
        "digest": served.digest,
        "details": _details(served),
    }


async def tags(call: Call, _: Body) -> None:
    """`GET /api/tags`."""
    await call.json({"models": [_entry(served) for served in call.state.registry.models]})


async def ps(call: Call, _: Body) -> None:
    """`GET /api/ps`: every model stays loaded."""
    models = [
        _entry(served)
        | {
            "expires_at": "2318-01-01T00:00:00Z",
            "size_vram": 0,
            "context_length": served.max_seq_len,
        }
        for served in call.state.registry.models
    ]
    await call.json({"models": models})


async def show(call: Call, body: ShowRequest) -> None:
    """`POST /api/show`: clients read from the template whether a model can infill."""
    served = call.state.find(body.model or body.name)
    config = served.model.runner.config
    template = "{{ .Prompt }}"
    if served.has_infill:
        template = "{{- if .Suffix }}<PRE> {{ .Prompt }} <SUF>{{ .Suffix }} <MID>" + (
            "{{- else }}{{ .Prompt }}{{- end }}"
        )
    await call.json(
        {
            "modelfile": "",
            "parameters": f'num_ctx {served.max_seq_len}\nstop "<EOT>"',
            "template": template,
            "details": _details(served),
            "model_info": {
                "general.architecture": "llama",
                "general.parameter_count": config.n_params,
                "llama.context_length": served.max_seq_len,
                "llama.embedding_length": config.dim,
                "llama.block_count": config.n_layers,
            },
            "capabilities": ["completion", *(["insert"] if served.has_infill else [])],
        }
    )


async def pull(call: Call, body: ShowRequest) -> None:
    """`POST /api/pull`: nothing is fetched; a model that is here counts as pulled."""
    name = body.model or body.name
    if all(name not in (s.name, f"{s.name}:latest") for s in call.state.registry.models):
        raise Refusal(404, "this server fetches no models", code="unsupported")
    await call.data(_line({"status": "success"}), NDJSON)


ENDPOINTS: list[Endpoint[Any]] = [
    Endpoint("/api/generate", ("POST",), generate, GenerateRequest, generates=True),
    Endpoint("/api/chat", ("POST",), chat, OllamaChatRequest, generates=True),
    Endpoint("/api/version", ("GET",), version),
    Endpoint("/api/tags", ("GET",), tags),
    Endpoint("/api/ps", ("GET",), ps),
    Endpoint("/api/show", ("POST",), show, ShowRequest),
    Endpoint("/api/pull", ("POST",), pull, ShowRequest),
]
