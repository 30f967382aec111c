"""JSON from strangers: bounded before it is parsed, and read strictly.

Standard JSON only. Python's own reader also lets through duplicate keys, NaN, infinities and
nesting deep enough to exhaust the stack, and one short file can blow up into many small objects.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from typing import Any

import numpy as np

from codellama.checkpoint.files import quoted
from codellama.errors import CheckpointError

MAX_VALUES = 1 << 17  # bounds the objects that parsing makes, and so the memory it takes

_STRINGS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"{}[]"))


def parse_object(data: bytes, where: str, *, max_depth: int = 32) -> dict[str, Any]:
    """The JSON object in `data`, whose size the caller has bounded.

    Raises:
        CheckpointError: not UTF-8, not JSON, not an object, a key twice in one object, a number
            that is not finite or has more than 20 digits, nested deeper than `max_depth`, or more
            than 2^17 values.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{where}: is not UTF-8 at byte {error.start}") from error
    # Marks inside strings count too: nothing a model folder holds comes near the bounds.
    marks = max(map(data.count, (b",", b"[", b"]", b"{", b"}", b"\\")))
    if marks > MAX_VALUES or data.count(b'"') > 2 * MAX_VALUES:
        raise CheckpointError(f"{where}: has more than {MAX_VALUES} values")
    if _depth(data) > max_depth:
        raise CheckpointError(f"{where}: is nested deeper than {max_depth} levels")

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(items)
        if len(found) != len(items):
            twice, _ = Counter(key for key, _ in items).most_common(1)[0]
            raise CheckpointError(f"{where}: has the key {quoted(twice)} twice")
        return found

    def number(digits: str) -> float:
        value = float(digits)
        if not math.isfinite(value):
            raise CheckpointError(f"{where}: has the number {quoted(digits)}, which is not finite")
        return value

    def integer(digits: str) -> int:
        if len(digits) > 20:
            raise CheckpointError(f"{where}: has the number {quoted(digits)}, which is too long")
        return int(digits)

    try:
        found = json.loads(
            text,
            object_pairs_hook=pairs,
            parse_float=number,
            parse_int=integer,
            parse_constant=number,
        )
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{where}: is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{where}: is not a JSON object")
    return found


def _depth(data: bytes) -> int:
    """How deep brackets nest outside strings."""
    brackets = np.frombuffer(_STRINGS.sub(b"", data).translate(None, _NOT_BRACKETS), np.uint8)
    if not brackets.size:
        return 0
    is_open = (brackets == ord("{")) | (brackets == ord("["))
    return int(np.cumsum(np.where(is_open, 1, -1).astype(np.int8), dtype=np.int32).max())
