"""Law 12: an infilled document, rejoined, is the original."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama.errors import ConfigError
from codellama.train.infilling import infilled, split
from fakes import ByteTokenizer

T = ByteTokenizer()
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


def _between(ids: list[int], first: int, last: int) -> list[int]:
    return ids[ids.index(first) + 1 : ids.index(last)]


@given(text=TEXTS, seed=st.integers(0, 10_000))
def test_split_rejoins(text: str, seed: int) -> None:
    assert "".join(split(text, Random(seed))) == text


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
