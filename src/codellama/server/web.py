"""One HTTP request, from its bytes to its answer, as plain ASGI."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from pydantic import ValidationError
from starlette.types import Receive, Scope, Send

from codellama.errors import CodeLlamaError
from codellama.server.admission import Charge
from codellama.server.generation import Generation
from codellama.server.refusals import Refusal, encode, shape_of
from codellama.server.schema import Body
from codellama.server.served import Registry, Served
from codellama.server.settings import Settings
from codellama.strict_json import JsonError, parse_object

log = logging.getLogger("codellama.server")

B = TypeVar("B", bound=Body)
T = TypeVar("T")

_INLINE_CHARS = 2048  # of a prompt; more is tokenised in another thread


@dataclass(kw_only=True)
class State:
    """What all requests share."""

    settings: Settings
    registry: Registry
    version: str
    workers: ThreadPoolExecutor
    is_draining: bool = False
    n_solving: int = 0  # requests that run candidates
    answers: dict[tuple[str, int], int] = field(default_factory=dict)
    seen_unknown: set[str] = field(default_factory=set)
    numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def find(self, name: str) -> Served:
        return self.registry.find(name)

    async def off_loop(self, n_chars: int, work: Callable[[], T]) -> T:
        """Runs `work`, in another thread where a text of `n_chars` would hold the loop up."""
        if n_chars <= _INLINE_CHARS:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self.workers, work)


class Gone(Exception):
    """The client left before its request was complete."""


class Call:
    """A request being answered."""

    def __init__(self, state: State, scope: Scope, receive: Receive, send: Send) -> None:
        self.state = state
        self.scope = scope
        self.path: str = scope["path"]
        self.key_scope: bytes = scope.get("codellama.key", b"")
        self.headers: list[tuple[bytes, bytes]] = []
        self.has_started = False
        self.status = 0  # of the answer, once it has begun
        self._generations: tuple[Generation, ...] = ()
        self._receive = receive
        self._send = send

    async def read(self) -> bytes:
        """The body; the connection has bounded its size and time."""
        parts = []
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise Gone
            parts.append(message.get("body", b""))
            if not message.get("more_body", False):
                return b"".join(parts)

    async def json(self, value: Any, status: int = 200) -> None:
        """Answers with one JSON object."""
        await self.data(encode(value), b"application/json", status)

    async def data(self, content: bytes, kind: bytes, status: int = 200) -> None:
        """Answers with `content` of media type `kind`."""
        await self._start(
            status, [(b"content-type", kind), (b"content-length", b"%d" % len(content))]
        )
        await self._send({"type": "http.response.body", "body": content})

    async def empty(self, status: int) -> None:
        """Answers with a status alone."""
        await self._start(status, [])
        await self._send({"type": "http.response.body", "body": b""})

    async def refuse(self, refusal: Refusal) -> None:
        """Answers with an error, in the shape that this path's clients read."""
        self.headers += refusal.headers()
        await self.json(refusal.body(shape_of(self.path)), refusal.status)

    async def stream(self, kind: bytes, parts: AsyncIterator[bytes]) -> None:
        """Answers with parts as they come. The status waits for the first one, which may fail."""
        async with contextlib.aclosing(parts) as parts:  # type: ignore[type-var]  # a generator, which can be closed
            async for part in parts:
                if not self.has_started:
                    await self._start(
                        200, [(b"content-type", kind), (b"cache-control", b"no-cache")]
                    )
                await self._send({"type": "http.response.body", "body": part, "more_body": True})
        await self._send({"type": "http.response.body", "body": b""})

    async def unless_gone(self, work: Coroutine[Any, Any, T]) -> T:
        """What `work` comes to; it is cancelled when the client leaves.

        Raises:
            Gone: the client left.
        """
        task = asyncio.ensure_future(work)
        watcher = asyncio.ensure_future(self._departure())
        try:
            await asyncio.wait((task, watcher), return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise Gone
            return task.result()
        finally:
            task.cancel()
            watcher.cancel()

    async def _departure(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    @contextlib.asynccontextmanager
    async def watching(self, *generations: Generation) -> AsyncIterator[None]:
        """Ends the generations when the client leaves, and when the block is left early."""

        async def watch() -> None:
            await self._departure()
            for generation in generations:
                generation.cancel()

        self._generations = generations
        watcher = asyncio.ensure_future(watch())
        try:
            yield
        finally:
            watcher.cancel()
            for generation in generations:
                generation.cancel()

    async def _start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.has_started = True
        self.status = status
        counts = self.state.answers
        route = self.scope.get("codellama.route", "other")
        counts[route, status] = counts.get((route, status), 0) + 1
        for generation in self._generations:
            if generation.order is not None:
                self.headers.append((b"x-codellama-order", generation.order.encode()))
        await self._send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": headers + self.headers,
            }
        )


