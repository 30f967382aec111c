"""Messages between our processes: a length of 4 bytes, then JSON.

What candidates answer is bounded and checked by whoever reads it.
"""

from __future__ import annotations

import json
import os
from typing import Any

MAX_MESSAGE = 64 << 20


class Ended(Exception):
    """The other side closed the channel, or wrote something that is no message."""


def write_message(fd: int, message: Any) -> None:
    """Raises Ended when nobody reads any more."""
    body = json.dumps(message, separators=(",", ":")).encode()
    data = memoryview(len(body).to_bytes(4, "big") + body)
    try:
        while data:
            data = data[os.write(fd, data) :]
    except OSError as error:
        raise Ended(f"writing failed: {error.strerror}") from None


def read_message(fd: int, limit: int = MAX_MESSAGE) -> Any:
    """Raises Ended at the end of the channel or when what comes is no message."""
    size = int.from_bytes(_read_exactly(fd, 4), "big")
    if size > limit:
        raise Ended(f"a message of {size} bytes is over the limit of {limit}")
    try:
        return json.loads(_read_exactly(fd, size))
    except (ValueError, RecursionError):
        raise Ended("the message is no JSON") from None


def _read_exactly(fd: int, size: int) -> bytes:
    pieces = []
    while size:
        try:
            piece = os.read(fd, min(size, 1 << 20))
        except OSError as error:
            raise Ended(f"reading failed: {error.strerror}") from None
        if not piece:
            raise Ended("the channel was closed")
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)
