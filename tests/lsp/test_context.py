"""Prompts are packed to an exact budget of tokens, and stay the same while one types."""

from __future__ import annotations

import itertools
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama import checkpoint
from codellama.checkpoint.hub import resolve
from codellama.lsp.context import Piece, RememberedCounter, pack
from codellama.lsp.model import LocalCounter
from codellama.text.infill import infill_ids
from codellama.text.tokenizer import Tokenizer
from fakes import ByteTokenizer

BYTES = LocalCounter(cast(Tokenizer, ByteTokenizer()))
LINES = "".join(f"line {i} = {i * i}\n" for i in range(400))


@given(
    st.text("ab \n", max_size=300), st.text("ab \n", max_size=300),
    st.lists(st.text("xy\n", min_size=1, max_size=60), max_size=3), st.integers(4, 400),
)  # fmt: skip
def test_no_prompt_is_longer_than_its_budget(
    prefix: str, suffix: str, texts: list[str], budget: int
) -> None:
    pieces = [Piece(name=f"{i}.py", text=text) for i, text in enumerate(texts)]
    packed = pack(prefix, suffix, pieces, BYTES, budget=budget)
    tokenizer = cast(Tokenizer, ByteTokenizer())
    assert packed.n_tokens == len(infill_ids(tokenizer, packed.prefix, packed.suffix)) <= budget
    assert packed.prefix.endswith(prefix[packed.start :])
    assert suffix.startswith(packed.suffix)


def test_tokens_are_counted_as_the_real_prompt_has_them() -> None:
    tokenizer = checkpoint.open(resolve("nano")).tokenizer()
    counter = RememberedCounter(LocalCounter(tokenizer))
    pieces = [Piece(name="other.py", text="def other():\n    return 1\n")]
    for budget in (64, 100, 333, 20000):
        packed = pack(LINES + "x = ", ")\n" + LINES, pieces, counter, budget=budget)
        ids = infill_ids(tokenizer, packed.prefix, packed.suffix)
        assert packed.n_tokens == len(ids) <= budget
        assert packed.prefix.endswith("x = ")
    assert packed.prefix == "# other.py\ndef other():\n    return 1\n\n" + LINES + "x = "


def test_what_fits_is_taken_whole() -> None:
    packed = pack("a = 1\n", "b = 2\n", [], BYTES, budget=100)
    assert (packed.prefix, packed.suffix, packed.start) == ("a = 1\n", "b = 2\n", 0)


def test_what_is_far_from_the_cursor_goes_in_whole_lines() -> None:
    packed = pack(LINES, LINES, [], BYTES, budget=400)
    assert packed.prefix.startswith("line ")
    assert packed.suffix.endswith("\n")
    assert len(packed.suffix) <= 100  # a quarter
    assert packed.n_tokens > 250


def test_a_short_suffix_leaves_its_room_to_the_prefix() -> None:
    short = pack(LINES, "", [], BYTES, budget=400)
    assert len(short.prefix) > len(pack(LINES, LINES, [], BYTES, budget=400).prefix)


def test_the_most_important_pieces_stay_and_stand_nearest() -> None:
    pieces = [Piece(name=name, text=name * 20) for name in ("first", "second", "third")]
    packed = pack("x = 1\n", "", pieces, BYTES, budget=2000, comment="//")
    assert packed.prefix.index("// third") < packed.prefix.index("// first")
    few = pack(LINES, "", pieces, BYTES, budget=700)
    assert [piece.name for piece in few.pieces] == ["first"]


def test_typing_keeps_the_beginning_of_the_prompt() -> None:
    """So that a server finds the last prompt in its cache."""
    starts = []
    packed = None
    typed = LINES
    for key in "result = compute(alpha, beta)\n" * 4:
        typed += key
        packed = pack(typed, "\n", [], BYTES, budget=600, previous=packed)
        assert packed.n_tokens <= 600
        starts.append(packed.start)
    assert len(list(itertools.groupby(starts))) <= 2


def test_a_window_that_no_longer_begins_a_line_moves() -> None:
    packed = pack(LINES, "", [], BYTES, budget=300)
    moved = pack("x" + LINES, "", [], BYTES, budget=300, previous=packed)
    assert ("x" + LINES)[moved.start - 1] == "\n"


def test_a_line_longer_than_the_budget_is_cut_within() -> None:
    packed = pack("x" * 1000, "y" * 1000, [], BYTES, budget=64)
    assert packed.n_tokens <= 64
    assert set(packed.prefix) == {"x"}
    assert set(packed.suffix) == {"y"}


def test_a_budget_without_room_for_the_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="no room for the 4 marks"):
        pack("", "", [], BYTES, budget=3)