@dataclass(frozen=True)
class Endpoint(Generic[B]):
    """An ASGI application for one path: checks the body, then answers.

    `body` None is for requests without one. `generates` refuses early where everything is full.
    """

    path: str
    methods: tuple[str, ...]
    answer: Callable[[Call, B], Awaitable[None]]
    body: type[B] | None = None
    generates: bool = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        state: State = scope["codellama.state"]
        scope["codellama.route"] = self.path
        call = Call(state, scope, receive, send)
        started = time.monotonic()
        try:
            await self._respond(call)
        finally:
            if log.isEnabledFor(logging.INFO):
                fields = {
                    "method": scope["method"],
                    "route": self.path,
                    "status": call.status,
                    "ms": round(1000 * (time.monotonic() - started), 1),
                }
                log.info("answered" if call.status else "left", extra={"fields": fields})

    async def _respond(self, call: Call) -> None:
        state = call.state
        try:
            await self._answer(call)
        except Gone:
            return
        except Refusal as refusal:
            await self._refuse(call, refusal)
        except CodeLlamaError as error:
            await self._refuse(call, Refusal.of(error))
        except Exception as error:
            number = next(state.numbers)
            # The text of an exception may quote the request; its type and place do not.
            log.error("error %d in %s: %s at %s", number, self.path, type(error).__name__,
                      _place(error))  # fmt: skip
            bug = Refusal(
                500, f"this is a bug in the server (error {number} of its log)", code="bug"
            )
            await self._refuse(call, bug)

    async def _answer(self, call: Call) -> None:
        if self.body is None:
            await self.answer(call, None)  # type: ignore[arg-type]  # no body is asked for
            return
        data = await call.read()
        if self.generates:
            _check_room(call.state)
        await self.answer(call, parse(call, self.body, data))

    async def _refuse(self, call: Call, refusal: Refusal) -> None:
        if call.has_started:
            raise RuntimeError("an error came after the answer had begun") from refusal
        await call.refuse(refusal)


def parse(call: Call, kind: type[B], data: bytes) -> B:
    """The checked body of a request.

    Raises:
        Refusal: it is not JSON, or a field has the wrong type or is out of range.
    """
    limits = call.state.settings.limits
    try:
        found = parse_object(
            data,
            max_depth=limits.json_depth,
            max_values=limits.body_bytes // 2,
            max_keys=limits.json_keys,
            max_digits=308,
            max_escapes=None,
        )
    except JsonError as error:
        raise Refusal(400, f"the body {error}", code="invalid_json") from None
    if b"\\u" in data:
        try:
            encode(found)
        except UnicodeEncodeError:
            raise Refusal(
                400, "the body has half a surrogate pair, which is no character",
                code="invalid_json",
            ) from None  # fmt: skip
    return validated(call, kind, found)


def validated(call: Call, kind: type[B], found: dict[str, Any]) -> B:
    """`found` as a checked body.

    Raises:
        Refusal: a field has the wrong type or is out of range.
    """
    _note_unknown(call, kind, found)
    try:
        return kind.model_validate(found)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = _field(first["loc"])
        raise Refusal(
            400, f"`{where}`: {first['msg']}" if where else first["msg"],
            code="invalid_value", param=where or None,
        ) from None  # fmt: skip


def _field(place: tuple[int | str, ...]) -> str:
    """Where in the body, without pydantic's names for the members of a union."""
    words = [str(part) for part in place if isinstance(part, int) or part.isidentifier()]
    return ".".join(word for word in words if word not in ("str", "constrained-str"))


def _note_unknown(call: Call, kind: type[Body], found: dict[str, Any]) -> None:
    """Says once in the log which fields of /v1 requests have no effect."""
    if not call.path.startswith("/v1/") or len(call.state.seen_unknown) > 100:
        return
    if kind.model_config.get("extra") == "allow":
        return
    new = found.keys() - kind.model_fields.keys() - call.state.seen_unknown
    for name in sorted(new)[:20]:
        call.state.seen_unknown.add(name)
        log.info("ignored the unknown field %s of %s", ascii(name[:40]), call.path)


def _check_room(state: State) -> None:
    models = state.registry.models
    if models and all(served.service.is_full for served in models):
        models[0].service.check_open(Charge(n_sequences=1))


def _place(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return "?"
    return f"{trace.tb_frame.f_code.co_filename.rsplit('/', 1)[-1]}:{trace.tb_lineno}"
