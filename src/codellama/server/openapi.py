"""The API's description, made from the routes and the bodies they check."""

from __future__ import annotations

from functools import cache
from typing import Any

from pydantic.json_schema import models_json_schema

from codellama.server import playground


@cache
def document(version: str) -> dict[str, Any]:
    """An OpenAPI 3.1 document of every route; the playground's files are none."""
    from codellama.server.app import ENDPOINTS
    from codellama.server.schema import Body, CompletionRequest, TabbyRequest

    kinds: set[type[Body]] = {CompletionRequest, TabbyRequest}
    kinds |= {endpoint.body for endpoint in ENDPOINTS if endpoint.body is not None}
    _, schemas = models_json_schema(
        [(kind, "validation") for kind in sorted(kinds, key=lambda kind: kind.__name__)],
        ref_template="#/components/schemas/{model}",
    )
    known = schemas.get("$defs", {})
    known.pop("_Anything", None)
    known["Error"] = _ERROR
    paths: dict[str, Any] = {}
    for endpoint in ENDPOINTS:
        if endpoint.path in playground.PATHS:
            continue
        path = endpoint.path.replace(":path}", "}")
        for method in endpoint.methods:
            paths.setdefault(path, {})[method.lower()] = _operation(endpoint, method)
    return {
        "openapi": "3.1.0",
        "info": {"title": "codellama", "version": version},
        "paths": paths,
        "components": {
            "schemas": known,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }


_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": ["object", "string"]}},
}


def _operation(endpoint: Any, method: str) -> dict[str, Any]:
    words = (endpoint.answer.__doc__ or "").strip().split(": ", 1)
    summary = words[-1].splitlines()[0] if words else ""
    operation: dict[str, Any] = {
        "summary": summary,
        "operationId": f"{method.lower()}{endpoint.path}",
        "responses": {
            "200": {"description": "the answer", "content": _content(endpoint)},
            "default": {
                "description": "an error",
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
            },
        },
    }
    if "{id" in endpoint.path:
        operation["parameters"] = [
            {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
        ]
    name = None if endpoint.body is None else endpoint.body.__name__
    if name is not None and method == "POST":
        schema: dict[str, Any] = {"$ref": f"#/components/schemas/{name}"}
        if name == "_Anything":
            schema = {
                "anyOf": [
                    {"$ref": "#/components/schemas/CompletionRequest"},
                    {"$ref": "#/components/schemas/TabbyRequest"},
                ]
            }
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schema}},
        }
    return operation


def _content(endpoint: Any) -> dict[str, Any]:
    if endpoint.path in ("/", "/metrics"):
        return {"text/plain": {"schema": {"type": "string"}}}
    if endpoint.path == "/docs":
        return {"text/html": {"schema": {"type": "string"}}}
    kinds: dict[str, Any] = {"application/json": {"schema": {"type": ["object", "array"]}}}
    if endpoint.path.startswith("/api/") and (endpoint.generates or endpoint.path == "/api/pull"):
        kinds["application/x-ndjson"] = {"schema": {}}
    elif endpoint.generates:
        kinds["text/event-stream"] = {"schema": {}}
    return kinds
