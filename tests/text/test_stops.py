"""Stop strings end a stream, are never partly shown, and hold back no more than they must."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama.errors import RequestError
from codellama.text.stops import StopFilter

STOPS = st.lists(st.text("ab\n", min_size=1, max_size=6), max_size=5)
PIECES = st.lists(st.text("ab\n", max_size=5), max_size=12)


def cut(text: str, stops: list[str]) -> tuple[str, str | None]:
    """The rule itself: the stop string that ends first, and of those the longest."""
    for end in range(1, len(text) + 1):
        hits = [stop for stop in stops if text[:end].endswith(stop)]
        if hits:
            longest = max(hits, key=len)
            return text[: end - len(longest)], longest
    return text, None


def test_every_short_text_with_every_short_stop() -> None:
    """Stops that overlap themselves and each other, which random ones seldom do."""
    words = ["".join(word) for n in range(1, 5) for word in itertools.product("ab", repeat=n)]
    pool = ["".join(word) for word in itertools.product("ab", repeat=8)]
    for stops in [*([word] for word in words), *zip(words, words[::-1], strict=True)]:
        for text in pool:
            stop_filter = StopFilter(stops)
            shown = "".join(map(stop_filter.push, text)) + stop_filter.finish()
            assert (shown, stop_filter.hit) == cut(text, list(stops))


@given(STOPS, PIECES)
def test_shown_text_is_the_text_before_the_stop(stops: list[str], pieces: list[str]) -> None:
    stop_filter = StopFilter(stops)
    shown = "".join(map(stop_filter.push, pieces)) + stop_filter.finish()
    text, hit = cut("".join(pieces), stops)
    assert (shown, stop_filter.hit) == (text, hit)
    assert stop_filter.stopped == (hit is not None)


@given(STOPS, PIECES)
def test_held_back_is_exactly_what_may_begin_a_stop(stops: list[str], pieces: list[str]) -> None:
    stop_filter = StopFilter(stops)
    seen = shown = ""
    for piece in pieces:
        shown += stop_filter.push(piece)
        seen += piece
        if stop_filter.stopped:
            break
        held = seen[len(shown) :]
        assert seen.startswith(shown)
        begun = [stop[:n] for stop in stops for n in range(len(stop)) if seen.endswith(stop[:n])]
        assert held == max(begun, key=len, default="")


def test_nothing_comes_after_a_stop() -> None:
    stop_filter = StopFilter(["END"])
    assert stop_filter.push("a EN") == "a "
    assert stop_filter.push("D b") == ""
    assert stop_filter.hit == "END"
    assert stop_filter.push("more") == stop_filter.finish() == ""


def test_without_stops_everything_passes_at_once() -> None:
    stop_filter = StopFilter([])
    assert stop_filter.push("abc") == "abc"
    assert stop_filter.finish() == ""


def test_an_empty_stop_is_refused() -> None:
    with pytest.raises(RequestError, match="empty"):
        StopFilter(["a", ""])


def test_many_long_stops_cost_little_per_character() -> None:
    """32 stops of 256 characters that nearly match all the time: linear, or this never ends."""
    stop_filter = StopFilter(["a" * (224 + n) + "b" for n in range(32)])
    shown = "".join(stop_filter.push("a") for _ in range(20_000)) + stop_filter.finish()
    assert shown == "a" * 20_000
