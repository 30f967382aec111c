"""Batch files, and what their answers must be."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

BAD: tuple[bytes, ...] = (
    b"not json",
    b"",
    b'{"custom_id": "a"',
    b"\xff\xfe",
    b"[1, 2]",
    b'{"method": "POST", "url": "/v1/completions", "body": {}}',
    b'{"custom_id": "get", "method": "GET", "url": "/v1/models", "body": {}}',
    b'{"custom_id": "url", "method": "POST", "url": "/v1/embeddings", "body": {}}',
    b'{"custom_id": "body", "method": "POST", "url": "/v1/completions", "body": 3}',
    b'{"custom_id": "stream", "method": "POST", "url": "/v1/completions",'
    b' "body": {"prompt": "x", "stream": true}}',
)


def request(i: int, **body: Any) -> bytes:
    """A completion of four tokens."""
    found = {"prompt": f"x{i} = ", "max_tokens": 4, "temperature": 0, **body}
    return json.dumps(
        {"custom_id": f"n{i}", "method": "POST", "url": "/v1/completions", "body": found}
    ).encode()


def write(path: Path, lines: list[bytes]) -> None:
    path.write_bytes(b"".join(line + b"\n" for line in lines))


def answers(path: Path) -> dict[int, dict[str, Any]]:
    """The answers by line; there is exactly one for each, and every line is whole."""
    data = path.read_bytes()
    assert data.endswith(b"\n")
    found = [json.loads(line) for line in data.splitlines()]
    numbers = [int(one["id"].removeprefix("batch_req_")) for one in found]
    assert max(Counter(numbers).values()) == 1
    assert sorted(numbers) == list(range(1, len(numbers) + 1))
    return dict(zip(numbers, found, strict=True))
