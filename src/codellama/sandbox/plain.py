"""Plain data between a candidate and its tests, as JSON that keeps exact types.

What is read back is made of the types named here and of nothing else, whoever wrote it: no class is
looked up, no code is run. An object that is no plain data travels as a handle, a number under which
its owner keeps it.
"""

from __future__ import annotations

import collections
import datetime
import decimal
import fractions
from collections.abc import Callable
from typing import Any

MAX_DEPTH = 150


class NotPlain(Exception):
    """A value cannot be sent, or what came is no plain data."""


def encode(value: Any, handle: Callable[[Any], list[Any]], depth: int = 0) -> Any:
    """`value` as JSON; what is no plain data goes to `handle`, which gives a tagged list.

    An instance of a subclass of a plain type is sent as that plain type.
    """
    if value is None or value is True or value is False:
        return value
    kind = type(value)
    if kind is str:
        return value
    if kind is int:
        return value if -(1 << 53) < value < 1 << 53 else ["i", hex(value)]
    if kind is float:
        return ["f", value.hex()]
    if depth > MAX_DEPTH:
        raise NotPlain(f"a value is nested more than {MAX_DEPTH} deep")
    encoder = _ENCODERS.get(kind)
    if encoder is not None:
        return encoder(value, lambda inner: encode(inner, handle, depth + 1))
    for base, plain in _BASES:
        if isinstance(value, base):
            return encode(plain(value), handle, depth + 1)
    return handle(value)


def _many(tag: str) -> Callable[[Any, Callable[[Any], Any]], list[Any]]:
    return lambda value, inner: [tag, [inner(item) for item in value]]


def _pairs(tag: str) -> Callable[[Any, Callable[[Any], Any]], list[Any]]:
    return lambda value, inner: [tag, [[inner(k), inner(v)] for k, v in value.items()]]


_ENCODERS: dict[type, Callable[[Any, Callable[[Any], Any]], list[Any]]] = {
    list: _many("l"),
    tuple: _many("t"),
    set: _many("s"),
    frozenset: _many("z"),
    collections.deque: _many("q"),
    type({}.keys()): _many("ks"),
    type({}.values()): _many("l"),
    type({}.items()): _many("l"),
    dict: _pairs("d"),
    collections.Counter: _pairs("c"),
    collections.OrderedDict: _pairs("od"),
    complex: lambda value, _: ["x", value.real.hex(), value.imag.hex()],
    bytes: lambda value, _: ["b", value.hex()],
    bytearray: lambda value, _: ["B", value.hex()],
    range: lambda value, _: ["r", hex(value.start), hex(value.stop), hex(value.step)],
    decimal.Decimal: lambda value, _: ["D", str(value)],
    fractions.Fraction: lambda value, _: ["F", hex(value.numerator), hex(value.denominator)],
    datetime.date: lambda value, _: ["date", value.isoformat()],
    datetime.timedelta: lambda value, _: ["delta", value.days, value.seconds, value.microseconds],
    type(...): lambda value, _: ["..."],
    type(NotImplemented): lambda value, _: ["ni"],
}
_BASES: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (int, int.__int__),
    (float, float.__float__),
    (str, str.__str__),
    (bytes, bytes),
    (tuple, tuple),
    (list, list),
    (set, set),
    (frozenset, frozenset),
    (dict, dict),
)


def decode(text: Any, handle: Callable[[str, Any], Any], depth: int = 0) -> Any:
    """The value of what `encode` gave; tags that are not of plain data go to `handle`.

    Raises:
        NotPlain: it is not of that form; `handle` may raise it too.
    """
    if text is None or type(text) in (bool, int, str):
        return text
    if type(text) is not list or not text or type(text[0]) is not str or depth > MAX_DEPTH + 2:
        raise NotPlain("what came is no plain data")
    tag, *rest = text
    try:
        if tag in _COLLECTIONS:
            return _COLLECTIONS[tag]([decode(item, handle, depth + 1) for item in _list(rest[0])])
        if tag in _MAPPINGS:
            pairs = [_list(pair) for pair in _list(rest[0])]
            items = [
                (decode(key, handle, depth + 1), decode(value, handle, depth + 1))
                for key, value in pairs
            ]
            return _MAPPINGS[tag](items)
        if tag in _SCALARS:
            return _SCALARS[tag](*rest)
    except NotPlain:
        raise
    except Exception as error:  # any shape at all may come: it is an untrusted process's text
        raise NotPlain(f"what came is no plain data: {type(error).__name__}") from None
    return handle(tag, rest)


def _list(value: Any) -> list[Any]:
    if type(value) is not list:
        raise NotPlain("what came is no plain data")
    return value


def _whole(text: str) -> int:
    return int(text, 16)


_COLLECTIONS: dict[str, Callable[[list[Any]], Any]] = {
    "l": list,
    "t": tuple,
    "s": set,
    "z": frozenset,
    "q": collections.deque,
    "ks": lambda items: dict.fromkeys(items).keys(),
}
_MAPPINGS: dict[str, Callable[[list[tuple[Any, Any]]], Any]] = {
    "d": dict,
    "c": lambda pairs: collections.Counter(dict(pairs)),
    "od": collections.OrderedDict,
}
_SCALARS: dict[str, Callable[..., Any]] = {
    "i": _whole,
    "f": float.fromhex,
    "x": lambda real, imaginary: complex(float.fromhex(real), float.fromhex(imaginary)),
    "b": bytes.fromhex,
    "B": bytearray.fromhex,
    "r": lambda start, stop, step: range(_whole(start), _whole(stop), _whole(step)),
    "D": decimal.Decimal,
    "F": lambda top, bottom: fractions.Fraction(_whole(top), _whole(bottom)),
    "date": datetime.date.fromisoformat,
    "delta": datetime.timedelta,
    "...": lambda: ...,
    "ni": lambda: NotImplemented,
}
