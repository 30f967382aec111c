"""Who runs next: small cases worked out by hand. The simulation has the large ones."""

from __future__ import annotations

from typing import Any

import pytest

from codellama import SamplingParams
from codellama.engine.blocks import BlockPool, Content
from codellama.engine.reply import Reply
from codellama.engine.scheduler import Scheduler
from codellama.engine.sequence import Draw, Failure, Sequence
from fakes import ByteTokenizer

with_asserts = pytest.mark.skipif(not __debug__, reason="python -O drops asserts")


class Table:
    """A scheduler of small sizes, and sequences named by letters."""

    def __init__(self, n_blocks: int = 100, **options: Any) -> None:
        self.pool = BlockPool(n_blocks, 4)
        sizes: dict[str, Any] = {"max_running": 8, "step_tokens": 10} | options
        self.scheduler = Scheduler(self.pool, **sizes)
        self.sequences: dict[str, Sequence] = {}

    def add(self, name: str, n_prompt: int, n_new: int = 10, *, first: int | None = None) -> None:
        # Unless told otherwise, prompts differ from their first token on.
        start = 100 + 10 * len(self.sequences) if first is None else first
        self.sequences[name] = Sequence(
            request_id=len(self.sequences), prompt_ids=range(start, start + n_prompt),
            stop_ids=frozenset(), params=SamplingParams(), seed=0, max_len=n_prompt + n_new,
            scope=Content.root(b""),
            reply=Reply(ByteTokenizer().stream_decoder(bare=True), (), with_logprobs=False),
        )  # fmt: skip
        self.scheduler.add(self.sequences[name])

    def step(self) -> dict[str, int]:
        """Runs a step; says how many tokens of whom it computed."""
        names = {id(sequence): name for name, sequence in self.sequences.items()}
        work = self.scheduler.schedule()
        shares = {names[id(item.sequence)]: item.n_tokens for item in work}
        self.scheduler.advance(work, [[Draw(5, 0.0)] if item.draws else [] for item in work])
        return shares


def test_long_prompts_are_read_in_chunks_of_what_is_left() -> None:
    table = Table()
    table.add("a", 3)
    table.add("b", 25)
    table.add("c", 2)
    assert table.step() == {"a": 3, "b": 7}
    assert table.step() == {"a": 1, "b": 9}
    assert table.step() == {"a": 1, "b": 9}  # and with that b can draw
    assert table.step() == {"a": 1, "b": 1, "c": 2}
    assert table.step() == {"a": 1, "b": 1, "c": 1}


def test_no_more_run_than_may() -> None:
    table = Table(max_running=2)
    for name in "abc":
        table.add(name, 2, n_new=2)
    assert table.step() == {"a": 2, "b": 2}
    assert table.step() == {"a": 1, "b": 1}
    assert table.step() == {"c": 2}


def test_the_youngest_gives_way_and_comes_back_first() -> None:
    table = Table(n_blocks=5, share_prefixes=False)
    table.add("a", 4, n_new=9)  # needs a new block in its second step, and one in its sixth
    table.add("b", 7, n_new=5)
    table.add("c", 3, n_new=2)
    assert table.step() == {"a": 4, "b": 6}
    assert table.step() == {"a": 1, "b": 1}
    assert [table.step() for _ in range(2)] == [{"a": 1, "b": 1}] * 2
    a, b, c = (table.sequences[name] for name in "abc")
    assert (len(a.blocks), len(b.blocks), table.pool.n_free) == (2, 3, 0)
    table.step()
    assert table.step() == {"a": 1}  # it took the block that b had to give
    assert (b.n_preempted, b.n_cached, b.blocks) == (1, 0, [])
    assert list(table.scheduler.waiting) == [b, c]
    shares = [table.step() for _ in range(4)]
    assert shares[-1] == {"b": 10}, "all of b's tokens are computed again once a has ended"
    assert a.finish_reason == "length"


def test_a_newcomer_leaves_the_others_a_block_to_grow_into() -> None:
    table = Table(n_blocks=4)
    table.add("a", 7, n_new=6)
    table.step()
    table.add("b", 8, n_new=1)
    while table.scheduler.has_work:
        table.step()
    assert [s.n_preempted for s in table.sequences.values()] == [0, 0]


def test_a_prompt_being_read_is_waited_for_and_shared() -> None:
    table = Table()
    table.add("a", 21, first=100)
    table.add("b", 21, first=100)
    table.add("c", 3)
    assert [table.step() for _ in range(2)] == [{"a": 10}, {"a": 10}]
    assert table.step() == {"a": 1, "b": 1, "c": 3}
    a, b = table.sequences["a"], table.sequences["b"]
    assert a.blocks[:5] == b.blocks[:5]
    assert a.blocks[5] != b.blocks[5]
    assert (a.n_reused, b.n_reused) == (0, 20)


def test_who_waits_for_a_prompt_does_not_wait_when_its_reader_leaves() -> None:
    table = Table()
    table.add("a", 21, first=100)
    table.add("b", 21, first=100)
    table.step()
    table.scheduler.finish(table.sequences["a"], "abort")
    assert table.step() == {"b": 10}
    assert table.sequences["b"].n_reused == 8


def test_without_sharing_nothing_is_waited_for() -> None:
    table = Table(share_prefixes=False)
    table.add("a", 5, first=100)
    table.add("b", 5, first=100)
    assert table.step() == {"a": 5, "b": 5}
    assert table.pool.n_published == 0


def test_the_same_step_can_be_scheduled_again() -> None:
    table = Table()
    table.add("a", 25)
    first = table.scheduler.schedule()
    assert table.scheduler.schedule() == first
    assert table.sequences["a"].n_cached == 0


def test_who_left_between_schedule_and_advance_stays_away() -> None:
    table = Table()
    table.add("a", 3)
    table.add("b", 3)
    work = table.scheduler.schedule()
    table.scheduler.finish(table.sequences["a"], "abort")
    changed = table.scheduler.advance(work, [[Draw(5, 0.0)], [Draw(6, 0.0)]])
    assert changed == [table.sequences["b"]]
    assert table.sequences["a"].n_generated == 0


def test_a_failure_ends_its_own_sequence() -> None:
    table = Table()
    table.add("a", 30)
    work = table.scheduler.schedule()
    table.scheduler.advance(work, [Failure("it broke")])
    a = table.sequences["a"]
    assert (a.finish_reason, a.error) == ("error", "it broke")
    assert table.pool.n_free == table.pool.n_blocks
    assert not table.scheduler.has_work


@with_asserts
def test_nobody_ends_twice() -> None:
    table = Table()
    table.add("a", 3)
    table.scheduler.finish(table.sequences["a"], "abort")
    with pytest.raises(AssertionError, match="ended twice"):
        table.scheduler.finish(table.sequences["a"], "abort")


@with_asserts
def test_what_can_never_fit_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(AssertionError, match="can never fit"):
        Table(n_blocks=2).add("a", 5, n_new=4)
