"""Streams of completions over raw sockets, cheap enough not to be what is measured."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Stream:
    """One streamed reply: its status, seconds to the first text, gaps between parts, and text.

    `n_tokens` is what the server says that it wrote; 0 where it does not say.
    """

    status: int = 0
    first_s: float | None = None
    total_s: float = 0.0
    gaps_s: list[float] = field(default_factory=list)
    n_chunks: int = 0
    n_tokens: int = 0
    text: str = ""
    is_complete: bool = False
    has_error: bool = False


async def stream(port: int, body: dict[str, Any], *, leave_after: float | None = None) -> Stream:
    """`POST /v1/completions` with `stream`; hangs up after `leave_after` seconds."""
    found = Stream()
    options = {"stream": True, "stream_options": {"include_usage": True}}
    data = json.dumps(body | options).encode()
    began = last = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(
            f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n".encode()
            + data
        )
        async with asyncio.timeout(leave_after):
            head = await reader.readuntil(b"\r\n\r\n")
            found.status = int(head.split(b" ", 2)[1])
            async for line in reader:
                if not line.startswith(b"data: "):
                    continue
                now = time.perf_counter()
                if line.startswith(b"data: [DONE]"):
                    found.is_complete = True
                    continue
                event = json.loads(line[6:])
                found.has_error |= "error" in event
                usage = event.get("usage") or {}
                found.n_tokens = usage.get("completion_tokens", found.n_tokens)
                for choice in event.get("choices", ()):
                    if not choice["text"]:
                        continue
                    found.text += choice["text"]
                    found.n_chunks += 1
                    if found.first_s is None:
                        found.first_s = now - began
                    else:
                        found.gaps_s.append(now - last)
                    last = now
    except (TimeoutError, ConnectionError, asyncio.IncompleteReadError):
        pass  # the status and the marks say how far it came
    finally:
        found.total_s = time.perf_counter() - began
        writer.transport.abort()
    return found


async def get(port: int, path: str) -> tuple[int, bytes]:
    """The status and body of a GET."""
    return await request(port, "GET", path, None)


async def request(
    port: int, method: str, path: str, body: dict[str, Any] | None
) -> tuple[int, bytes]:
    """The status and body of an answer that is not streamed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    data = b"" if body is None else json.dumps(body).encode()
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    writer.write(head.encode() + data)
    data = await reader.read()
    writer.close()
    return int(data.split(b" ", 2)[1]), data.partition(b"\r\n\r\n")[2]


def percentile(values: list[float], share: float) -> float:
    """The value below which `share` of the values lie; 0 for none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
