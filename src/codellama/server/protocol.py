"""Connections with limits: what may be sent, how fast, and by how many at a time.

uvicorn's protocol over httptools, with every cap checked on the raw bytes as they arrive: a request
over one of them reaches no application.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, OrderedDict
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from codellama.server.refusals import Refusal, encode
from codellama.server.settings import Limits


class Crowd:
    """The connections of a server: how many there are, and which are still sending a request."""

    def __init__(self) -> None:
        self.n = 0
        self.per_address: Counter[str] = Counter()
        self.receiving: OrderedDict[LimitedProtocol, None] = OrderedDict()  # oldest first


class _Refused(Exception):
    """Leaves the parser; the connection knows why."""


class LimitedProtocol(HttpToolsProtocol):
    """One connection. `protocol_class` makes the class with its limits."""

    limits: Limits
    crowd: Crowd

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._timer: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None
        self._refusal: Refusal | None = None
        self._is_in_head = True
        self._head_bytes = 0
        self._body_bytes = 0
        self._is_counted = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn's signature
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=self.limits.unread_bytes)
        address = "" if self.client is None else self.client[0]
        is_far = not address.startswith("127.") and address not in ("::1", "")
        self.crowd.n += 1
        self._is_counted = True
        self.crowd.per_address[address] += 1
        if self.crowd.n > self.limits.connections or (
            is_far and self.crowd.per_address[address] > self.limits.connections_per_address
        ):
            self._close_with(
                Refusal(503, "too many connections", code="too_many_connections", retry_after=5)
            )
            return
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        if self._stall is not None:
            self._stall.cancel()
        self.crowd.receiving.pop(self, None)
        if self._is_counted:
            self._is_counted = False
            address = "" if self.client is None else self.client[0]
            self.crowd.n -= 1
            self.crowd.per_address[address] -= 1
            if not self.crowd.per_address[address]:
                del self.crowd.per_address[address]
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if self._timer is None and self._is_in_head:
            self._expect_head()
        self._count_as_receiving()
        if self._is_in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        most = self.limits.head_bytes + self.limits.url_bytes
        if self._is_in_head and self._head_bytes > most and not self.transport.is_closing():
            self._close_with(_too_large(431, "the headers", self.limits.head_bytes))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_in_head = True
        self._body_bytes = 0

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > self.limits.url_bytes:
            self._refuse(_too_large(414, "the URL", self.limits.url_bytes))

    def on_headers_complete(self) -> None:
        size = sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > self.limits.head_bytes or len(self.headers) > self.limits.n_headers:
            self._refuse(_too_large(431, "the headers", self.limits.head_bytes))
        if not self.url.startswith(b"/"):
            self._refuse(Refusal(400, "the target is not a path", code="bad_target"))
        for name, value in self.headers:
            if name == b"content-length" and int(value) > self.limits.body_bytes:
                self._refuse(_too_large(413, "the body", self.limits.body_bytes))
        self._is_in_head = False
        self._head_bytes = 0
        self._stop_timer()
        self._timer = self.loop.call_later(self.limits.body_s, self._too_slow)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self._body_bytes > self.limits.body_bytes:
            self._refuse(_too_large(413, "the body", self.limits.body_bytes))
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._stop_timer()
        self.crowd.receiving.pop(self, None)
        self._is_in_head = True
        super().on_message_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stall = self.loop.call_later(self.limits.unread_s, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def send_400_response(self, msg: str) -> None:
        refusal = self._refusal
        self._close_with(Refusal(400, msg, code="bad_request") if refusal is None else refusal)

    def _expect_head(self) -> None:
        """A request may begin: its head has so long to arrive."""
        self._stop_timer()
        self._timer = self.loop.call_later(self.limits.head_s, self._too_slow)

    def _count_as_receiving(self) -> None:
        """A request has begun; of too many that are not complete the oldest makes way."""
        receiving = self.crowd.receiving
        if self in receiving:
            return
        receiving[self] = None
        if len(receiving) > self.limits.receiving:
            oldest, _ = receiving.popitem(last=False)
            oldest._close_with(
                Refusal(503, "too many requests are arriving", code="overloaded", retry_after=1)
            )

    def _too_slow(self) -> None:
        self._close_with(Refusal(408, "the request took too long to arrive", code="timeout"))

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, refusal: Refusal) -> None:
        self._refusal = refusal
        raise _Refused

    def _close_with(self, refusal: Refusal) -> None:
        """Says why, unless an answer is under way, and closes."""
        self._stop_timer()
        if self.transport.is_closing():
            return
        if self.cycle is None or not self.cycle.response_started or self.cycle.response_complete:
            data = encode(refusal.body("openai"))
            lines = [STATUS_LINE[refusal.status]]
            headers = [
                (b"content-type", b"application/json"),
                (b"content-length", b"%d" % len(data)),
                (b"connection", b"close"),
                *refusal.headers(),
            ]
            lines += [b"%s: %s\r\n" % pair for pair in headers]
            with contextlib.suppress(OSError):
                self.transport.write(b"".join([*lines, b"\r\n", data]))
        self.transport.close()


def _too_large(status: int, what: str, most: int) -> Refusal:
    return Refusal(status, f"{what} may have {most} bytes", code="too_large")


def protocol_class(limits: Limits, crowd: Crowd) -> type[LimitedProtocol]:
    """The class that uvicorn makes connections of."""
    return type("Protocol", (LimitedProtocol,), {"limits": limits, "crowd": crowd})


assert issubclass(httptools.HttpParserCallbackError, httptools.HttpParserError), (
    "what a callback raises has to reach send_400_response"
)
