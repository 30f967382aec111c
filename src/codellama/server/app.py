"""The application: every route, behind the checks of access."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from codellama.server import playground
from codellama.server.access import Access
from codellama.server.refusals import Refusal, encode, shape_of
from codellama.server.routes import (
    chat,
    llamacpp,
    mistral,
    models,
    ollama,
    openai,
    plain,
    replay,
    solve,
    tabby,
    tgi,
    tokens,
)
from codellama.server.served import Registry
from codellama.server.settings import Settings
from codellama.server.web import Endpoint, State

ENDPOINTS: tuple[Endpoint[Any], ...] = tuple(
    endpoint
    for module in (
        openai,
        chat,
        models,
        replay,
        solve,
        mistral,
        llamacpp,
        ollama,
        tabby,
        tgi,
        tokens,
        plain,
        playground,
    )
    for endpoint in module.ENDPOINTS
)


def make_state(settings: Settings, registry: Registry, version: str) -> State:
    """What requests share. One worker tokenises: more would take cores from the engine."""
    workers = ThreadPoolExecutor(1, thread_name_prefix="tokenise")
    return State(settings=settings, registry=registry, version=version, workers=workers)


def make_app(state: State, keys: Sequence[str]) -> ASGIApp:
    """The ASGI application."""
    routes = [
        Route(endpoint.path, endpoint, methods=list(endpoint.methods)) for endpoint in ENDPOINTS
    ]
    inner = Starlette(routes=routes, exception_handlers={HTTPException: _not_served})
    inner.router.redirect_slashes = False

    async def with_state(scope: Scope, receive: Receive, send: Send) -> None:
        scope["codellama.state"] = state
        await inner(scope, receive, send)

    return Access(with_state, state.settings, keys)


async def _not_served(request: Request, error: Exception) -> Response:
    """No such route, or not with this method."""
    assert isinstance(error, HTTPException), "registered for these alone"
    code = "method_not_allowed" if error.status_code == 405 else "not_found"
    refusal = Refusal(error.status_code, str(error.detail), code=code)
    response = Response(
        encode(refusal.body(shape_of(request.url.path))),
        status_code=error.status_code,
        headers=dict(error.headers or {}),
        media_type="application/json",
    )
    response.headers["x-should-retry"] = "false"
    return response
