"""When guessing pays: by hand, and at worst."""

from __future__ import annotations

import random
from typing import Any

import pytest

from codellama import SamplingParams
from codellama.engine.blocks import BlockPool, Content
from codellama.engine.draft import Speculation, n_worthwhile
from codellama.engine.reply import Reply
from codellama.engine.scheduler import Scheduler, Work
from codellama.engine.sequence import Draw, Sequence
from fakes import ByteTokenizer


class Guesser:
    """Guesses one token again and again, and is as sure of it as it is told to be."""

    def __init__(self, odds: float = 0.9, *, cost: float = 0.0, token: int = 9) -> None:
        self.cost, self._odds, self._token = cost, odds, token
        self.asked: list[int] = []
        self.forgotten: list[int] = []
        self.is_ill = False

    def odds(self, sequence: Sequence) -> float:
        return self._odds

    def propose(self, wanted: list[tuple[Sequence, int]]) -> list[tuple[int, ...]]:
        self.asked += [sequence.request_id for sequence, _ in wanted]
        if self.is_ill:
            raise RuntimeError("ill")
        return [(self._token,) * n for _, n in wanted]

    def forget(self, sequence: Sequence) -> None:
        self.forgotten.append(sequence.request_id)


def sequence(request_id: int = 0, n_prompt: int = 3, n_new: int = 1000) -> Sequence:
    return Sequence(
        request_id=request_id, prompt_ids=range(100, 100 + n_prompt), stop_ids=frozenset(),
        params=SamplingParams(), seed=0, max_len=n_prompt + n_new, scope=Content.root(b""),
        reply=Reply(ByteTokenizer().stream_decoder(bare=True), (), with_logprobs=False),
    )  # fmt: skip


class Run:
    """A scheduler with speculation, whose sequences say `token` for ever."""

    def __init__(self, guesser: Guesser, n: int = 1, *, token: int = 9, **options: Any) -> None:
        sizes: dict[str, Any] = {"max_running": 64, "step_tokens": 512} | options
        n_most, row_cost = sizes.pop("n_most", 15), sizes.pop("row_cost", 0.1)
        self.pool = BlockPool(sizes.pop("n_blocks", 1000), 4)
        self.scheduler = Scheduler(self.pool, **sizes)
        self.speculation = Speculation([guesser], n_most=n_most, row_cost=row_cost)
        self.sequences = [sequence(i) for i in range(n)]
        for each in self.sequences:
            self.scheduler.add(each)
        self.token = token
        self.budget = sizes["step_tokens"]

    def step(self) -> list[Work]:
        work = self.scheduler.schedule()
        budget = self.budget - sum(item.n_tokens for item in work)
        work = self.speculation.extend(work, budget, self.scheduler.lend)
        results = []
        for item in work:
            n_right = 0
            while n_right < len(item.draft) and item.draft[n_right] == self.token:
                n_right += 1
            results.append([Draw(self.token, 0.0)] * (n_right + 1))
        self.scheduler.advance(work, results)
        return work


def test_the_number_of_guesses_is_the_best_one() -> None:
    for odds in (0.05, 0.3, 0.5, 0.7, 0.9, 0.99, 1.0):
        for price in (0.01, 0.1, 0.35, 0.8, 1.5):
            rates = [
                sum(odds**i for i in range(n + 1)) / (1 + n * price) for n in range(16)
            ]  # fmt: skip
            n = n_worthwhile(odds, price, 15)
            assert rates[n] == pytest.approx(max(rates))
            assert n_worthwhile(odds, price, 2) == min(n, 2)
    assert n_worthwhile(1.0, 0.5, 0) == 0


def test_right_guesses_are_made_in_full() -> None:
    run = Run(Guesser(0.99))
    drafts = [len(run.step()[0].draft) for _ in range(8)]
    assert drafts[0] == 0, "a prompt being read is not guessed behind"
    assert drafts[-1] == 15
    assert drafts == sorted(drafts)
    first = run.sequences[0]
    assert first.n_accepted == first.n_drafted == sum(drafts)
    assert first.n_cached == len(first.tokens) - 1 == 3 + 8 + sum(drafts) - 1
    assert len(first.blocks) == run.pool.n_needed(len(first.tokens))


@pytest.mark.parametrize("row_cost", [0.05, 0.35, 0.8])
def test_wrong_guesses_cost_one_percent_however_sure_they_are(row_cost: float) -> None:
    run = Run(Guesser(1.0), token=5, row_cost=row_cost)
    n_steps = 900
    for _ in range(n_steps):
        run.step()
    first = run.sequences[0]
    assert first.n_generated == n_steps
    assert first.n_drafted * row_cost <= 0.5 + 0.01 * n_steps
    assert first.n_drafted * row_cost > 0.005 * n_steps, "it is tried again now and then"


