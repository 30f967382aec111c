"""Numbers that replies are judged by."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction


def pass_at_k(n: int, c: int, k: int) -> float:
    """The chance that one of `k` samples passes, from `c` of `n` that did, without bias.

    1 - C(n - c, k) / C(n, k): Chen et al. 2021, "Evaluating Large Language Models Trained on Code",
    equation 1. Exact until the last division.

    Raises:
        ValueError: not 0 <= c <= n and 1 <= k <= n.
    """
    if not 0 <= c <= n or not 1 <= k <= n:
        raise ValueError(f"pass@{k} of {c} in {n} samples is not defined")
    return float(1 - Fraction(math.comb(n - c, k), math.comb(n, k)))


def standard_error(values: Sequence[float]) -> float | None:
    """Of the mean of values drawn independently; None for fewer than two."""
    n = len(values)
    if n < 2:
        return None
    mean = sum(values) / n
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (n - 1) / n)


def exact_match(found: str, expected: str) -> float:
    """1 where the two are the same but for white space around them; where nothing but white space
    is expected, that has to be the same."""
    if not expected.strip():
        return float(found == expected)
    return float(found.strip() == expected.strip())


def edit_similarity(found: str, expected: str) -> float:
    """1 less the Levenshtein distance by the length of the longer, after stripping; 1 for two
    empty texts. As in CodeXGLUE's line completion."""
    a, b = found.strip(), expected.strip()
    longest = max(len(a), len(b))
    return 1 - _distance(a, b) / longest if longest else 1.0


def _distance(a: str, b: str) -> int:
    if len(a) < len(b):
        a, b = b, a
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1]


def sentence_bleu(found: Sequence[str], expected: Sequence[str]) -> float:
    """Smoothed BLEU of up to four words, from 0 to 1.

    Lin and Och 2004, "ORANGE", method 2: one is added to matches and totals of bigrams and longer.
    The brevity penalty takes the lengths plus one, as the scorer of CodeXGLUE's code-to-text does.
    """
    total = 0.0
    for size in range(1, 5):
        theirs, ours = _ngrams(expected, size), _ngrams(found, size)
        matches, most = (theirs & ours).total(), ours.total()
        if size > 1:
            matches, most = matches + 1, most + 1
        if not matches or not most:
            return 0.0
        total += math.log(matches / most)
    shortness = 1 - (len(expected) + 1) / (len(found) + 1)
    return math.exp(total / 4 + min(0.0, shortness))


def words(text: str) -> list[str]:
    """Words and single signs, for BLEU."""
    return re.findall(r"\w+|[^\w\s]", text)


def _ngrams(words: Sequence[str], size: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[i : i + size]) for i in range(len(words) - size + 1))
