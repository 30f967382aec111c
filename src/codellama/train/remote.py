"""A model behind an OpenAI-compatible URL, as a generator."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from codellama.errors import ConfigError, RequestError

_TRIES, _PAUSE_S = 4, 2.0
_MAX_REPLY = 64 << 20  # bytes


class RemoteModel:
    """`model` of the server at `url`, which ends in `/v1` as for OpenAI's own clients.

    Raises:
        ConfigError: the URL is not one of HTTP.
    """

    def __init__(self, url: str, model: str, api_key: str | None = None, timeout_s: float = 600):
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc:
            raise ConfigError(f"{url!r} is not a URL of http or https")
        self._url, self._model = url.rstrip("/") + "/chat/completions", model
        self._headers = {"Content-Type": "application/json"}
        if api_key is not None:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._timeout_s = timeout_s

    def replies(
        self, question: str, *, n: int, temperature: float, max_tokens: int, seed: int
    ) -> list[str]:
        """`n` replies; a server that gives fewer at once is asked again.

        Raises:
            RequestError: the server refuses, cannot be reached, or answers in another shape.
        """
        found: list[str] = []
        while len(found) < n:
            body = {
                "model": self._model, "messages": [{"role": "user", "content": question}],
                "n": n - len(found), "temperature": temperature, "max_tokens": max_tokens,
                "seed": seed + len(found),
            }  # fmt: skip
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
        request = urllib.request.Request(self._url, body, self._headers, method="POST")
        for attempt in range(_TRIES):
            try:
                with urllib.request.urlopen(request, timeout=self._timeout_s) as reply:
                    return json.loads(reply.read(_MAX_REPLY))
            except urllib.error.HTTPError as error:
                said = error.read(300).decode("utf-8", "replace")
                if error.code not in (429, 500, 502, 503, 504) or attempt + 1 == _TRIES:
                    raise RequestError(f"{self._url}: {error.code} {said}") from error
            except (OSError, ValueError) as error:
                if attempt + 1 == _TRIES:
                    raise RequestError(
                        f"{self._url} cannot be reached: {error}",
                        hint="what was made so far is kept; the same command goes on with it",
                    ) from error
            time.sleep(_PAUSE_S * 2**attempt)
        raise AssertionError("the last attempt raises")
