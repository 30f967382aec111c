"""Lines of a batch file: what they ask, what is answered, and the routes that answer them.

The form is OpenAI's (platform.openai.com/docs/guides/batch): an object a line with `custom_id`,
`method`, `url` and `body`; the answer has `custom_id` and either `response`, with `status_code`,
`request_id` and `body`, or `error`. The `id` of an answer says which line of the file it is for.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Any

from codellama.errors import EngineFailed
from codellama.server.app import make_app, make_state
from codellama.server.served import Registry, Served
from codellama.server.settings import Settings
from codellama.strict_json import JsonError, parse_object

URLS = ("/v1/completions", "/v1/chat/completions", "/v1/fim/completions", "/infill")
_ID = re.compile(r"batch_req_(\d{1,12})")
_PATIENCE_S = 0.2


@dataclass(frozen=True)
class Line:
    """A line of the input, counted from 1."""

    number: int
    data: bytes


@dataclass(frozen=True)
class Request:
    """What a line asks."""

    custom_id: str
    url: str
    body: bytes


class BadLine(Exception):
    """A line that asks nothing that can be answered: a code and a sentence."""

    def __init__(self, code: str, message: str, custom_id: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.custom_id = custom_id


def parse(line: Line) -> Request:
    """Raises BadLine."""
    try:
        found: dict[str, Any] = parse_object(line.data)
    except JsonError as error:
        raise BadLine("invalid_json", f"line {line.number} {error}") from None
    name = found.get("custom_id")
    if not isinstance(name, str) or not name:
        raise BadLine("missing_custom_id", f"line {line.number} has no `custom_id`")

    def bad(code: str, message: str) -> BadLine:
        return BadLine(code, f"line {line.number}: {message}", name)

    if found.get("method") != "POST":
        raise bad("invalid_method", f"`method` is {_shown(found.get('method'))}; expected POST")
    url = found.get("url")
    if url not in URLS:
        raise bad("invalid_url", f"`url` is {_shown(url)}; expected {', '.join(URLS)}")
    body = found.get("body")
    if not isinstance(body, dict):
        raise bad("invalid_body", f"`body` is {_shown(body)}; expected an object")
    if body.get("stream"):
        raise bad("invalid_body", "`stream` is set, and a batch has no streams")
    return Request(custom_id=name, url=url, body=json.dumps(body).encode())


def answer_id(number: int) -> str:
    """The `id` of a line's answer."""
    return f"batch_req_{number:06d}"


def number_of(answer: dict[str, Any]) -> int | None:
    """The line that an answer is for; None where it is no answer of ours."""
    found = _ID.fullmatch(str(answer.get("id")))
    return int(found[1]) if found else None


def refused(line: Line, error: BadLine) -> bytes:
    """The answer to a line that asks nothing."""
    return _encoded(line, error.custom_id, None, {"code": error.code, "message": str(error)})


def _answered(line: Line, request: Request, status: int, body: Any) -> bytes:
    response = {"status_code": status, "request_id": f"req_{line.number:06d}", "body": body}
    return _encoded(line, request.custom_id, response, None)


def _encoded(line: Line, custom_id: str | None, response: Any, error: Any) -> bytes:
    answer = {"id": answer_id(line.number), "custom_id": custom_id, "response": response,
              "error": error}  # fmt: skip
    return json.dumps(answer).encode() + b"\n"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


class Routes:
    """The server's own routes, called in this process: a line gets the answer that a client would.

    To be used in one event loop, where the services run.
    """

    def __init__(self, served: list[Served], settings: Settings, version: str) -> None:
        self._state = make_state(settings, Registry(served), version)
        self._app = make_app(self._state, ())
        self._served = served

    def start(self) -> None:
        """Starts the engines' threads; results go to the running event loop."""
        for one in self._served:
            one.service.start()

    def stop(self) -> None:
        for one in self._served:
            one.service.stop()
        self._state.workers.shutdown(wait=False)

    async def answers(self, lines: Iterable[Line], at_a_time: int) -> AsyncIterator[bytes]:
        """An answer to each line, in the order they are ready, `at_a_time` being worked on.

        Raises:
            EngineFailed: an engine has stopped; lines without an answer may be asked again.
        """
        rest = iter(lines)
        running: set[asyncio.Task[bytes]] = set()
        try:
            while True:
                while len(running) < at_a_time:
                    line = next(rest, None)
                    if line is None:
                        break
                    running.add(asyncio.create_task(self.answer(line)))
                if not running:
                    return
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    yield task.result()
        finally:
            for task in running:
                task.cancel()

    async def answer(self, line: Line) -> bytes:
        """The answer to one line; waits while the server is full."""
        try:
            request = parse(line)
        except BadLine as error:
            return refused(line, error)
        while True:
            status, body = await self._post(request.url, request.body)
            if status == 503:
                raise EngineFailed(f"the engine has stopped: {body['error']['message']}")
            if status != 429:
                return _answered(line, request, status, body)
            await asyncio.sleep(_PATIENCE_S)

    async def _post(self, url: str, data: bytes) -> tuple[int, Any]:
        status, parts = 0, []
        given = False

        async def receive() -> dict[str, Any]:
            nonlocal given
            if given:  # nobody leaves
                await asyncio.get_running_loop().create_future()
            given = True
            return {"type": "http.request", "body": data}

        async def send(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                parts.append(message.get("body", b""))

        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST",
            "scheme": "http", "path": url, "raw_path": url.encode(), "query_string": b"",
            "root_path": "", "client": ("127.0.0.1", 0), "server": ("127.0.0.1", 80),
            "headers": [(b"host", b"127.0.0.1"), (b"content-type", b"application/json"),
                        (b"content-length", b"%d" % len(data))],
        }  # fmt: skip
        await self._app(scope, receive, send)
        return status, json.loads(b"".join(parts))
