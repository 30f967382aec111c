"""The server that writes suggestions, as the language server asks it over HTTP."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from codellama.errors import EngineFailed, MissingExtra
from codellama.lsp.rank import Candidate

if TYPE_CHECKING:
    from codellama.text.tokenizer import Tokenizer

_MOST_EVENT_CHARS = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Ask:
    """A hole to fill `n` times. `is_over(text)` says when a text has all that will be used."""

    prefix: str
    suffix: str
    n: int
    max_tokens: int
    temperature: float
    stop: tuple[str, ...]
    is_over: Callable[[str], bool]


class Model(Protocol):
    """What suggestions are made with. A caller that is cancelled ends the work on the server."""

    async def fill(self, ask: Ask) -> list[Candidate]: ...

    async def follows(self, texts: Sequence[str], after: str) -> list[float | None]: ...


class HttpModel:
    """A running `codellama serve`, or another server with `/v1/completions` that takes `suffix`.

    The connection of a request is closed when its caller is cancelled or has read enough, and the
    server stops computing then.
    """

    def __init__(self, url: str, *, key: str | None, timeout_s: float) -> None:
        self._client = _httpx().AsyncClient(
            base_url=url, headers=_headers(key), timeout=timeout_s, trust_env=False
        )
        self.url = url

    async def close(self) -> None:
        await self._client.aclose()

    async def context(self) -> int | None:
        """Tokens of context that the server's default model has, where it says so.

        Raises:
            EngineFailed: the server cannot be reached, or refuses.
        """
        found = await self._json("GET", "/v1/models", None)
        data = found.get("data") or [{}]
        length = data[0].get("max_model_len")
        return length if isinstance(length, int) else None

    async def fill(self, ask: Ask) -> list[Candidate]:
        """The candidates, in the order the server numbers them.

        Raises:
            EngineFailed: the server cannot be reached, or refuses.
        """
        body = {
            "prompt": ask.prefix,
            "suffix": ask.suffix,
            "max_tokens": ask.max_tokens,
            "n": ask.n,
            "temperature": ask.temperature,
            "stop": list(ask.stop) or None,
            "logprobs": 0,
            "stream": True,
        }
        texts = [""] * ask.n
        scores: list[list[float]] = [[] for _ in range(ask.n)]
        over = [False] * ask.n
        whole = [False] * ask.n
        events = self._events("/v1/completions", body)
        try:
            async for choice in events:
                i = choice["index"]
                if over[i]:
                    continue
                texts[i] += choice["text"]
                entries = choice.get("logprobs") or {}
                scores[i] += [s for s in entries.get("token_logprobs", ()) if s is not None]
                whole[i] = choice.get("finish_reason") == "stop"
                over[i] = choice.get("finish_reason") is not None or ask.is_over(texts[i])
                if all(over):
                    break
        finally:
            await events.aclose()
        return [
            Candidate(
                text=texts[i],
                logprob=sum(scores[i]) / len(scores[i]) if scores[i] else None,
                is_whole=whole[i],
            )
            for i in range(ask.n)
        ]

    async def follows(self, texts: Sequence[str], after: str) -> list[float | None]:
        """How likely `after` follows each text: its mean log-probability per token.

        None where the server gives no score.

        Raises:
            EngineFailed: the server cannot be reached, or refuses.
        """
        body = {
            "prompt": [text + after for text in texts],
            "max_tokens": 0,
            "echo": True,
            "logprobs": 0,
        }
        found = await self._json("POST", "/v1/completions", body)
        scores: list[float | None] = [None] * len(texts)
        for choice in found["choices"]:
            scores[choice["index"]] = tail_score(choice.get("logprobs") or {}, len(after))
        return scores

    async def _events(self, path: str, body: Any) -> AsyncGenerator[dict[str, Any], None]:
        try:
            async with self._client.stream("POST", path, json=body) as response:
                if response.status_code != 200:
                    raise _refused(response.status_code, await response.aread())
                async for line in response.aiter_lines():
                    if not line.startswith("data: ") or len(line) > _MOST_EVENT_CHARS:
                        continue
                    if line == "data: [DONE]":
                        return
                    found = json.loads(line[6:])
                    if "error" in found:
                        raise EngineFailed(f"the server failed: {found['error'].get('message')}")
                    for choice in found["choices"]:
                        yield choice
        except _httpx().HTTPError as error:
            raise self._unreachable(error) from error

    async def _json(self, method: str, path: str, body: Any) -> dict[str, Any]:
        try:
            response = await self._client.request(method, path, json=body)
        except _httpx().HTTPError as error:
            raise self._unreachable(error) from error
        if response.status_code != 200:
            raise _refused(response.status_code, response.content)
        found: dict[str, Any] = response.json()
        return found

    def _unreachable(self, error: Exception) -> EngineFailed:
        return EngineFailed(
            f"the server at {self.url} cannot be reached: {str(error) or type(error).__name__}",
            hint="start it with `codellama serve`, or leave the url out to have one started",
        )


def tail_score(logprobs: dict[str, Any], n_chars: int) -> float | None:
    """The mean log-probability of the tokens that lie in the last `n_chars` of a scored prompt."""
    total, count, left = 0.0, 0, n_chars
    tokens, scores = logprobs.get("tokens") or (), logprobs.get("token_logprobs") or ()
    for token, score in zip(reversed(tokens), reversed(scores), strict=True):
        left -= len(token)
        if left < 0 or score is None:
            break
        total += score
        count += 1
    return total / count if count else None


def _refused(status: int, content: bytes) -> EngineFailed:
    try:
        message = json.loads(content)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = content[:200].decode("utf-8", "replace")
    return EngineFailed(f"the server refused with status {status}: {message}")


class LocalCounter:
    """Counts with a tokenizer of this process."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def prefix(self, text: str) -> int:
        return len(self._tokenizer.encode(text))

    def suffix(self, text: str) -> int:
        return len(self._tokenizer.encode_bare(text))


class HttpCounter:
    """Counts by asking a server's `/tokenize`; for threads, since it waits for the answer."""

    _MARK = "☺"  # what Meta's reference puts in front of a suffix, to be dropped again

    def __init__(self, url: str, *, key: str | None, timeout_s: float) -> None:
        self._client = _httpx().Client(
            base_url=url, headers=_headers(key), timeout=timeout_s, trust_env=False
        )
        self._n_mark: int | None = None

    def prefix(self, text: str) -> int:
        """Raises EngineFailed when the server does not answer."""
        try:
            response = self._client.post("/tokenize", json={"content": text})
        except _httpx().HTTPError as error:
            raise EngineFailed(f"the server does not count tokens: {error}") from error
        if response.status_code != 200:
            raise _refused(response.status_code, response.content)
        return len(response.json()["tokens"])

    def suffix(self, text: str) -> int:
        if self._n_mark is None:
            self._n_mark = self.prefix(self._MARK)
        return self.prefix(self._MARK + text) - self._n_mark

    def close(self) -> None:
        self._client.close()


def _headers(key: str | None) -> dict[str, str]:
    return {} if key is None else {"Authorization": f"Bearer {key}"}


def _httpx() -> Any:
    try:
        import httpx
    except ImportError as error:
        raise MissingExtra("codellama lsp", "lsp") from error
    return httpx
