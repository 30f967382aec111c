"""Health, metrics and the description of the API."""

from __future__ import annotations

from html import escape
from typing import Any

from codellama.server import playground
from codellama.server.refusals import Refusal
from codellama.server.schema import Body
from codellama.server.web import Call, Endpoint

_LONG = 1 << 20  # characters: work that other requests should not wait for


async def root(call: Call, _: Body) -> None:
    """`GET /`: the playground for a browser, for others what Ollama's clients look for."""
    accept = dict(call.scope["headers"]).get(b"accept", b"")
    if b"text/html" in accept:
        await playground.page(call)
    else:
        call.headers.append((b"vary", b"accept"))
        await call.data(b"Ollama is running", b"text/plain; charset=utf-8")


async def health(call: Call, _: Body) -> None:
    """`GET /health`: whether engines step, not only whether HTTP answers."""
    state = call.state
    models = state.registry.models
    if not models:
        raise Refusal(503, "the model is loading", code="loading", retry_after=2)
    for served in models:
        if served.service.failure is not None:
            raise Refusal(503, "the engine has stopped", code="engine_failed", retry_after=30)
        if served.service.stalled_s > state.settings.stall_s:
            raise Refusal(503, "the engine is in one step too long", code="stalled", retry_after=5)
    answer: dict[str, Any] = {"status": "ok"}
    if state.settings.insecure_no_auth:
        answer["insecure_no_auth"] = True
    await call.json(answer)


async def ready(call: Call, body: Body) -> None:
    """`GET /ready`: whether new requests are welcome."""
    if call.state.is_draining:
        raise Refusal(503, "the server is shutting down", code="shutting_down", retry_after=5)
    await health(call, body)


async def metrics(call: Call, _: Body) -> None:
    """`GET /metrics`: Prometheus' text, with vLLM's names where the meanings agree."""
    lines: list[str] = []

    def add(name: str, kind: str, help_text: str, values: list[tuple[str, float]]) -> None:
        lines.append(f"# HELP {name} {help_text}")
        lines.append(f"# TYPE {name} {kind}")
        lines.extend(f"{name}{labels} {value:g}" for labels, value in values)

    models = [(f'{{model_name="{m.name}"}}', m.service) for m in call.state.registry.models]
    add("vllm:num_requests_running", "gauge", "Sequences being computed.",
        [(label, s.n_running) for label, s in models])  # fmt: skip
    add("vllm:num_requests_waiting", "gauge", "Sequences waiting for a place.",
        [(label, s.n_waiting) for label, s in models])  # fmt: skip
    add("vllm:kv_cache_usage_perc", "gauge", "Share of the cache's blocks in use.",
        [(label, s.cache_usage) for label, s in models])  # fmt: skip
    add("vllm:prompt_tokens_total", "counter", "Prompt tokens of replies that ended.",
        [(label, s.counters.prompt_tokens) for label, s in models])  # fmt: skip
    add("vllm:generation_tokens_total", "counter", "Tokens generated.",
        [(label, s.counters.generation_tokens) for label, s in models])  # fmt: skip
    add("vllm:prefix_cache_hits_total", "counter", "Prompt tokens found in the cache.",
        [(label, s.counters.cached_tokens) for label, s in models])  # fmt: skip
    add("vllm:request_success_total", "counter", "Replies that ended, by reason.", [
        (f'{label[:-1]},finished_reason="{reason}"}}', n)
        for label, s in models for reason, n in sorted(s.counters.finished.items())
    ])  # fmt: skip
    add("codellama:engine_steps_total", "counter", "Steps of the engine.",
        [(label, s.counters.steps) for label, s in models])  # fmt: skip
    add("codellama:aborts_total", "counter", "Sequences ended before their end.",
        [(label, s.counters.aborts) for label, s in models])  # fmt: skip
    add("codellama:http_responses_total", "counter", "Answers by route and status.", [
        (f'{{route="{route}",status="{status}"}}', n)
        for (route, status), n in sorted(call.state.answers.items())
    ])  # fmt: skip
    text = "\n".join(lines) + "\n"
    await call.data(text.encode(), b"text/plain; version=0.0.4; charset=utf-8")


async def openapi(call: Call, _: Body) -> None:
    """`GET /openapi.json`."""
    from codellama.server.openapi import document

    version = call.state.version
    await call.json(await call.state.off_loop(_LONG, lambda: document(version)))


async def docs(call: Call, _: Body) -> None:
    """`GET /docs`: the routes for a person, without anything from elsewhere."""
    from codellama.server.openapi import document

    version = call.state.version
    found = await call.state.off_loop(_LONG, lambda: document(version))
    rows = "".join(
        f"<tr><td><code>{method.upper()} {escape(path)}</code><td>{escape(op['summary'])}"
        for path, methods in found["paths"].items()
        for method, op in methods.items()
    )
    page = (
        "<!doctype html><meta charset=utf-8><title>codellama</title>"
        "<style>body{font:16px/1.5 sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
        "td{padding:.2rem 1rem .2rem 0;vertical-align:top}</style>"
        "<h1>codellama</h1><p>The routes of this server; <a href=openapi.json>openapi.json</a> "
        f"says what they take.<table>{rows}</table>"
    )
    await call.data(page.encode(), b"text/html; charset=utf-8")


ENDPOINTS: list[Endpoint[Any]] = [
    Endpoint("/", ("GET", "HEAD"), root),
    Endpoint("/health", ("GET",), health),
    Endpoint("/ready", ("GET",), ready),
    Endpoint("/metrics", ("GET",), metrics),
    Endpoint("/openapi.json", ("GET",), openapi),
    Endpoint("/docs", ("GET",), docs),
]
