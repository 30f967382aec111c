"""Prompts for a hole. Ids are in golden/."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama.errors import PromptError
from codellama.text.infill import FILL_ME, infill_ids, split_fill_me
from codellama.text.tokenizer import Tokenizer
from tokenizers_at_hand import Pair


def test_both_orders(infilling: Pair) -> None:
    t = infilling.tokenizer
    before, after = t.encode("def f(x):\n    "), t.encode_bare("\n    return y\n")
    pre, suf, mid = t.prefix_id, t.suffix_id, t.middle_id
    hole = ("def f(x):\n    ", "\n    return y\n")
    assert infill_ids(t, *hole) == [1, pre, *before, suf, *after, mid]
    assert infill_ids(t, *hole, "spm") == [1, pre, suf, *after, mid, *before]
    assert infill_ids(t, "", "") == [1, pre, suf, mid]


def test_prefix_fill_and_suffix_join_to_the_text(infilling: Pair) -> None:
    t = infilling.tokenizer
    text = "def area(r):\n    return 3.14 * r ** 2\n\nprint(area(2))\n"
    for start in range(0, len(text), 3):
        for end in range(start, len(text), 7):
            prefix, middle, suffix = text[:start], text[start:end], text[end:]
            assert t.decode_bare(t.encode_bare(middle)) == middle
            ids = infill_ids(t, prefix, suffix)
            at, stop = ids.index(t.suffix_id), len(ids) - 1
            assert t.decode(ids[2:at]) + middle + t.decode_bare(ids[at + 1 : stop]) == text


def test_needs_markers_and_a_known_order(small: Pair, family: Callable[[str], Pair]) -> None:
    with pytest.raises(PromptError, match="'pms'; expected 'psm' or 'spm'"):
        infill_ids(small.tokenizer, "a", "b", "pms")  # type: ignore[arg-type]
    with pytest.raises(PromptError, match="no infilling markers"):
        infill_ids(family("llama2-32000").tokenizer, "a", "b")


def test_needs_all_four_markers(small: Pair) -> None:
    vocabulary = small.tokenizer.vocabulary()
    pieces = ["▁<END>" if piece == "▁<EOT>" else piece for piece in vocabulary.pieces]
    tokenizer = Tokenizer.from_pieces(
        pieces, vocabulary.scores, vocabulary.types, add_dummy_prefix=True
    )
    assert tokenizer.eot_id is None
    assert not tokenizer.has_infill
    with pytest.raises(PromptError, match="no infilling markers"):
        infill_ids(tokenizer, "a", "b")


@given(st.text(), st.text())
def test_one_mark_splits(prefix: str, suffix: str) -> None:
    if FILL_ME not in prefix + "|" + suffix:
        assert split_fill_me(prefix + FILL_ME + suffix) == (prefix, suffix)


@pytest.mark.parametrize(
    ("text", "n"), [("", 0), ("<fill_me>", 0), (FILL_ME * 2, 2), (f"a{FILL_ME}b{FILL_ME}c", 2)]
)
def test_any_other_number_of_marks_is_refused(text: str, n: int) -> None:
    with pytest.raises(PromptError, match=f"{n} places marked"):
        split_fill_me(text)
