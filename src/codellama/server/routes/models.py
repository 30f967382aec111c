"""What models there are, in OpenAI's shape, and what they cannot do."""

from __future__ import annotations

from typing import Any

from codellama.server.refusals import Refusal
from codellama.server.schema import Body, EmbeddingRequest
from codellama.server.served import Served
from codellama.server.web import Call, Endpoint


async def models(call: Call, _: Body) -> None:
    """`GET /v1/models`."""
    data = [model_entry(served) for served in call.state.registry.models]
    await call.json({"object": "list", "data": data})


async def one_model(call: Call, _: Body) -> None:
    """`GET /v1/models/{id}`."""
    name = call.scope["path_params"]["id"]
    served = next((m for m in call.state.registry.models if m.name == name), None)
    if served is None:
        raise Refusal(404, "there is no model of that name", code="model_not_found", param="model")
    await call.json(model_entry(served))


def model_entry(served: Served) -> dict[str, Any]:
    config = served.model.runner.config
    return {
        "id": served.name,
        "object": "model",
        "created": served.created,
        "owned_by": "codellama",
        "root": served.name,
        "max_model_len": served.max_seq_len,
        "meta": {
            "n_ctx_train": config.max_seq_len,
            "n_ctx": served.max_seq_len,
            "n_vocab": config.vocab_size,
            "n_embd": config.dim,
            "n_params": config.n_params,
            "infill": served.has_infill,
        },
    }


async def embeddings(call: Call, body: EmbeddingRequest) -> None:
    """`POST /v1/embeddings` and `/api/embed`: said no to in words."""
    call.state.find(body.model)
    raise Refusal(400, "this model writes text and makes no embeddings", code="unsupported")


ENDPOINTS: list[Endpoint[Any]] = [
    Endpoint("/v1/models", ("GET",), models),
    Endpoint("/v1/models/{id:path}", ("GET",), one_model),
    Endpoint("/v1/embeddings", ("POST",), embeddings, EmbeddingRequest),
    Endpoint("/api/embed", ("POST",), embeddings, EmbeddingRequest),
]
