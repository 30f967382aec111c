"""One thread that owns an engine: commands in by a queue, what a step gave out in one call.

The event loop never waits for the engine and the engine never waits for the loop. Everything here
but `_run` and what it calls is for the loop's thread.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from codellama.engine.completion import Piece
from codellama.engine.constraint import Constraint
from codellama.engine.params import SamplingParams
from codellama.engine.prompts import Prompt
from codellama.engine.scoring import Score
from codellama.engine.stepping import ScoringSteps, Stepping
from codellama.errors import CodeLlamaError
from codellama.server.admission import Admission, Charge
from codellama.server.generation import Generation
from codellama.server.refusals import Refusal
from codellama.server.settings import Limits

log = logging.getLogger("codellama.server")

_ONE = Charge(n_sequences=1)


@dataclass
class Counters:
    """What /metrics shows of a service, counted by the engine's thread."""

    steps: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generation_tokens: int = 0
    aborts: int = 0
    finished: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Add:
    generation: Generation


@dataclass(frozen=True, slots=True)
class _Cancel:
    generation: Generation


@dataclass(frozen=True, slots=True)
class _Score:
    ids: tuple[int, ...]
    n_top: int
    scope: bytes
    done: asyncio.Future[Score]


_Command = _Add | _Cancel | _Score | None


