"""The draft model says what it would say from nothing, whatever became of its last guesses."""

from __future__ import annotations

import random
from array import array
from typing import Any

import pytest

from codellama import SamplingParams
from codellama.engine.blocks import Content
from codellama.engine.draft_model import DraftModel
from codellama.engine.reply import Reply
from codellama.engine.sequence import Sequence
from fakes import ByteTokenizer, ReferenceKernel, ScriptedModel

VOCAB = ByteTokenizer.n_vocab


def sequence(request_id: int, tokens: list[int], **fields: Any) -> Sequence:
    return Sequence(
        request_id=request_id, prompt_ids=tokens, stop_ids=frozenset(), seed=0, max_len=1000,
        params=SamplingParams(**{"temperature": 0.0} | fields), scope=Content.root(b""),
        reply=Reply(ByteTokenizer().stream_decoder(bare=True), (), with_logprobs=False),
    )  # fmt: skip


def drafter(model: ScriptedModel, step_tokens: int = 64) -> DraftModel:
    return DraftModel(model, ReferenceKernel(), VOCAB, cost=0.1, step_tokens=step_tokens)


def fill_chain(made: Sequence, draft: DraftModel) -> None:
    """What the scheduler does for the full blocks of a prompt."""
    size = draft.pool.block_size
    for i in range(len(made.chain), len(made.tokens) // size):
        parent = made.chain[-1] if made.chain else made.scope
        part = array("i", made.tokens[i * size : (i + 1) * size])
        made.chain.append(draft.pool.content(parent, part))


@pytest.mark.parametrize("n_blocks", [14, 200])
@pytest.mark.parametrize("seed", range(10))
def test_guesses_are_those_of_a_fresh_model(seed: int, n_blocks: int) -> None:
    chance = random.Random(seed)
    model = ScriptedModel(n_blocks=n_blocks, block_size=4)
    draft = drafter(model, step_tokens=chance.choice([16, 64]))
    sequences = [
        sequence(i, chance.choices(range(3, 250), k=chance.randint(1, 20))) for i in range(4)
    ]
    n_guessed = 0
    for turn in range(40):
        asked = [s for s in sequences if chance.random() < 0.7]
        for each in asked:
            assert 0 < draft.odds(each) <= 1
        wanted = [(each, chance.randint(1, 5)) for each in asked]
        guesses = draft.propose(wanted) if wanted else []
        for (each, n), guess in zip(wanted, guesses, strict=True):
            n_guessed += len(guess)
            if guess:
                assert list(guess) == model.greedy(each.tokens, n)
            # What follows is the guess, as far as it is right, and something else.
            each.tokens.extend(guess[: chance.randint(0, len(guess))])
            each.tokens.append(chance.randrange(3, 250))
        if chance.random() < 0.2:
            draft.forget(sequences.pop(chance.randrange(len(sequences))))
            start = chance.choices(range(3, 250), k=8)
            sequences.append(sequence(100 + turn, start))
        if chance.random() < 0.5:
            fill_chain(chance.choice(sequences), draft)
    assert n_guessed > (50 if n_blocks == 200 else 5)
    assert all(len(batch.tokens) <= 64 for batch in model.batches)
    for each in sequences:
        draft.forget(each)
    assert draft.pool.n_free == draft.pool.n_blocks


def test_a_prompt_is_read_in_steps_and_once() -> None:
    model = ScriptedModel(n_blocks=100, block_size=4)
    draft = drafter(model, step_tokens=10)
    first, second = (sequence(i, list(range(10, 35))) for i in range(2))
    for each in (first, second):
        fill_chain(each, draft)
    assert [draft.propose([(first, 2)])[0] != () for _ in range(3)] == [False, False, True]
    n_read = sum(len(batch.tokens) for batch in model.batches)
    assert n_read == 25 + 1
    assert draft.propose([(second, 2)]) == [tuple(model.greedy(second.tokens, 2))]
    # The six full blocks before its last token were found.
    assert sum(len(batch.tokens) for batch in model.batches) == n_read + 1 + 1


def test_odds_follow_what_came_true() -> None:
    model = ScriptedModel(n_blocks=100)
    draft = drafter(model)
    right, wrong = sequence(0, [10, 11]), sequence(1, [20, 21])
    for _ in range(10):
        guesses = draft.propose([(right, 3), (wrong, 3)])
        right.tokens.extend([*guesses[0], 5])
        wrong.tokens.append((guesses[1][0] + 1) % 256)
        odds = draft.odds(right), draft.odds(wrong)
    assert odds[0] > 0.9
    assert odds[1] < 0.3
    for _ in range(200):
        again = draft.odds(wrong)
    assert again > 0.6, "it is tried again after a while"


def test_logits_that_are_no_numbers_end_a_guess() -> None:
    model = ScriptedModel(n_blocks=100, nan_on=7)
    draft = drafter(model)
    assert draft.propose([(sequence(0, [5, 7]), 3), (sequence(1, [5, 6]), 3)]) == [
        (), tuple(model.greedy([5, 6], 3))
    ]  # fmt: skip


def test_a_model_that_fails_can_be_asked_again() -> None:
    model = ScriptedModel(n_blocks=100, fail_on=7)
    draft = drafter(model)
    bad, good = sequence(0, [5, 7]), sequence(1, [5, 6])
    with pytest.raises(RuntimeError, match="fire"):
        draft.propose([(bad, 2), (good, 2)])
    assert draft.odds(good) > 0
    assert draft.propose([(good, 2)]) == [tuple(model.greedy(good.tokens, 2))]
    draft.forget(bad)
    draft.forget(good)
    assert draft.pool.n_free == draft.pool.n_blocks
