"""Candidates are ordered by how likely the text after them follows."""

from __future__ import annotations

import pytest

from codellama.lsp.model import tail_score
from codellama.lsp.rank import Candidate, following_text, ranked


def texts(*candidates: Candidate) -> list[str]:
    return [one.text for one in ranked(candidates)]


def test_the_likeliest_suffix_wins() -> None:
    assert texts(
        Candidate(text="a", logprob=-0.1, follows=-1.5), Candidate(text="b", logprob=-2, follows=-1)
    ) == ["b", "a"]


def test_a_candidate_far_behind_is_left_out() -> None:
    assert texts(Candidate(text="a", follows=-1.0), Candidate(text="b", follows=-2.5)) == ["a"]


def test_without_a_score_the_candidate_itself_decides() -> None:
    assert texts(
        Candidate(text="a", logprob=-2), Candidate(text="b", logprob=-1), Candidate(text="c")
    ) == ["b", "a", "c"]


def test_the_same_text_is_one_candidate_with_its_best_score() -> None:
    [one] = ranked([Candidate(text="a", logprob=-3), Candidate(text="a", logprob=-1)])
    assert one.logprob == -1


@pytest.mark.parametrize(
    ("suffix", "expected"),
    [("\n\n  a\n\n  b\n  c\n", "\n\n  a\n\n  b\n"), ("", ""), ("\n \n", ""), (")\n", ")\n"),
     ("x" * 200, "x" * 160)],
)  # fmt: skip
def test_the_first_full_lines_are_scored(suffix: str, expected: str) -> None:
    assert following_text(suffix) == expected


def test_a_score_is_the_mean_of_the_tokens_that_lie_in_the_end() -> None:
    found = {"tokens": ["<s>", "ab", "cd", "ef"], "token_logprobs": [None, -1.0, -2.0, -4.0]}
    assert tail_score(found, 4) == -3.0
    assert tail_score(found, 3) == -4.0  # "cd" is not all of the end's
    assert tail_score(found, 1) is None
    assert tail_score({}, 4) is None