class Service:
    """Runs generations over one engine, as many at a time as the engine takes.

    Args:
        engine: owned by the service's thread from `start` on.
        limits: bounds of the queue and of a request's time.
        clock: seconds, for the watchdog.
    """

    def __init__(
        self,
        engine: Stepping,
        limits: Limits,
        *,
        clock: Callable[[], float] = time.monotonic,
        chance: random.Random | None = None,
    ) -> None:
        self.engine = engine
        self.limits = limits
        self.counters = Counters()
        self.failure: str | None = None
        self.is_draining = False
        self.admission = Admission(
            engine.plan, limits, random.Random() if chance is None else chance
        )
        self._live: set[Generation] = set()
        self._commands: queue.SimpleQueue[_Command] = queue.SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._clock = clock
        self._busy_since: float | None = None
        self._owners: dict[int, tuple[Generation, int]] = {}
        self._scorings: deque[tuple[ScoringSteps, asyncio.Future[Score]]] = deque()

    def start(self) -> None:
        """Starts the thread; results go to the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float = 5) -> None:
        """Ends the thread after the step it is in. Whatever is live gets an error."""
        self._commands.put(None)
        if self._thread is not None:
            self._thread.join(timeout_s)
        self._fail("the server is shutting down")

    @property
    def stalled_s(self) -> float:
        """Seconds that the engine has been in one step."""
        since = self._busy_since
        return 0.0 if since is None else self._clock() - since

    @property
    def n_live(self) -> int:
        """Sequences that were accepted and have not ended."""
        return self.admission.n_live

    @property
    def n_running(self) -> int:
        return self.engine.n_running

    @property
    def n_waiting(self) -> int:
        return max(0, self.n_live - self.n_running)

    @property
    def cache_usage(self) -> float:
        """The share of the cache's blocks that sequences hold."""
        return self.engine.cache_usage

    @property
    def is_full(self) -> bool:
        return self.n_live >= self.admission.capacity

    def check_open(self, charge: Charge = _ONE) -> None:
        """Raises Refusal where nothing more can be taken on at the moment."""
        if self.failure is not None:
            raise Refusal(503, "the engine has stopped", code="engine_failed", retry_after=30)
        if self.is_draining:
            raise Refusal(503, "the server is shutting down", code="shutting_down", retry_after=5)
        self.admission.check(charge)

    def submit(
        self,
        prompts: list[Prompt],
        params: SamplingParams,
        n: int,
        *,
        scope: bytes = b"",
        constraint: Callable[[], Constraint] | None = None,
    ) -> Generation:
        """Accepts `n` replies to each prompt.

        Raises:
            RequestError: it can never be served.
            Refusal: not now.
        """
        for prompt in prompts:
            self.engine.check(prompt, params)
        charge = self.admission.charge(prompts, params, n)
        self.check_open(charge)
        generation = Generation(prompts, params, n, scope, self)
        generation.constraint = constraint
        generation.charge = charge
        self.admission.take(charge)
        self._live.add(generation)
        self._commands.put(_Add(generation))
        assert self._loop is not None, "the service was not started"
        generation.watch(self._loop, self.limits.run_s)
        return generation

    @contextmanager
    def reserved(self, n_entries: int, n_top: int) -> Iterator[None]:
        """Keeps memory back for the log-probabilities of so many prompt tokens.

        Raises:
            Refusal: there is not so much, or not now.
        """
        charge = self.admission.scoring(n_entries, n_top)
        if charge.reply_bytes:
            self.check_open(charge)
        with self.admission.held(charge):
            yield

    async def score(self, ids: tuple[int, ...], n_top: int, scope: bytes = b"") -> Score:
        """Log-probabilities of each id after those before it, and of the likeliest `n_top`."""
        self.check_open()
        assert self._loop is not None, "the service was not started"
        done: asyncio.Future[Score] = self._loop.create_future()
        self.admission.n_live += 1
        self._commands.put(_Score(ids, n_top, scope, done))
        try:
            return await done
        finally:
            self.admission.n_live -= 1

    def cancel(self, generation: Generation) -> None:
        """Ends a generation's sequences; those that have ended already stay as they are."""
        self._commands.put(_Cancel(generation))

    async def drain(self, timeout_s: float) -> None:
        """Takes nothing new, lets what runs finish for `timeout_s`, and ends the rest."""
        self.is_draining = True
        end = time.monotonic() + timeout_s
        while self.n_live and time.monotonic() < end:
            await asyncio.sleep(0.02)
        for generation in list(self._live):
            self.cancel(generation)

    def _release(self, generation: Generation) -> None:
        self._live.discard(generation)
        self.admission.give_back(generation.charge)

    def _deliver(self, items: list[tuple[Generation, int, Piece]]) -> None:
        for generation, index, piece in items:
            generation.push(index, piece)
            if piece.finish_reason is not None:
                self.admission.n_live -= 1
                if generation.is_done:
                    self._release(generation)
                    self.admission.note_age(generation.age_s)
        for generation, _, _ in items:
            generation.wake()

    def _fail(self, message: str) -> None:
        if self.failure is None:
            self.failure = message
        for generation in list(self._live):
            generation.fail(message)
            self.admission.n_live -= generation.n_open
            self._release(generation)
        for _, done in self._scorings:
            if not done.done():
                done.set_exception(Refusal(503, message, code="engine_failed", retry_after=30))

    # From here on: the engine's thread.

    def _run(self) -> None:
        try:
            while self._take_commands():
                self._busy_since = self._clock()
                if self.engine.n_requests:
                    self._step()
                if self._scorings:
                    self._score_some()
                self._busy_since = None
        except BaseException as error:
            log.exception("the engine stopped")
            self._call(self._fail, f"the engine stopped: {type(error).__name__}")

    def _call(self, function: Callable[..., None], *arguments: object) -> None:
        assert self._loop is not None, "the service was not started"
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:  # the loop has closed: nobody is left to tell
            log.debug("a result came after the end")

    def _take_commands(self) -> bool:
        """Carries out what was asked since the last step; waits where there is nothing to do."""
        while True:
            is_idle = not self.engine.n_requests and not self._scorings
            try:
                command = self._commands.get(block=is_idle)
            except queue.Empty:
                return True
            if command is None:
                return False
            if isinstance(command, _Add):
                self._add(command.generation)
            elif isinstance(command, _Cancel):
                self._abort(command.generation)
            else:
                scoring = self.engine.scoring(command.ids, command.n_top, command.scope)
                self._scorings.append((scoring, command.done))

    def _add(self, generation: Generation) -> None:
        generation.settle(lambda ids: self.engine.n_cached(ids, generation.scope))
        for index, (prompt, seed) in enumerate(generation.sequences()):
            request_id = self.engine.add(
                prompt,
                generation.params,
                seed=seed,
                scope=generation.scope,
                constraint=generation.constraint and generation.constraint(),
            )
            generation.request_ids.append(request_id)
            self._owners[request_id] = (generation, index)

    def _abort(self, generation: Generation) -> None:
        ended = []
        for request_id in generation.request_ids:
            if request_id in self._owners:
                output = self.engine.abort(request_id)
                assert output is not None, "an owned request has ended"
                self.counters.aborts += 1
                ended.append((*self._owners.pop(request_id), output.piece))
        if ended:
            self._call(self._deliver, ended)

    def _step(self) -> None:
        items = []
        counters = self.counters
        counters.steps += 1
        for output in self.engine.step():
            generation, index = self._owners[output.request_id]
            items.append((generation, index, output.piece))
            counters.generation_tokens += len(output.piece.token_ids)
            completion = output.piece.completion
            if completion is not None:
                del self._owners[output.request_id]
                counters.prompt_tokens += completion.prompt_tokens
                counters.cached_tokens += completion.cached_tokens
                reason = completion.finish_reason
                counters.finished[reason] = counters.finished.get(reason, 0) + 1
        if items:
            self._call(self._deliver, items)

    def _score_some(self) -> None:
        scoring, done = self._scorings[0]
        try:
            if done.cancelled():
                scoring.close()
                self._scorings.popleft()
            elif scoring.step():
                self._scorings.popleft()
                self._call(_resolve, done, scoring.result())
        except CodeLlamaError as error:
            self._scorings.popleft()
            self._call(_reject, done, Refusal.of(error))
        except Exception as error:
            scoring.close()
            self._scorings.popleft()
            message = f"the prompt could not be scored: {type(error).__name__}"
            self._call(_reject, done, Refusal(500, message, code="engine_error"))


def _resolve(done: asyncio.Future[Score], score: Score) -> None:
    if not done.done():
        done.set_result(score)


def _reject(done: asyncio.Future[Score], refusal: Refusal) -> None:
    if not done.done():
        done.set_exception(refusal)
