"""Infilling prompts in text form: what editors send, whole and cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama.text.infill_text import InfillText, find_infill

MARKS = ("<PRE>", "<SUF>", "<MID>")
plain = st.text(max_size=40).filter(lambda text: not any(mark in text for mark in MARKS))


@given(plain, plain, st.sampled_from(["", " ", "<s>", "<s> "]))
def test_what_was_put_in_comes_out(prefix: str, suffix: str, before: str) -> None:
    text = f"{before}<PRE> {prefix} <SUF>{suffix} <MID>"
    assert find_infill(text) == InfillText(prefix=prefix, suffix=suffix)


@given(plain, plain, st.data())
def test_a_prompt_cut_from_the_left_still_infills(
    prefix: str, suffix: str, data: st.DataObject
) -> None:
    """Wherever the cut falls before ` <SUF>`, the suffix is whole and the prefix ends as it did."""
    text = f"<PRE> {prefix} <SUF>{suffix} <MID>"
    cut = data.draw(st.integers(1, len("<PRE> ") + len(prefix)))
    found = find_infill(text[cut:])
    assert found is not None
    assert found.is_cut
    assert found.suffix == suffix
    assert prefix.endswith(found.prefix) or cut < len("<PRE> ")
    if cut <= len("<PR"):  # enough of the mark is left to tell it from text
        assert found.prefix == prefix


@given(plain, plain)
def test_suffix_first(prefix: str, suffix: str) -> None:
    found = find_infill(f"<PRE> <SUF>{suffix} <MID> {prefix}")
    assert found == InfillText(prefix=prefix, suffix=suffix)


def test_texts_that_spell_the_mark_themselves() -> None:
    found = find_infill("<PRE> a <SUF>b <SUF>c <MID>")
    assert found == InfillText(prefix="a <SUF>b", suffix="c", n_suffix_marks=2)
    assert find_infill("a <SUF>b <SUF>c <MID>") is None  # cut, and nobody can tell where


@pytest.mark.parametrize(
    "text",
    ["", "def f():", "<PRE> a", "<PRE> a <SUF>b", "a <MID>", "<PRE> a <MID>", "a <SUF>b <MID> ",
     "<PRE>a<SUF>b<MID>", "x = '<SUF>' + b"],
)  # fmt: skip
def test_other_texts_are_left_alone(text: str) -> None:
    assert find_infill(text) is None
