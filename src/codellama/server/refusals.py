"""What a server says no with: one exception, and the shape in which each API expects it."""

from __future__ import annotations

import json
from typing import Any, Literal

from codellama.errors import CodeLlamaError, ContextTooLong, PromptError, SandboxError

Shape = Literal["openai", "ollama", "tgi"]

_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error",
          429: "rate_limit_error"}  # fmt: skip


class Refusal(Exception):
    """A request that gets an error for an answer.

    Args:
        status: of HTTP.
        message: for people; never holds a prompt or a key.
        code: for programs, stable.
        param: the field at fault.
        retry_after: seconds after which the same request may succeed; None if it never will.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.retry_after = retry_after

    @classmethod
    def of(cls, error: CodeLlamaError) -> Refusal:
        """The refusal that tells a client about one of the package's own errors."""
        code = "invalid_request"
        if isinstance(error, SandboxError):
            return cls(503, f"{error}", code="no_sandbox")
        if isinstance(error, ContextTooLong):
            code = "context_length_exceeded"
        elif isinstance(error, PromptError):
            code = "invalid_prompt"
        hint = f" ({error.hint})" if error.hint else ""
        return cls(400, f"{error}{hint}", code=code)

    @property
    def kind(self) -> str:
        """The class of error, in OpenAI's words."""
        usual = "server_error" if self.status >= 500 else "invalid_request_error"
        return _TYPES.get(self.status, usual)

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Headers that tell a client whether to come again."""
        if self.retry_after is not None:
            return [(b"retry-after", str(self.retry_after).encode())]
        return [(b"x-should-retry", b"false")]

    def body(self, shape: Shape) -> dict[str, Any]:
        """The JSON object that clients of this API read."""
        if shape == "ollama":
            return {"error": self.message}
        if shape == "tgi":
            kind = "overloaded" if self.status in (429, 503) else "validation"
            return {"error": self.message, "error_type": kind}
        return {
            "error": {
                "message": self.message,
                "type": self.kind,
                "param": self.param,
                "code": self.code,
            }
        }


def shape_of(path: str) -> Shape:
    """The shape in which clients of this path expect errors."""
    if path.startswith("/api/"):
        return "ollama"
    return "tgi" if path in ("/generate", "/generate_stream", "/info") else "openai"


def encode(value: Any) -> bytes:
    """Compact JSON on one line."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
