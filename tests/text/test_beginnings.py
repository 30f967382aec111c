"""Taking back last tokens, against a search through the whole vocabulary."""

from __future__ import annotations

import random

import pytest

from codellama.checkpoint.hub import resolve
from codellama.text.beginnings import Beginnings
from codellama.text.tokenizer import CONTROL_PIECES, Tokenizer

TEXT = '''import os

def greet(name: str) -> None:
    """Say hello; ¿qué tal, 世界? \N{GRINNING FACE}"""
    for part in name.split("_"):
        if part != "":
            return_value = f"Hello, {part}!"
            print(return_value)
'''


@pytest.fixture(scope="module")
def nano() -> Tokenizer:
    return Tokenizer.open(resolve("nano"))


def raws(tokenizer: Tokenizer) -> dict[int, bytes]:
    """What each id shows that text may be written with."""
    ids = (i for i in range(tokenizer.n_vocab) if tokenizer.piece(i) not in CONTROL_PIECES)
    return {i: raw for i in ids if (raw := tokenizer.token_bytes(i))}


def test_what_stays_and_what_was_begun_are_the_text(nano: Tokenizer) -> None:
    for end in range(len(TEXT) + 1):
        ids = nano.encode(TEXT[:end])
        kept, begun = nano.beginnings.take_back(ids)
        assert kept == ids[: len(kept)]
        assert nano.decode_bare(kept) + begun == nano.decode_bare(ids)


def test_no_token_that_goes_beyond_the_end_could_begin_in_what_stays(nano: Tokenizer) -> None:
    vocabulary = set(raws(nano).values())
    longest = max(map(len, vocabulary))
    chance = random.Random(3)
    for end in chance.sample(range(len(TEXT)), 40):
        ids = nano.encode(TEXT[:end])
        kept, begun = nano.beginnings.take_back(ids)
        whole = b"".join(nano.token_bytes(i) for i in ids)
        n_kept = len(whole) - len(begun.encode())
        open_ends = {
            at
            for at in range(max(0, len(whole) - longest), len(whole))
            if any(one.startswith(whole[at:]) and one != whole[at:] for one in vocabulary)
        }
        assert all(at >= n_kept for at in open_ends)
        if begun:  # and nothing was taken back without need
            first = len(nano.token_bytes(ids[len(kept)]))
            assert any(n_kept <= at < n_kept + first for at in open_ends)


def test_towards_a_text_go_its_beginnings_and_what_begins_with_it(nano: Tokenizer) -> None:
    shown = raws(nano)
    for text in (" ret", "    ", "(", "\n", "é", "self.na", "\N{GRINNING FACE}"):
        raw = text.encode()
        expected = {i for i, one in shown.items() if one.startswith(raw) or raw.startswith(one)}
        assert set(nano.beginnings.towards(raw)) == expected


def test_a_word_in_an_indented_line_takes_the_spaces_with_it() -> None:
    shown = {1: b"   ", 2: b"    ", 3: b" return", 4: b"ret", 5: b"x", 6: b" "}
    made = Beginnings(shown)
    assert made.take_back([5, 2, 4]) == ([5], "    ret")
    assert made.take_back([5, 5]) == ([5, 5], "")
    assert made.take_back([]) == ([], "")


def test_control_ids_are_no_way_to_go_on(nano: Tokenizer) -> None:
    found = {nano.piece(i) for i in nano.beginnings.towards(b" ")}
    assert not found & CONTROL_PIECES
    assert len(found) > 100
