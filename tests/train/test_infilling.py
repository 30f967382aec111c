"""Law 12: an infilled document, rejoined, is the original."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama.errors import ConfigError
from codellama.train.infilling import infilled, split, split_lines
from fakes import ByteTokenizer

T = ByteTokenizer()
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


def _between(ids: list[int], first: int, last: int) -> list[int]:
    return ids[ids.index(first) + 1 : ids.index(last)]


@given(text=TEXTS, seed=st.integers(0, 10_000))
def test_split_rejoins(text: str, seed: int) -> None:
    assert "".join(split(text, Random(seed))) == text


@given(text=st.text(st.sampled_from("ab \n"), max_size=40), seed=st.integers(0, 10_000))
def test_line_cuts_rejoin_and_end_with_a_line(text: str, seed: int) -> None:
    prefix, middle, suffix = split_lines(text, Random(seed))
    assert prefix + middle + suffix == text
    if text.strip():
        assert suffix == "" or suffix.startswith("\n")


def test_most_line_cuts_hide_one_line_and_half_hide_it_whole() -> None:
    text = "\n".join(f"    line {i}" for i in range(100))
    cuts = [split_lines(text, Random(seed)) for seed in range(3000)]
    single = [c for c in cuts if "\n" not in c[1]]
    assert 0.63 < len(single) / len(cuts) < 0.70
    whole = [c for c in cuts if c[0] == "" or c[0].endswith("\n")]
    assert 0.50 < len(whole) / len(cuts) < 0.60  # a cut within may fall on the start


@given(text=TEXTS, seed=st.integers(0, 10_000))
def test_psm_rejoins(text: str, seed: int) -> None:
    prefix, middle, suffix = split(text, Random(seed))
    ids = infilled(T, prefix, middle, suffix, "psm")
    parts = [
        T.decode(_between(ids, T.prefix_id, T.suffix_id)),
        T.decode_bare(_between(ids, T.middle_id, T.eot_id)),
        T.decode_bare(_between(ids, T.suffix_id, T.middle_id)),
    ]
    assert "".join(parts) == text
    assert (ids[0], ids[-1]) == (T.bos_id, T.eot_id)


@given(text=TEXTS, seed=st.integers(0, 10_000))
def test_spm_rejoins(text: str, seed: int) -> None:
    prefix, middle, suffix = split(text, Random(seed))
    ids = infilled(T, prefix, middle, suffix, "spm")
    assert ids[1:3] == [T.prefix_id, T.suffix_id]
    head = T.decode(_between(ids, T.middle_id, T.eot_id))
    assert head == prefix + middle
    assert head + T.decode_bare(_between(ids, T.suffix_id, T.middle_id)) == text


def test_cuts_are_uniform_over_characters() -> None:
    random, text = Random(3), "x" * 9
    lengths = [len(split(text, random)[1]) for _ in range(20_000)]
    # |a - b| of two uniform draws from 0..9: chance of 0 is 1/10, of d is 2 (10 - d) / 100.
    for d in (0, 1, 5, 9):
        expected = 0.1 if d == 0 else 2 * (10 - d) / 100
        assert lengths.count(d) / 20_000 == pytest.approx(expected, abs=0.012)


def test_a_tokenizer_without_markers_is_refused() -> None:
    class Plain(ByteTokenizer):
        middle_id = None  # type: ignore[assignment]

    with pytest.raises(ConfigError, match="no infilling markers"):
        infilled(Plain(), "a", "b", "c", "psm")
