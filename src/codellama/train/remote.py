"""A model behind an OpenAI-compatible URL, as a generator."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from codellama.errors import ConfigError, RequestError

_TRIES, _PAUSE_S, _MOST_PAUSE_S = 4, 2.0, 60.0
_MAX_REPLY = 64 << 20  # bytes


class RemoteModel:
    """`model` of the server at `url`, which ends in `/v1` as for OpenAI's own clients.

    Raises:
        ConfigError: the URL is not one of HTTP.
    """

    def __init__(
        self,
        url: str,
        model: str,
        api_key: str | None = None,
        *,
        timeout_s: float = 600,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc:
            raise ConfigError(f"{url!r} is not a URL of http or https")
        self._url, self._model = url.rstrip("/") + "/chat/completions", model
        self._headers = {"Content-Type": "application/json"}
        if api_key is not None:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._timeout_s = timeout_s
        self._sleep = sleep

    def replies(
        self, question: str, *, n: int, temperature: float, max_tokens: int | None, seed: int
    ) -> list[str]:
        """`n` replies; a server that gives fewer at once is asked again.

        Without `max_tokens` a reply ends where the model ends it, or its context.

        Raises:
            RequestError: the server refuses, cannot be reached, or answers in another shape.
        """
        found: list[str] = []
        while len(found) < n:
            body: dict[str, Any] = {
                "model": self._model, "messages": [{"role": "user", "content": question}],
                "n": n - len(found), "temperature": temperature, "seed": seed + len(found),
            }  # fmt: skip
            if max_tokens is not None:
                body["max_tokens"] = max_tokens
            answer = self._post(json.dumps(body).encode())
            try:
                texts = [choice["message"]["content"] or "" for choice in answer["choices"]]
            except (KeyError, TypeError) as error:
                raise RequestError(f"{self._url} answers in another shape: {error!r}") from error
            if not texts:
                raise RequestError(f"{self._url} gave no replies")
            found += texts
        return found[:n]

    def _post(self, body: bytes) -> Any:
        """The JSON of an answer; a busy server and a broken connection are tried again."""
        request = urllib.request.Request(self._url, body, self._headers, method="POST")
        for attempt in range(_TRIES):
            pause_s = _PAUSE_S * 2**attempt
            try:
                with urllib.request.urlopen(request, timeout=self._timeout_s) as reply:
                    return json.loads(reply.read(_MAX_REPLY))
            except urllib.error.HTTPError as error:
                with error:
                    said = _complaint(error.read(_MAX_REPLY))
                if error.code not in (429, 500, 502, 503, 504) or attempt + 1 == _TRIES:
                    raise RequestError(
                        f"{self._url} refuses: HTTP {error.code}: {said}", hint=_hint(error.code)
                    ) from error
                asked = error.headers.get("Retry-After", "")
                pause_s = max(pause_s, float(asked)) if asked.isdigit() else pause_s
            except ValueError as error:  # one that was cut short, too
                if attempt + 1 == _TRIES:
                    raise RequestError(
                        f"{self._url} does not answer in JSON: {error}",
                        hint="the URL should end in /v1, as for OpenAI's own clients",
                    ) from error
            except (OSError, http.client.HTTPException) as error:
                if attempt + 1 == _TRIES:
                    said = str(error) or type(error).__name__
                    raise RequestError(
                        f"{self._url} cannot be reached: {said}", hint=_KEPT
                    ) from error
            self._sleep(min(pause_s, _MOST_PAUSE_S))
        raise AssertionError("the last attempt raises")


_KEPT = "what was made so far is kept; the same command goes on with it"


def _hint(code: int) -> str:
    if code in (401, 403):
        return "put the server's key in the environment as OPENAI_API_KEY"
    if code == 404:
        return "see which models the server has: curl URL/models"
    return _KEPT


def _complaint(raw: bytes) -> str:
    """What a server's error says: the message of OpenAI's form, or the beginning of the text."""
    try:
        error = json.loads(raw)["error"]
        said = error["message"] if isinstance(error, dict) else error
    except (ValueError, LookupError, TypeError):
        said = raw.decode("utf-8", "replace")
    return str(said)[:300]
