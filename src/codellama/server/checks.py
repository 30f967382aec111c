"""Checks that OpenAI's completions and chat have in common."""

from __future__ import annotations

from codellama.server.refusals import Refusal
from codellama.server.schema import Drawing


def check_bundle(body: Drawing, *, is_selected: bool) -> None:
    """A bundle describes a whole reply that nothing else had a hand in."""
    others = body.stream or body.deadline_ms is not None or is_selected
    is_free = body.response_format is None or body.response_format.type == "text"
    if body.bundle and (others or not is_free):
        raise Refusal(
            400, "`bundle` goes without stream, deadline_ms, best_of and response_format",
            code="invalid_value", param="bundle",
        )  # fmt: skip


def no_stream_of_nothing() -> Refusal:
    return Refusal(
        400, "`max_tokens` 0 asks for no reply, which cannot be streamed", code="invalid_value",
        param="max_tokens",
    )  # fmt: skip


def too_many(name: str, value: int, limit: int) -> Refusal:
    return Refusal(
        400, f"Field '{name}': Value must be between 1 <= value <= {limit}, but got {value}",
        code="invalid_value", param=name,
    )  # fmt: skip
