"""Who runs next, with which blocks: queues and counters, nothing else.

Sequences run in the order they came. Those being decoded get one token each in every step, so that
a long prompt never holds them up; what is left of the step's budget reads prompts, in chunks. When
blocks run out, the youngest running sequence gives all of its own back and waits at the front of
the queue to be computed again: its tokens are kept, so nothing of its reply is lost or changed.

The same events in the same order always give the same steps: there is no clock and no chance here.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterable
from collections.abc import Sequence as List
from dataclasses import dataclass

from codellama.engine.batch import Share
from codellama.engine.blocks import BlockPool, Content
from codellama.engine.completion import FinishReason
from codellama.engine.sequence import Draw, Failure, Sequence


@dataclass(frozen=True, slots=True)
class Work:
    """One sequence's part of a step: its next `n_tokens` tokens that are not in the cache yet.

    Behind its last token, `draft` may guess how it goes on. Guesses are computed like tokens, and
    the token after each is drawn, but only those that are drawn as well become part of it.
    """

    sequence: Sequence
    n_tokens: int
    draft: tuple[int, ...] = ()

    @property
    def draws(self) -> bool:
        """Whether the step reaches the sequence's last token, so that the next can be drawn."""
        return self.n_tokens == self.sequence.n_due

    @property
    def share(self) -> Share:
        """What the runner computes of it."""
        first = self.sequence.n_cached
        tokens = self.sequence.tokens[first : first + self.n_tokens]
        tokens.extend(self.draft)
        n_logits = len(self.draft) + 1 if self.draws else 0
        return Share(tokens, first, self.sequence.blocks, n_logits)


# A crowd are so many sequences without a token, and one for so many that are being decoded. A long
# prompt is none.
_CROWD = 4
_PATIENCE = 8


