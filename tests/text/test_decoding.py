"""Streaming: pieces of text joined are the whole text, and no piece is half a character."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from odd_texts import texts
from tokenizers_at_hand import Pair, pair


def streamed(each: Pair, ids: list[int], *, bare: bool) -> list[str]:
    decoder = each.tokenizer.stream_decoder(bare=bare)
    return [*map(decoder.push, ids), decoder.finish()]


@pytest.mark.parametrize("bare", [False, True])
def test_streamed_text_is_the_reference(each: Pair, bare: bool) -> None:
    """Any ids, cut anywhere: bytes that are no character, control ids, a space at the start."""
    choice = random.Random(10)
    whole = each.reference_decode_bare if bare else each.reference.decode
    for text in texts(500, seed=11):
        ids = each.tokenizer.encode(text, bos=choice.random() < 0.3, allow_control=True)
        start, end = sorted((choice.randrange(len(ids) + 1), choice.randrange(len(ids) + 1)))
        ids = ids[start:end]
        if choice.random() < 0.3:
            ids.insert(choice.randrange(len(ids) + 1), choice.choice((0, 1, 2, 3 + 0xF0, 3 + 0x80)))
        assert "".join(streamed(each, ids, bare=bare)) == whole(ids), ids


def test_a_character_appears_when_it_is_whole(each: Pair) -> None:
    ids = [3 + byte for byte in "é😀x".encode()]
    assert streamed(each, ids, bare=True) == ["", "é", "", "", "", "😀", "x", ""]


def test_a_broken_character_appears_when_it_cannot_become_whole(each: Pair) -> None:
    one, two, three, four = (3 + byte for byte in "😀".encode())
    letter = each.tokenizer.encode_bare("x")[0]
    bad = "\ufffd"
    assert streamed(each, [one, two, three], bare=True) == ["", "", "", bad * 3]
    assert streamed(each, [one, two, one, two, three, four], bare=True)[2:] == [
        *(bad * 2, "", "", "😀", ""),
    ]
    assert streamed(each, [one, two, letter], bare=True) == ["", "", bad * 2 + "x", ""]
    assert streamed(each, [one, 2, two], bare=True) == ["", bad, bad, ""]
    assert streamed(each, [two], bare=True) == [bad, ""]


def test_only_the_first_space_is_the_tokenizers_own(each: Pair) -> None:
    tokenizer = each.tokenizer
    hello = tokenizer.encode_bare(" a")[0]
    kept = "" if tokenizer.add_dummy_prefix else " "
    assert streamed(each, [1, -1, hello, hello], bare=False)[2:] == [f"{kept}a", " a", ""]
    assert streamed(each, [1, hello, hello], bare=True)[1:] == [" a", " a", ""]


def test_finish_holds_nothing_back_twice(small: Pair) -> None:
    decoder = small.tokenizer.stream_decoder(bare=True)
    assert decoder.push(3 + 0xC3) == ""
    assert decoder.finish() == "\ufffd"
    assert decoder.finish() == ""


def test_an_id_beyond_the_vocabulary_is_shown_as_such(small: Pair) -> None:
    """A model may embed more ids than its tokenizer names."""
    decoder = small.tokenizer.stream_decoder(bare=True)
    assert decoder.push(small.tokenizer.n_vocab) == "\ufffd"


@given(st.lists(st.integers(0, 700), max_size=12), st.booleans())
@settings(deadline=None)
def test_no_piece_is_half_a_character(ids: list[int], bare: bool) -> None:
    small = pair("small")
    ids = [i % small.tokenizer.n_vocab for i in ids]
    parts = streamed(small, ids, bare=bare)
    for part in parts:
        part.encode()
    assert "".join(parts) == (
        small.tokenizer.decode_bare(ids) if bare else small.tokenizer.decode(ids)
    )
