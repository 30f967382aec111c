"""Near duplicates: the signature estimates Jaccard similarity, the look-up finds who is near."""

from __future__ import annotations

import re
from random import Random

import numpy as np

from codellama.train.near import SHINGLE, NearDuplicates


def _words(seed: int, n: int) -> list[str]:
    random = Random(seed)
    return [f"w{random.randrange(400)}" for _ in range(n)]


def _mixed(words: list[str], share: float, seed: int) -> str:
    """`words` with runs replaced, so that similarity falls as `share` rises."""
    random = Random(seed)
    return " ".join(f"x{random.randrange(400)}" if random.random() < share else w for w in words)


def _jaccard(a: str, b: str) -> float:
    """By the definition, over sets."""

    def shingles(text: str) -> set[tuple[str, ...]]:
        tokens = re.findall(r"\w+|[^\w\s]", text)
        return {tuple(tokens[i : i + SHINGLE]) for i in range(len(tokens) - SHINGLE + 1)}

    return len(shingles(a) & shingles(b)) / len(shingles(a) | shingles(b))


def test_agreement_estimates_jaccard() -> None:
    near = NearDuplicates()
    words = _words(0, 600)
    original = near.signature(" ".join(words))
    for i, share in enumerate((0.0, 0.01, 0.03, 0.06, 0.12, 0.5)):
        other = _mixed(words, share, i)
        estimate = float(np.mean(near.signature(other) == original))
        true = _jaccard(" ".join(words), other)
        assert abs(estimate - true) < 0.13, (share, estimate, true)  # 3 standard errors of 128


def test_white_space_does_not_count_and_order_does() -> None:
    near = NearDuplicates()
    words = _words(1, 200)
    near.add("first", near.signature(" ".join(words)))
    assert near.find(near.signature("\n  ".join(words))) == "first"
    assert near.find(near.signature(" ".join(sorted(words)))) is None


def test_near_ones_are_found_and_far_ones_are_not() -> None:
    near = NearDuplicates()
    texts = [_words(i, 300) for i in range(50)]
    for i, words in enumerate(texts):
        near.add(str(i), near.signature(" ".join(words)))
    for i, words in enumerate(texts):
        assert near.find(near.signature(_mixed(words, 0.01, i))) == str(i)
        assert near.find(near.signature(_mixed(words, 0.2, i))) is None


def test_short_and_empty_texts_have_signatures() -> None:
    near = NearDuplicates()
    near.add("short", near.signature("a b"))
    assert near.find(near.signature("a  b")) == "short"
    assert near.find(near.signature("")) is None
