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

_STRINGS = re.compile(rb'"[^"]*"')
_BRACKETS = re.compile(rb"[{}\[\]]")


class JsonError(ValueError):
    """Says what is wrong as the rest of a sentence whose subject is the text."""


def parse_object(
    data: bytes,
    *,
    max_depth: int = 32,
    max_values: int = 1 << 17,
    max_keys: int | None = None,
    max_digits: int = 20,
    max_escapes: int | None = 1 << 17,
) -> dict[str, Any]:
    """The JSON object in `data`, whose size the caller has bounded.

    Args:
        max_depth: levels of objects and lists.
        max_values: bounds the objects that parsing makes, and so the memory it takes.
        max_keys: keys in all objects together; None for no other bound than `max_values`.
        max_digits: length of an integer; of a number with a fraction 15 times that.
        max_escapes: backslashes, each of which costs the parser memory; None for no bound.

    Raises:
        JsonError: not UTF-8, not JSON, not an object, a key twice in one object, a number that is
            not finite or too long, or one of the bounds is passed.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise JsonError(f"is not UTF-8 at byte {error.start}") from error
    if max_escapes is not None and data.count(b"\\") > max_escapes:
        raise JsonError(f"has more than {max_escapes} backslashes")
    # Without escapes a string ends at the next quote, and finding strings takes no memory.
    bare = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    if bare.count(b'"') > 4 * max_values:
        raise JsonError(f"has more than {max_values} values")
    bare = _STRINGS.sub(b"", bare)
    if bare.count(b",") + bare.count(b"[") + bare.count(b"{") > max_values:
        raise JsonError(f"has more than {max_values} values")
    if _depth(bare) > max_depth:
        raise JsonError(f"is nested deeper than {max_depth} levels")
    n_keys = 0

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal n_keys
        n_keys += len(items)
        if max_keys is not None and n_keys > max_keys:
            raise JsonError(f"has more than {max_keys} keys")
        found = dict(items)
        if len(found) != len(items):
            twice, _ = Counter(key for key, _ in items).most_common(1)[0]
            raise JsonError(f"has the key {_quoted(twice)} twice")
        return found

    def number(digits: str) -> float:
        if len(digits) > 15 * max_digits:
            raise JsonError(f"has the number {_quoted(digits)}, which is too long")
        value = float(digits)
        if not math.isfinite(value):
            raise JsonError(f"has the number {_quoted(digits)}, which is not finite")
        return value

    def integer(digits: str) -> int:
        if len(digits) > max_digits:
            raise JsonError(f"has the number {_quoted(digits)}, which is too long")
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
        raise JsonError(f"is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise JsonError("is not a JSON object")
    return found


def _depth(bare: bytes) -> int:
    """How deep brackets nest in JSON without strings."""
    deepest = depth = 0
    for bracket in _BRACKETS.findall(bare):
        depth += 1 if bracket in b"{[" else -1
        deepest = max(deepest, depth)
    return deepest


def _quoted(value: str) -> str:
    text = ascii(value[:100])
    return text if len(text) <= 80 else f"{text[:60]}...{text[-15:]}"