class Scheduler:
    """Chooses each step's work and keeps the books of its blocks.

    Args:
        pool: every block of the cache.
        max_running: sequences computed at the same time, at most.
        step_tokens: tokens in one step, at most; no less than `max_running`.
        prompt_tokens: those of prompts, unless a crowd waits for its first tokens; None: no bound.
        share_prefixes: whether full blocks are found and used again.

    The caller adds only sequences whose `max_len` fits the pool.
    """

    def __init__(
        self,
        pool: BlockPool,
        *,
        max_running: int,
        step_tokens: int,
        prompt_tokens: int | None = None,
        share_prefixes: bool = True,
    ) -> None:
        assert 0 < max_running <= step_tokens, "every running sequence needs a token in each step"
        self._pool = pool
        self._max_running = max_running
        self._step_tokens = step_tokens
        self._prompt_tokens = step_tokens if prompt_tokens is None else prompt_tokens
        self._share_prefixes = share_prefixes
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []  # in the order they came

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.running)

    def add(self, sequence: Sequence) -> None:
        """Puts a sequence at the end of the queue."""
        assert self._pool.n_needed(sequence.max_len) <= self._pool.n_blocks, "it can never fit"
        self.waiting.append(sequence)

    def n_cached(self, tokens: List[int], scope: Content) -> int:
        """How many of the first tokens a new sequence would find in the cache."""
        if not self._share_prefixes:
            return 0
        size, n_full = self._pool.block_size, (len(tokens) - 1) // self._pool.block_size
        ids = array("i", tokens[: n_full * size])
        return size * len(self._pool.find(self._pool.contents(scope, ids)))

    def schedule(self) -> list[Work]:
        """The next step's work. Nothing is counted as computed until `advance` says so."""
        work = self._decode()
        budget = self._step_tokens - len(work)
        if not self._has_crowd(len(work)):
            budget = min(budget, self._prompt_tokens)
        for sequence in self.running:
            if sequence.n_due > 1 and budget:
                work.append(Work(sequence, min(sequence.n_due, budget)))
                budget -= work[-1].n_tokens
        while budget and self._admit():
            sequence = self.running[-1]
            work.append(Work(sequence, min(sequence.n_due, budget)))
            budget -= work[-1].n_tokens
        return work

    def _has_crowd(self, n_decoding: int) -> bool:
        """Whether so many wait for their first token that replies may wait a little for them."""
        n_new = len(self.waiting) + len(self.running) - n_decoding
        return n_new >= _CROWD and n_new * _PATIENCE >= n_decoding

    def lend(self, sequence: Sequence, n_tokens: int) -> int:
        """Takes free blocks for up to `n_tokens` guesses after a sequence that is being decoded.

        Returns for how many of them there is room. `advance` gives back the blocks of guesses that
        were wrong. Nobody gives way for a guess, and each running sequence keeps a free block to
        grow into.
        """
        n_wanted = self._pool.n_needed(len(sequence.tokens) + n_tokens)
        while len(sequence.blocks) < n_wanted:
            if not self._pool.can_take((), 1, spare=len(self.running)):
                break
            sequence.blocks += self._pool.take((), 1)
        room = len(sequence.blocks) * self._pool.block_size - len(sequence.tokens)
        return min(n_tokens, room)

    def advance(
        self, work: Iterable[Work], results: Iterable[List[Draw] | Failure]
    ) -> list[Sequence]:
        """Counts a step as done: sequences grow, finish and free their blocks.

        Args:
            work: what `schedule` gave, with or without drafts.
            results: one for each: the tokens drawn, of which all but the last are the first ones
                of the draft, or what went wrong. None where none were due.

        Returns the sequences that grew or ended.
        """
        changed = []
        for item, result in zip(work, results, strict=True):
            sequence = item.sequence
            if sequence.finish_reason is not None:
                continue
            if isinstance(result, Failure):
                sequence.error = result.message
                self.finish(sequence, "error")
                changed.append(sequence)
                continue
            n_cached = sequence.n_cached
            reason = self._grow(item, result)
            if self._share_prefixes:
                self._publish(sequence, n_cached)
            if reason is not None:
                self.finish(sequence, reason)
            if result:
                changed.append(sequence)
        return changed

    def _grow(self, item: Work, draws: List[Draw]) -> FinishReason | None:
        """Counts what a step computed, and gives back blocks that only held wrong guesses."""
        sequence, reason = item.sequence, None
        sequence.n_cached += item.n_tokens
        if not draws:
            return None
        n_before = len(sequence.tokens)
        for draw in draws:
            reason = sequence.accept(draw)
            if reason is not None:
                break
        # All draws but the last were guessed, so their keys and values are there.
        n_right = min(len(sequence.tokens) - n_before, len(draws) - 1)
        sequence.n_cached += n_right
        sequence.n_accepted += n_right
        sequence.n_drafted += len(item.draft)
        n_kept = self._pool.n_needed(len(sequence.tokens))
        self._pool.release(sequence.blocks[n_kept:])
        del sequence.blocks[n_kept:]
        return reason

    def finish(self, sequence: Sequence, reason: FinishReason) -> None:
        """Ends a sequence, wherever it is, and frees its blocks."""
        sequence.end(reason)
        if sequence in self.running:
            self.running.remove(sequence)
        else:
            self.waiting.remove(sequence)
        if reason == "error":
            # What went wrong may be in the cache, where the next request would find it.
            self._pool.forget(sequence.blocks)
        self._drop_blocks(sequence)

    def _decode(self) -> list[Work]:
        """One token for each sequence being decoded, oldest first, at the cost of the youngest."""
        work: list[Work] = []
        for sequence in tuple(self.running):
            if sequence.n_due > 1:
                continue
            while sequence in self.running and not self._has_room(sequence):
                self._preempt(self.running[-1])
            if sequence in self.running:
                work.append(Work(sequence, 1))
        return work

    def _has_room(self, sequence: Sequence) -> bool:
        """Whether the last token has a place in the cache; takes a block for it if one is free."""
        n_missing = self._pool.n_needed(len(sequence.tokens)) - len(sequence.blocks)
        if n_missing > 0:
            if not self._pool.can_take((), n_missing):
                return False
            sequence.blocks += self._pool.take((), n_missing)
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self._drop_blocks(sequence)
        sequence.n_cached = 0
        sequence.n_preempted += 1
        self.waiting.appendleft(sequence)

    def _drop_blocks(self, sequence: Sequence) -> None:
        self._pool.release(sequence.blocks)
        sequence.blocks = []

    def _admit(self) -> bool:
        """Lets the first in the queue run if it gets blocks for all the tokens it has."""
        if not self.waiting or len(self.running) >= self._max_running:
            return False
        sequence = self.waiting[0]
        shared: list[int] = []
        if self._share_prefixes:
            # The last token is always computed: its logits are what the reply begins with.
            n_full = (len(sequence.tokens) - 1) // self._pool.block_size
            chain = self._chain(sequence, n_full)[:n_full]
            shared = self._pool.find(chain)
            if len(shared) < n_full and self._is_coming(chain[len(shared)], len(shared)):
                return False
        n_new = self._pool.n_needed(len(sequence.tokens)) - len(shared)
        # Those already running keep a block each to grow into, or the newcomer would be
        # pre-empted as soon as it is in.
        if not self._pool.can_take(shared, n_new, spare=len(self.running)):
            return False
        sequence.blocks = self._pool.take(shared, n_new)
        sequence.n_cached = len(shared) * self._pool.block_size
        if sequence.n_reused is None:
            sequence.n_reused = sequence.n_cached
        self.running.append(self.waiting.popleft())
        return True

    def _is_coming(self, content: Content, index: int) -> bool:
        """Whether a running sequence is about to compute this content as its block `index`.

        Then it is worth waiting for: replies to one prompt come with the prompt computed once.
        """
        return any(
            index >= sequence.n_cached // self._pool.block_size
            and index < len(sequence.chain)
            and sequence.chain[index].is_same(content)
            for sequence in self.running
            if sequence.n_due > 1
        )

    def _publish(self, sequence: Sequence, n_before: int) -> None:
        """Lets others find the blocks filled since `n_before` tokens were in the cache."""
        size = self._pool.block_size
        n_full = sequence.n_cached // size
        chain = self._chain(sequence, n_full)
        for i in range(n_before // size, n_full):
            self._pool.publish(sequence.blocks[i], chain[i])

    def _chain(self, sequence: Sequence, n_full: int) -> list[Content]:
        """The contents of at least the first `n_full` blocks of a sequence."""
        chain, size = sequence.chain, self._pool.block_size
        for i in range(len(chain), n_full):
            parent = chain[-1] if chain else sequence.scope
            chain.append(self._pool.content(parent, sequence.tokens[i * size : (i + 1) * size]))
        return chain
