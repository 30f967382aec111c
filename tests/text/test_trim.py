"""What is far from the hole is left out, at line starts, and never more than needed."""

from __future__ import annotations

from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codellama.errors import ContextTooLong
from codellama.text.trim import Trimmed, room_for_prompt, trim


class CharTokenizer:
    """One id per character."""

    def encode(self, text: str, *, allow_control: bool) -> list[int]:
        return [ord(char) for char in text]

    encode_bare = encode


def fit(prefix: str, suffix: str, room: int, *, may_drop: bool = True) -> Trimmed:
    tokenizer = cast(Any, CharTokenizer())
    return trim((prefix, suffix), tokenizer, room, allow_control=False, may_drop=may_drop)


text = st.text(st.sampled_from("ab\n"), max_size=60)


@settings(deadline=None)
@given(text, text, st.integers(0, 130))
def test_what_stays_fits_and_touches_the_hole(prefix: str, suffix: str, room: int) -> None:
    found = fit(prefix, suffix, room)
    assert len(found.prefix) + len(found.suffix) <= room
    assert prefix.endswith(found.prefix)
    assert suffix.startswith(found.suffix)
    assert found.prefix_dropped == len(prefix) - len(found.prefix)
    assert found.suffix_dropped == len(suffix) - len(found.suffix)
    assert (found.n_dropped == 0) == (len(prefix) + len(suffix) <= room)


@settings(deadline=None)
@given(text, text, st.integers(10, 130))
def test_cuts_are_at_line_starts(prefix: str, suffix: str, room: int) -> None:
    lines = [line for line in (prefix + suffix).split("\n") if len(line) > 2]
    if lines:
        return  # a line may be longer than its share of the room
    found = fit(prefix, suffix, room)
    kept_from = len(prefix) - len(found.prefix)
    assert kept_from in (0, len(prefix)) or prefix[kept_from - 1] == "\n"
    assert len(found.suffix) in (0, len(suffix)) or found.suffix.endswith("\n")


def test_the_suffix_gets_a_quarter_and_what_the_prefix_leaves() -> None:
    both = fit("p\n" * 100, "s\n" * 100, 40)
    assert (len(both.prefix), len(both.suffix)) == (30, 10)
    small_prefix = fit("p\n" * 5, "s\n" * 100, 40)
    assert (len(small_prefix.prefix), len(small_prefix.suffix)) == (10, 30)
    small_suffix = fit("p\n" * 100, "s\n" * 2, 40)
    assert (len(small_suffix.prefix), len(small_suffix.suffix)) == (36, 4)


def test_one_long_line_is_cut_within() -> None:
    found = fit("x" * 100 + "y", "", 10)
    assert found.prefix == "x" * 9 + "y"
    assert fit("", "y" + "x" * 100, 10).suffix == "y" + "x" * 9


def test_lines_far_longer_than_the_room() -> None:
    assert fit("p" * 10_000 + "\n" + "q" * 5, "", 10).prefix == "q" * 5
    assert fit("", "s" * 5 + "\n" + "t" * 10_000, 10).suffix == "s" * 5 + "\n"
    assert fit("p" * 10_000, "s" * 10_000, 8) == Trimmed(
        prefix="p" * 6, suffix="s" * 2, prefix_dropped=9_994, suffix_dropped=9_998
    )


def test_without_leave_to_drop_it_is_an_error() -> None:
    with pytest.raises(ContextTooLong, match="has 101 tokens, and beside the answer there is room"):
        fit("p" * 101, "", 100, may_drop=False)
    assert fit("p" * 100, "", 100, may_drop=False).n_dropped == 0


@pytest.mark.parametrize(
    ("context", "max_tokens", "room"),
    [(4096, 256, 3836), (4096, None, 3836), (256, 256, 124), (256, 1000, 124), (4, 1, 0)],
)
def test_the_answer_gets_its_due_but_at_most_half(
    context: int, max_tokens: int | None, room: int
) -> None:
    assert room_for_prompt(context, max_tokens) == room
