"""Look-up against a search by hand, and in constant time."""

from __future__ import annotations

import random
from array import array
from types import SimpleNamespace
from typing import Any

import pytest

from codellama.engine.lookup import PromptLookup


def line(tokens: list[int], request_id: int = 0) -> Any:
    """What look-up sees of a sequence."""
    return SimpleNamespace(request_id=request_id, tokens=array("i", tokens))


def guess(lookup: PromptLookup, sequence: Any, n: int) -> list[int]:
    """Up to `n` guesses; none where there is no place to guess from."""
    if not lookup.odds(sequence):
        return []
    return list(lookup.propose([(sequence, n)])[0])


def longest(tokens: list[int], most: int = 32) -> int:
    """The longest agreement of the end with the latest four places of its last two tokens."""
    places = [i for i in range(2, len(tokens)) if tokens[i - 2 : i] == tokens[-2:]][-4:]
    best = 0
    for place in places:
        n = 2
        while n < most and n < place and tokens[place - n - 1] == tokens[-n - 1]:
            n += 1
        best = max(best, n)
    return best


def test_it_goes_on_as_it_did_before() -> None:
    assert guess(PromptLookup(), line([1, 2, 3, 4, 5, 1, 2]), 3) == [3, 4, 5]
    assert guess(PromptLookup(), line([7, 2, 3, 9, 8, 2, 3, 5, 6, 8, 2, 3]), 2) == [5, 6]


def test_the_longest_agreement_is_followed_and_the_latest_of_equals() -> None:
    far, near = [1, 2, 3, 4, 50, 51], [9, 3, 4, 60, 61]
    assert guess(PromptLookup(), line([*far, *near, 1, 2, 3, 4]), 2) == [50, 51]
    assert guess(PromptLookup(), line([*far, *near, 8, 3, 4]), 2) == [60, 61]


def test_a_guess_may_run_into_itself() -> None:
    assert guess(PromptLookup(), line([5, 6, 7, 6, 7]), 7) == [6, 7, 6, 7, 6, 7, 6]
    assert guess(PromptLookup(), line([3, 3, 3]), 4) == [3, 3, 3, 3]


@pytest.mark.parametrize("tokens", [[], [1], [1, 1], [1, 2], [1, 2, 3]])
def test_short_texts_have_nothing_to_say(tokens: list[int]) -> None:
    lookup, sequence = PromptLookup(), line(tokens)
    assert lookup.odds(sequence) == 0
    sequence.tokens.extend([1, 2, 9, 1, 2])
    assert guess(lookup, sequence, 1) == [9]


@pytest.mark.parametrize("seed", range(30))
def test_what_is_followed_agrees_with_the_end(seed: int) -> None:
    chance = random.Random(seed)
    n_letters = chance.choice([2, 3, 10, 40])
    tokens = chance.choices(range(n_letters), k=chance.randint(0, 60))
    lookup, sequence = PromptLookup(), line(tokens)
    was_right = False
    for _ in range(80):
        guessed = guess(lookup, sequence, 1)
        so_far = sequence.tokens.tolist()
        if guessed and not was_right:
            # A fresh search: some place with the longest agreement goes on like this.
            n = longest(so_far)
            ends = [
                i for i in range(n, len(so_far))
                if so_far[i - n : i] == so_far[len(so_far) - n :] and so_far[i] == guessed[0]
            ]  # fmt: skip
            assert ends
        elif not guessed:
            assert longest(so_far) == 0
        # Half of the time the text does as it was told, so that places are followed for long.
        follows = guessed and chance.random() < 0.5
        sequence.tokens.append(guessed[0] if follows else chance.randrange(n_letters))
        was_right = bool(guessed) and sequence.tokens[-1] == guessed[0]


def test_odds_follow_what_happens() -> None:
    part = list(range(100, 160))
    lookup, sequence = PromptLookup(), line([*part, 1, *part[:2]])
    odds = [lookup.odds(sequence)]
    for token in part[2:40]:
        sequence.tokens.append(token)
        odds.append(lookup.odds(sequence))
    assert odds[0] < 0.5 < 0.95 < odds[-1]
    chance = random.Random(1)
    noise = line(chance.choices(range(3), k=400), request_id=1)
    in_noise = []
    for _ in range(300):
        noise.tokens.append(chance.randrange(3))
        in_noise.append(lookup.odds(noise))
    assert sum(in_noise[100:]) / 200 < 0.5


def test_sequences_are_kept_apart_and_forgotten() -> None:
    lookup = PromptLookup()
    first, second = line([1, 2, 3, 1, 2], 1), line([1, 2, 4, 1, 2], 2)
    assert guess(lookup, first, 1) == [3]
    assert guess(lookup, second, 1) == [4]
    lookup.forget(first)
    assert guess(lookup, line([1, 2, 5, 1, 2], 1), 1) == [5]
    lookup.forget(first)
    lookup.forget(first)


class Counting(array):  # type: ignore[type-arg]
    """Counts how often single tokens are looked at."""

    n = 0

    def __getitem__(self, index: Any) -> Any:
        Counting.n += 1
        return super().__getitem__(index)


@pytest.mark.parametrize("n_letters", [1, 2, 30, 5000])
@pytest.mark.parametrize("n_prompt", [100, 100_000])
def test_a_token_costs_the_same_in_any_context(n_prompt: int, n_letters: int) -> None:
    chance = random.Random(n_letters)
    tokens = Counting("i", chance.choices(range(n_letters), k=n_prompt))
    lookup, sequence = PromptLookup(), SimpleNamespace(request_id=0, tokens=tokens)
    lookup.odds(sequence)  # type: ignore[arg-type]
    Counting.n = 0
    for _ in range(500):
        tokens.append(chance.randrange(n_letters))
        lookup.odds(sequence)  # type: ignore[arg-type]
    assert Counting.n <= 500 * (4 * 2 * 31 + 6)
