"""What crosses between a solution and its tests."""

from __future__ import annotations

import collections
import datetime
import decimal
import enum
import fractions
import json
import math
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codellama.sandbox.plain import NotPlain, decode, encode


def refuse(*_: Any) -> Any:
    raise NotPlain("a handle")


def through(value: Any) -> Any:
    return decode(json.loads(json.dumps(encode(value, refuse))), refuse)


SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
    | st.binary() | st.complex_numbers(allow_nan=False) | st.decimals(allow_nan=False)
    | st.fractions() | st.dates() | st.timedeltas()
)  # fmt: skip
HASHABLE = st.recursive(
    SCALARS, lambda inner: st.tuples(inner, inner) | st.frozensets(inner), max_leaves=4
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.sets(HASHABLE)
        | st.dictionaries(HASHABLE, inner)
    ),
    max_leaves=12,
)


def same(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return a == b and all(same(a[key], b[key]) for key in a)
    return bool(a == b)


@settings(max_examples=60, deadline=None)
@given(VALUES)
def test_values_come_back_with_their_types(value: Any) -> None:
    assert same(through(value), value)


@pytest.mark.parametrize(
    "value",
    [
        10**400, -(10**30), 1 << 53, math.inf, -0.0, "\ud800", b"\0", bytearray(b"x"),
        range(3, 9, 2),
        collections.Counter("aab"), collections.OrderedDict(a=1), collections.deque([1, 2]),
        {1: {2: [3]}}, {(1, 2): {3}}, ..., NotImplemented, True, fractions.Fraction(1, 3),
        decimal.Decimal("1.10"), datetime.date(2024, 2, 29), datetime.timedelta(days=-1),
    ],
)  # fmt: skip
def test_odd_values(value: Any) -> None:
    assert type(through(value)) is type(value)
    assert through(value) == value
    assert repr(through(value)) == repr(value)


class Point(NamedTuple):
    x: int
    y: int


class Color(enum.IntEnum):
    RED = 1


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Point(1, 2), (1, 2)), (Color.RED, 1), (collections.defaultdict(int, a=1), {"a": 1}),
        (type("T", (str,), {})("x"), "x"), (type("L", (list,), {})([1]), [1]),
    ],
)  # fmt: skip
def test_subclasses_become_what_they_are_made_of(value: Any, plain: Any) -> None:
    assert through(value) == plain
    assert type(through(value)) is type(plain)


def test_not_a_number() -> None:
    assert math.isnan(through(math.nan))


def test_what_is_no_plain_data_goes_to_the_handle() -> None:
    assert encode([object()], lambda _: ["o", 1, "object"]) == ["l", [["o", 1, "object"]]]
    deep: list[Any] = []
    for _ in range(500):
        deep = [deep]
    with pytest.raises(NotPlain):
        encode(deep, refuse)


@pytest.mark.parametrize(
    "text",
    [
        [], {}, 1.5, ["l"], ["l", 5], ["l", [{}]], ["d", [[1]]], ["d", [[["l", []], 1]]],
        ["s", [["l", []]]], ["i", "x"], ["i"], ["f", 5], ["f", "x"], ["x", "1"], ["b", "zz"],
        ["F", "0x1", "0x0"], ["D", "x"], ["date", "x"], ["delta", "x", 0, 0], ["r", "1", "2", "0"],
        ["name", "check"], ["unknown"], [5], ["l", [], []][:1], ["t", [["os.system", "x"]]],
    ],
)  # fmt: skip
def test_anything_else_is_refused(text: Any) -> None:
    with pytest.raises(NotPlain):
        decode(text, refuse)
