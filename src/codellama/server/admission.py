"""What a service takes on: places, memory for replies, and promises of its cache."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from codellama.engine.params import SamplingParams
from codellama.engine.plan import EnginePlan
from codellama.engine.prompts import Prompt
from codellama.server.refusals import Refusal
from codellama.server.settings import Limits

_BYTES_PER_TOKEN = 160  # of a reply in memory: its id, its text, the event that carries it
_BYTES_PER_LOGPROB = 120


@dataclass(frozen=True, slots=True)
class Charge:
    """What a request may come to hold at most."""

    n_sequences: int = 0
    reply_bytes: int = 0
    cache_tokens: int = 0


class Admission:
    """The books of what was promised. For the event loop's thread."""

    def __init__(self, plan: EnginePlan, limits: Limits, chance: random.Random) -> None:
        self._plan = plan
        self._limits = limits
        self._chance = chance
        self._recent_s = 1.0  # how long a generation takes, smoothed
        self.n_live = 0  # sequences that were accepted and have not ended
        self.reserved_bytes = 0
        self.reserved_tokens = 0

    @property
    def capacity(self) -> int:
        """Sequences that may run and wait."""
        return self._plan.max_num_seqs + self._limits.waiting

    def retry_after(self) -> int:
        """Whole seconds after which there may be room, spread so that clients do not return
        together."""
        rounds = max(1, self.n_live) / self._plan.max_num_seqs
        expected = min(30.0, rounds * self._recent_s)
        return max(1, min(60, round(expected + self._chance.uniform(0, 1 + expected))))

    def note_age(self, age_s: float) -> None:
        """Learns how long a generation took."""
        self._recent_s += 0.1 * (age_s - self._recent_s)

    def charge(self, prompts: Sequence[Prompt], params: SamplingParams, n: int) -> Charge:
        """What `n` replies to each prompt may hold.

        Raises:
            Refusal: it is more than there is, whatever else runs.
        """
        found = Charge(
            n * len(prompts),
            sum(n * self._reply_bytes(prompt, params) for prompt in prompts),
            sum(n * self._cache_tokens(prompt, params) for prompt in prompts),
        )
        self._check_reply_bytes(found.reply_bytes)
        if found.n_sequences > self.capacity:
            raise Refusal(
                400,
                f"the request has {found.n_sequences} replies and the server takes "
                f"{self.capacity} at a time",
                code="too_large",
            )
        return found

    def check(self, charge: Charge) -> None:
        """Raises Refusal where it cannot be taken on now; alone, anything can."""
        budget = self._limits.cache_overcommit * self._plan.n_blocks * self._plan.block_size
        if self.n_live and (
            charge.n_sequences > self.capacity - self.n_live
            or self.reserved_bytes + charge.reply_bytes > self._limits.reply_bytes
            or self.reserved_tokens + charge.cache_tokens > budget
        ):
            raise Refusal(
                429,
                "too many requests are waiting already",
                code="overloaded",
                retry_after=self.retry_after(),
            )

    def take(self, charge: Charge) -> None:
        """Books what was checked."""
        self.n_live += charge.n_sequences
        self.reserved_bytes += charge.reply_bytes
        self.reserved_tokens += charge.cache_tokens

    def give_back(self, charge: Charge) -> None:
        """The memory and the cache of a request that has ended; its sequences left one by one."""
        self.reserved_bytes -= charge.reply_bytes
        self.reserved_tokens -= charge.cache_tokens

    def scoring(self, n_entries: int, n_top: int) -> Charge:
        """What log-probabilities of so many prompt tokens hold.

        Raises:
            Refusal: there is not so much.
        """
        n_bytes = n_entries * (_BYTES_PER_TOKEN + _BYTES_PER_LOGPROB * (1 + n_top))
        self._check_reply_bytes(n_bytes)
        return Charge(reply_bytes=n_bytes)

    @contextmanager
    def held(self, charge: Charge) -> Iterator[None]:
        """Books a charge without sequences until the block ends."""
        self.take(charge)
        try:
            yield
        finally:
            self.give_back(charge)

    def _check_reply_bytes(self, n_bytes: int) -> None:
        if n_bytes > self._limits.reply_bytes:
            raise Refusal(
                400,
                f"the answer may take {n_bytes} bytes and the server keeps "
                f"{self._limits.reply_bytes}; ask for fewer choices, tokens or logprobs",
                code="too_large",
            )

    def _reply_bytes(self, prompt: Prompt, params: SamplingParams) -> int:
        longest = self._cache_tokens(prompt, params) - len(prompt.ids)
        tops = 0 if params.logprobs is None else 1 + params.logprobs
        return longest * (_BYTES_PER_TOKEN + _BYTES_PER_LOGPROB * tops)

    def _cache_tokens(self, prompt: Prompt, params: SamplingParams) -> int:
        """Tokens of cache that a reply takes at most."""
        room = self._plan.max_seq_len
        if params.max_tokens is None:
            return room
        return min(room, len(prompt.ids) + params.max_tokens)