def test_a_text_that_stops_repeating_costs_no_more_than_it_won() -> None:
    run = Run(Guesser(0.99), row_cost=0.35)
    for _ in range(10):
        run.step()
    run.token = 5
    before = run.sequences[0].n_drafted
    for _ in range(200):
        run.step()
    assert (run.sequences[0].n_drafted - before) * 0.35 <= 8 + 0.01 * 200 + 0.35


def test_the_more_sequences_the_fewer_guesses() -> None:
    made = []
    for n in (1, 4, 16):
        run = Run(Guesser(0.8), n, row_cost=0.2)
        for _ in range(30):
            run.step()
        made.append(max(len(item.draft) for item in run.step()))
    assert made[0] > made[1] > made[2]


def test_what_a_drafter_costs_is_counted() -> None:
    run = Run(Guesser(0.8, cost=0.9), row_cost=0.2)
    assert not any(item.draft for _ in range(30) for item in run.step())


def test_the_budget_and_the_end_of_a_sequence_are_kept() -> None:
    run = Run(Guesser(0.99), 3, max_running=3, step_tokens=9)
    assert all(sum(item.n_tokens + len(item.draft) for item in run.step()) <= 9 for _ in range(30))
    run = Run(Guesser(0.99))
    run.sequences[0].max_len = 3 + 20
    while run.scheduler.has_work:
        run.step()
    first = run.sequences[0]
    assert (first.n_generated, first.n_accepted) == (20, first.n_drafted), (
        "one too many was guessed"
    )
    assert run.pool.n_free == run.pool.n_blocks


def test_blocks_are_lent_only_where_nobody_needs_them() -> None:
    pool = BlockPool(6, 4)
    scheduler = Scheduler(pool, max_running=2, step_tokens=100)
    for i in range(2):
        scheduler.add(sequence(i, n_prompt=4, n_new=8))
    scheduler.advance(scheduler.schedule(), [[Draw(5, 0.0)], [Draw(6, 0.0)]])
    work = scheduler.schedule()
    first, second = scheduler.running
    assert pool.n_free == 2
    # Both hold a block that is full and one with room for three more; two free ones stay free.
    assert scheduler.lend(first, 2) == 2
    assert scheduler.lend(first, 9) == 3
    assert scheduler.lend(second, 9) == 3
    assert pool.n_free == 2
    scheduler.finish(second, "abort")
    assert scheduler.lend(first, 9) == 9
    assert len(first.blocks) == 4
    scheduler.advance(work, [[Draw(5, 0.0)], [Draw(6, 0.0)]])
    assert len(first.blocks) == 2
    assert pool.n_free == 4


def test_wrong_guesses_are_never_found_by_others() -> None:
    run = Run(Guesser(1.0, token=9), token=5, row_cost=0.001)
    for _ in range(12):
        run.step()
    first = run.sequences[0]
    assert first.n_drafted > 50
    assert run.pool.n_published == (len(first.tokens) - 1) // 4
    published = [run.pool.find(first.chain[:n]) for n in range(1, run.pool.n_published + 1)]
    assert published[-1] == first.blocks[: run.pool.n_published]
    assert [c.tokens for c in first.chain] == [
        first.tokens[i : i + 4].tobytes() for i in range(0, 4 * len(first.chain), 4)
    ]


def test_a_drafter_that_fails_is_not_asked_again_about_the_same() -> None:
    guesser = Guesser(0.99)
    run = Run(guesser, 2)
    run.step()
    guesser.is_ill = True
    assert not any(item.draft for item in run.step())
    guesser.is_ill = False
    assert not any(item.draft for _ in range(5) for item in run.step())
    assert guesser.asked == [0, 1]
    run.scheduler.add(sequence(2))
    run.step()
    assert [bool(item.draft) for item in run.step()] == [False, False, True]


def test_what_has_ended_is_forgotten() -> None:
    guesser = Guesser(0.99)
    run = Run(guesser)
    for _ in range(3):
        run.step()
    run.speculation.forget(run.sequences[0])
    run.speculation.forget(run.sequences[0])
    assert guesser.forgotten == [0, 0]


def test_the_same_texts_are_guessed_alike() -> None:
    def drafts(seed: int) -> list[list[tuple[int, ...]]]:
        run = Run(Guesser(0.9), 3, row_cost=0.5)
        chance = random.Random(seed)
        found = []
        for _ in range(60):
            run.token = chance.choice([9, 9, 9, 5])
            found.append([item.draft for item in run.step()])
        return found

    assert drafts(1) == drafts(1)
    assert drafts(1) != drafts(2)


def test_a_request_can_ask_for_fewer_guesses() -> None:
    run = Run(Guesser(0.99), 3)
    for each, allowed in zip(run.sequences, (0, 2, 64), strict=True):
        each.params = SamplingParams(draft_tokens=allowed)
    most = [0, 0, 0]
    for _ in range(20):
        for item in run.step():
            i = item.sequence.request_id
            most[i] = max(most[i], len(item.draft))
    assert most == [0, 2, 15]
