"""Many streams at once, over raw sockets, cheaply enough not to be what is measured."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Stream:
    """What one request brought, and when."""

    status: int = 0
    headers: bytes = b""
    body: bytes = b""
    first_s: float = 0.0  # to the first byte of the answer
    total_s: float = 0.0
    times: list[float] = field(default_factory=list)

    @property
    def events(self) -> list[Any]:
        parts = self.body.decode().split("\n\n")
        return [json.loads(p[6:]) for p in parts if p.startswith("data: {")]

    @property
    def is_complete(self) -> bool:
        return self.body.endswith(b"data: [DONE]\n\n")

    @property
    def text(self) -> str:
        return "".join(e["choices"][0]["text"] for e in self.events if e.get("choices"))

    @property
    def gaps(self) -> list[float]:
        return [b - a for a, b in zip(self.times, self.times[1:], strict=False)]


async def post(
    port: int, body: Any, *, leave_after: float | None = None, path: str = "/v1/completions"
) -> Stream:
    """Sends one request; `leave_after` seconds it hangs up."""
    found = Stream()
    data = json.dumps(body).encode()
    began = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n"
        f"Content-Length: {len(data)}\r\n\r\n".encode()
        + data
    )
    try:
        async with asyncio.timeout(leave_after):
            head = await reader.readuntil(b"\r\n\r\n")
            found.first_s = time.perf_counter() - began
            found.status = int(head.split(b" ", 2)[1])
            found.headers = head.lower()
            raw = b""
            while part := await reader.read(65536):
                found.times.append(time.perf_counter())
                raw += part
            found.body = _dechunked(raw) if b"chunked" in found.headers else raw
    except (TimeoutError, ConnectionError, asyncio.IncompleteReadError):
        found.status = found.status or -1
    finally:
        found.total_s = time.perf_counter() - began
        writer.transport.abort()
    return found


def _dechunked(raw: bytes) -> bytes:
    parts = []
    at = 0
    while at < len(raw):
        end = raw.index(b"\r\n", at)
        size = int(raw[at:end], 16)
        if not size:
            break
        parts.append(raw[end + 2 : end + 2 + size])
        at = end + 2 + size + 2
    return b"".join(parts)


def together(port: int, bodies: list[Any], **keywords: Any) -> list[Stream]:
    """All requests at the same time."""

    async def main() -> list[Stream]:
        return list(await asyncio.gather(*(post(port, body, **keywords) for body in bodies)))

    return asyncio.run(main())


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
