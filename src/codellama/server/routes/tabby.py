"""What Tabby's editor plugins ask a Tabby server for."""

from __future__ import annotations

import os
import platform
from typing import Any

from codellama.server import prompting
from codellama.server.answers import whole
from codellama.server.refusals import Refusal
from codellama.server.schema import Body, EventRequest, TabbyRequest
from codellama.server.shapes import new_id
from codellama.server.web import Call, Endpoint

_MAX_TOKENS = 64  # an inline suggestion
_VERSION = "v0.30.0"  # of the Tabby server whose routes these are; plugins compare it


async def complete(call: Call, body: TabbyRequest) -> None:
    """`POST /v1/completions` with `segments`: one suggestion at the cursor."""
    if body.segments is None:
        raise Refusal(400, "`segments` is missing", code="invalid_value", param="segments")
    served = call.state.find("")
    told = prompting.telling(call, body.order, seed=body.seed)
    prompt, _ = await prompting.trimmed_infill(
        call, served, body.segments.prefix, body.segments.suffix or "", _MAX_TOKENS, told
    )
    params = prompting.drawn(
        call.state.settings, max_tokens=_MAX_TOKENS, temperature=body.temperature, seed=body.seed
    )
    generation = served.service.submit([prompt], params, 1, scope=call.key_scope)
    async with call.watching(generation):
        found = await whole(generation)
    choices = [{"index": 0, "text": found[0].text}]
    await call.json({"id": new_id("cmpl-"), "choices": choices, "mode": "standard"})


async def health(call: Call, _: Body) -> None:
    """`GET` and `POST /v1/health`: what runs here. Public, so it names no paths."""
    models = call.state.registry.models
    name = models[0].name if models else ""
    has_chat = bool(models) and models[0].model.chat_form is not None
    await call.json(
        {
            "model": name,
            **({"chat_model": name} if has_chat else {}),
            "device": "cpu",
            "arch": platform.machine(),
            "cpu_info": "",
            "cpu_count": os.cpu_count() or 1,
            "cuda_devices": [],
            "models": {},
            "version": {
                "build_date": "",
                "build_timestamp": "",
                "git_sha": "",
                "git_describe": _VERSION,
            },
        }
    )


async def settings(call: Call, _: Body) -> None:
    """`GET /v1beta/server_setting`: nothing is reported anywhere."""
    await call.json({"disable_client_side_telemetry": True})


async def events(call: Call, _: EventRequest) -> None:
    """`POST /v1/events`: taken and not kept."""
    await call.json({})


async def models(call: Call, _: Body) -> None:
    """`GET /v1beta/models`."""
    names = [served.name for served in call.state.registry.models]
    chat = [s.name for s in call.state.registry.models if s.model.chat_form is not None]
    await call.json({"completion": names, "chat": chat, "embedding": []})


ENDPOINTS: list[Endpoint[Any]] = [
    Endpoint("/v1/health", ("GET", "POST"), health),
    Endpoint("/v1beta/server_setting", ("GET",), settings),
    Endpoint("/v1/events", ("POST",), events, EventRequest),
    Endpoint("/v1beta/models", ("GET",), models),
]
