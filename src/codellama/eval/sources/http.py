"""Any address that speaks OpenAI's API, with the standard library alone."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import Any
from urllib.parse import urlsplit

from codellama.errors import CodeLlamaError, ConfigError, EngineFailed
from codellama.eval.sources import Request
from codellama.eval.suite import Ask, Reply
from codellama.text.stops import StopFilter

_TRIES = 5
_TIMEOUT_S = 600
_MOST_STOPS = 4  # that the API promises; the rest is cut here
_CHARS_PER_TOKEN = 3


class HttpSource:
    """A server's model. `model` is its name there; None takes the first that is listed.

    Raises:
        ConfigError: the address is none.
        EngineFailed: the server cannot be reached, or lists no model.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str | None = None,
        key: str | None = None,
        n_at_once: int = 8,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(
                f"--url {url!r} is no address", hint="give one such as http://127.0.0.1:8012"
            )
        self._parts = parts
        self._base = parts.path.rstrip("/").removesuffix("/v1")
        self._key = key
        self._n_at_once = n_at_once
        self._sleep = sleep
        self._local = threading.local()
        self._connections: list[http.client.HTTPConnection] = []
        self._is_over = False
        self._model = self._first_model() if model is None else model

    @property
    def name(self) -> str:
        return self._model

    def facts(self) -> dict[str, Any]:
        host = self._parts.netloc.rpartition("@")[2]
        return {"name": self._model, "sha256": None, "url": f"{self._parts.scheme}://{host}"}

    def count(self, text: str) -> int:
        return -(-len(text) // _CHARS_PER_TOKEN)

    def close(self) -> None:
        for connection in self._connections:
            connection.close()

    def replies(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Reply]]:
        coming = iter(requests)
        pool = ThreadPoolExecutor(self._n_at_once)
        running: dict[Future[Reply], Request] = {}
        try:
            while True:
                for request in islice(coming, self._n_at_once - len(running)):
                    running[pool.submit(self._reply, request)] = request
                if not running:
                    return
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for one in done:
                    yield running.pop(one), one.result()
        finally:
            self._is_over = True  # whoever still waits for an answer does not get it
            for connection in self._connections:
                if running and connection.sock is not None:
                    with contextlib.suppress(OSError):
                        connection.sock.shutdown(socket.SHUT_RDWR)
            pool.shutdown(cancel_futures=True)
            self.close()
            self._connections.clear()
            self._local = threading.local()
            self._is_over = False

    def _reply(self, request: Request) -> Reply:
        ask, sampling = request.ask, request.sampling
        if ask.kind == "infill" and ask.order != "psm":
            raise ConfigError(
                "a server chooses the order of an infilling prompt by itself",
                hint="leave out --order, or name the model's files with --model",
            )
        body: dict[str, Any] = {
            "model": self._model,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens or ask.max_tokens,
            "seed": request.seed % (1 << 31),
        }
        if ask.stop:
            body["stop"] = list(ask.stop[:_MOST_STOPS])
        path = "/v1/chat/completions" if ask.kind == "chat" else "/v1/completions"
        if ask.kind == "chat":
            body["messages"] = [{"role": "user", "content": ask.text}]
        else:
            body["prompt"] = ask.text
        if ask.kind == "infill":
            body["suffix"] = ask.suffix
        if ask.kind == "score":
            body |= {"echo": True, "logprobs": 0, "max_tokens": 0}
        status, answer = self._post(path, body)
        if status != 200:
            return Reply(finish="error", error=f"HTTP {status}: {_complaint(answer)}")
        return _read(ask, answer)

    def _post(self, path: str, body: dict[str, Any] | None) -> tuple[int, Any]:
        """Status and JSON of an answer; busy servers and broken connections are tried again."""
        said = ""
        for attempt in range(_TRIES):
            if attempt:
                self._sleep(min(30.0, 0.5 * 2**attempt))
            try:
                status, answer, wait_s = self._once(path, body)
            except (OSError, http.client.HTTPException) as error:
                if self._is_over:
                    break
                self._forget_connection()
                said = str(error) or type(error).__name__
                continue
            if status in (401, 403):
                raise EngineFailed(
                    f"{self._parts.netloc} does not let us in: HTTP {status}",
                    hint="put the server's key in the environment as OPENAI_API_KEY",
                )
            if status != 429 and status < 500:
                return status, answer
            said = f"HTTP {status}: {_complaint(answer)}"
            if wait_s:
                self._sleep(wait_s)
        raise EngineFailed(
            f"{self._parts.netloc}: no answer in {_TRIES} tries; the last time: {said}",
            hint="the run goes on where it stopped when it is started again",
        )

    def _forget_connection(self) -> None:
        connection = getattr(self._local, "connection", None)
        if connection is not None:
            connection.close()
        self._local.connection = None

    def _once(self, path: str, body: dict[str, Any] | None) -> tuple[int, Any, float]:
        connection: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        if connection is None:
            is_plain = self._parts.scheme == "http"
            kind = http.client.HTTPConnection if is_plain else http.client.HTTPSConnection
            connection = kind(self._parts.hostname or "", self._parts.port, timeout=_TIMEOUT_S)
            self._local.connection = connection
            self._connections.append(connection)
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        data = None if body is None else json.dumps(body).encode()
        connection.request("GET" if body is None else "POST", self._base + path, data, headers)
        answer = connection.getresponse()
        raw = answer.read()
        wait = answer.headers.get("Retry-After", "")
        try:
            found = json.loads(raw)
        except ValueError:
            found = raw.decode(errors="replace")[:200]
        return answer.status, found, min(60.0, float(wait)) if wait.isdigit() else 0.0

    def _first_model(self) -> str:
        status, answer = self._post("/v1/models", None)
        try:
            return str(answer["data"][0]["id"])
        except (LookupError, TypeError) as error:
            raise EngineFailed(
                f"{self._parts.netloc}/v1/models lists no model: HTTP {status}",
                hint="say which with --model",
            ) from error


def _read(ask: Ask, answer: Any) -> Reply:
    try:
        choice = answer["choices"][0]
        if ask.kind == "score":
            found = [one for one in choice["logprobs"]["token_logprobs"] if one is not None]
            return Reply(n_tokens=len(found), logprobs=tuple(map(float, found)))
        text = choice["message"]["content"] if ask.kind == "chat" else choice["text"]
        cut = StopFilter(ask.stop)
        text = cut.push(text or "")
        text += cut.finish()
        n_tokens = int((answer.get("usage") or {}).get("completion_tokens") or 0)
        return Reply(text=text, finish=str(choice.get("finish_reason")), n_tokens=n_tokens)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise CodeLlamaError(
            f"the server's answer is not one of OpenAI's API: {type(error).__name__}: {error}"
        ) from error


def _complaint(answer: Any) -> str:
    error = answer.get("error") if isinstance(answer, dict) else answer
    said = error.get("message") if isinstance(error, dict) else error
    return str(said)[:200]
