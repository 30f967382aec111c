"""The replies to one HTTP request, as they come from the engine's thread."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Protocol

from codellama.engine.completion import Completion, Piece
from codellama.engine.constraint import Constraint
from codellama.engine.params import SamplingParams
from codellama.engine.prompts import Prompt
from codellama.engine.sampler import seed_of
from codellama.server.admission import Charge
from codellama.server.holes import Hole


class Canceller(Protocol):
    """Whoever can end a generation."""

    def cancel(self, generation: Generation) -> None: ...


class Generation:
    """`n` replies to each of some prompts. Reply `i` belongs to prompt `i // n`.

    Made by `Service.submit`. For one reader: either `batches` or `completions`.
    """

    def __init__(
        self,
        prompts: list[Prompt],
        params: SamplingParams,
        n: int,
        scope: bytes,
        canceller: Canceller,
    ) -> None:
        self.prompts = prompts
        self.params = params
        self.n = n
        self.scope = scope
        self.charge = Charge()  # what the service keeps back for it
        self.n_open = n * len(prompts)
        self.request_ids: list[int] = []  # the engine thread's
        self.found: list[Completion | None] = [None] * self.n_open
        self.failure: str | None = None
        self.is_timed_out = False
        self.is_late = False
        self.constraint: Callable[[], Constraint] | None = None  # makes one for each reply
        self._canceller = canceller
        self._inbox: list[tuple[int, Piece]] = []
        self._unread_chars = 0
        self._waiter: asyncio.Future[None] | None = None
        self._timers: list[asyncio.TimerHandle] = []
        self._started_at = time.monotonic()

    def sequences(self) -> Iterator[tuple[Prompt, int]]:
        """Each reply's prompt and seed. Without a seed every prompt gets one of its own."""
        for prompt in self.prompts:
            seed = self.params.seed
            base = int.from_bytes(os.urandom(8), "little") if seed is None else seed
            for i in range(self.n):
                yield prompt, seed_of(base, i)

    def settle(self, n_cached: Callable[[Sequence[int]], int]) -> None:
        """Lets what the cache holds decide of prompts that leave something open; before the first
        step, in the engine's thread."""
        self.prompts = [
            prompt.settled(n_cached) if isinstance(prompt, Hole) else prompt
            for prompt in self.prompts
        ]

    @property
    def order(self) -> str | None:
        """In which order the hole was told, if one was to be filled."""
        return next((p.order for p in self.prompts if isinstance(p, Hole)), None)

    @property
    def is_done(self) -> bool:
        return not self.n_open

    @property
    def age_s(self) -> float:
        return time.monotonic() - self._started_at

    def watch(self, loop: asyncio.AbstractEventLoop, run_s: float) -> None:
        """Ends the generation with reason "timeout" when it has taken `run_s`."""
        self._timers.append(loop.call_later(run_s, self.time_out))

    def be_done_in(self, deadline_ms: int | None) -> None:
        """Ends the generation with reason "length" when this time has passed."""
        if deadline_ms is not None:
            loop = asyncio.get_running_loop()
            self._timers.append(loop.call_later(deadline_ms / 1000, self._be_late))

    def _be_late(self) -> None:
        self.is_late = True
        self.cancel()

    def time_out(self) -> None:
        """Ends what still runs, now; its finish reason is "timeout"."""
        self.is_timed_out = True
        self.cancel()

    def cancel(self) -> None:
        """Ends what still runs; its finish reason is "abort"."""
        if not self.is_done:
            self._canceller.cancel(self)

    def push(self, index: int, piece: Piece) -> None:
        """Takes what a step gave; `wake` tells the reader."""
        self._inbox.append((index, piece))
        self._unread_chars += len(piece.text)
        if piece.completion is not None:
            self.found[index] = piece.completion
            self.n_open -= 1
            if not self.n_open:
                self._stop_timers()

    def wake(self) -> None:
        """Lets the reader go on."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def fail(self, message: str) -> None:
        """Ends with an error: the engine is gone."""
        self.failure = message
        self._stop_timers()
        self.wake()

    def _stop_timers(self) -> None:
        for timer in self._timers:
            timer.cancel()

    @property
    def unread_chars(self) -> int:
        """Characters that came and were not taken yet."""
        return self._unread_chars

    async def batches(self) -> AsyncIterator[list[tuple[int, Piece]]]:
        """What came since the last batch, until every reply has ended or the engine failed."""
        while True:
            if not self._inbox and self.failure is None and self.n_open:
                self._waiter = asyncio.get_running_loop().create_future()
                await self._waiter
                self._waiter = None
            if self._inbox:
                batch, self._inbox = self._inbox, []
                self._unread_chars = 0
                yield batch
            if not self._inbox and (self.failure is not None or not self.n_open):
                return

    async def completions(self) -> list[Completion] | None:
        """All replies when the last one has ended; None where the engine failed before."""
        async for _ in self.batches():
            pass
        found = [one for one in self.found if one is not None]
        return found if len(found) == len(self.found) else None

    def reason(self, completion: Completion) -> str:
        """A reply's finish reason as clients know it."""
        if completion.finish_reason == "abort":
            if self.is_late:
                return "length"
            return "timeout" if self.is_timed_out else "abort"
        return completion.finish_reason
