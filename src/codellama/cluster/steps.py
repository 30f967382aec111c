"""An engine that gives out tokens by itself, driven as our own is: the seam between the two.

Ids go in and ids come out. Text, stop strings, endings and what a client is told of them are made
here, by the same code as for our own engine.
"""

from __future__ import annotations

import asyncio
import os
import queue
import threading
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Protocol

from codellama.engine.completion import Completion, FinishReason, Piece, Timings, TokenLogprob
from codellama.engine.constraint import Constraint
from codellama.engine.engine import Output
from codellama.engine.params import SamplingParams
from codellama.engine.plan import EnginePlan
from codellama.engine.prompts import Prompt
from codellama.engine.reply import Reply
from codellama.engine.scoring import Score
from codellama.errors import ContextTooLong, RequestError
from codellama.text.tokenizer import Tokenizer

_WAIT_S = 0.02  # for tokens, before commands are looked for


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """Tokens that came at a time. `logprobs` has one entry each where they were asked for;
    `is_last` says that the engine will give no more, `is_stopped` that an ending token was drawn
    which is not among `ids`; `cached` prompt tokens were not computed."""

    ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] | None = None
    is_last: bool = False
    is_stopped: bool = False
    cached: int = 0


class Source(Protocol):
    """An engine with an event loop of its own. Ids that end a reply may be given out too."""

    def draw(
        self,
        request_id: str,
        prompt: Prompt,
        params: SamplingParams,
        *,
        max_tokens: int,
        seed: int,
        scope: bytes,
    ) -> AsyncIterator[Drawn]:
        """The tokens of a reply. Closing the iterator ends it and frees what it held."""
        ...

    def score(
        self, request_id: str, ids: tuple[int, ...], n_top: int, scope: bytes
    ) -> Coroutine[Any, Any, Score]:
        """Log-probabilities of a text's ids."""
        ...


@dataclass(frozen=True, slots=True)
class _Failed:
    message: str
    is_fatal: bool


@dataclass(slots=True)
class _Request:
    prompt: Prompt
    params: SamplingParams
    seed: int
    reply: Reply
    stop_ids: frozenset[int]
    added_at: float
    task: asyncio.Future[None] | None = None
    first_at: float | None = None
    cached: int = 0
    error: str | None = None
    n_given: int = 0
    ids: list[int] = field(default_factory=list)


class EngineGone(Exception):
    """The engine behind the seam has ended; nothing more will come of it."""


class AsyncSteps:
    """`Stepping` over a `Source`.

    Args:
        source: draws tokens in `loop`.
        loop: runs in a thread of its own until `close`.
        tokenizer: decodes replies.
        plan: bounds of requests; its cache is the source's own.
        n_ids: ids there are.
    """

    can_constrain = False

    def __init__(
        self,
        source: Source,
        loop: asyncio.AbstractEventLoop,
        tokenizer: Tokenizer,
        plan: EnginePlan,
        *,
        n_ids: int,
    ) -> None:
        self.plan = plan
        self._source = source
        self._loop = loop
        self._tokenizer = tokenizer
        self._n_ids = n_ids
        self._ids = count()
        self._requests: dict[int, _Request] = {}
        self._came: queue.SimpleQueue[tuple[int, Drawn | _Failed]] = queue.SimpleQueue()

    @property
    def n_requests(self) -> int:
        """Requests that have not ended."""
        return len(self._requests)

    @property
    def n_running(self) -> int:
        """Requests that the source can work on."""
        return min(len(self._requests), self.plan.max_num_seqs)

    @property
    def cache_usage(self) -> float:
        """The share of the cache that live requests' tokens take."""
        held = sum(len(r.prompt.ids) + r.n_given for r in list(self._requests.values()))
        return min(1.0, held / (self.plan.n_blocks * self.plan.block_size))

    def check(self, prompt: Prompt, params: SamplingParams) -> None:
        """Refuses what could never be served; raises as `Engine.check` does."""
        limit, n = self.plan.max_seq_len, len(prompt.ids)
        if n >= limit:
            raise ContextTooLong(
                f"the prompt has {n} tokens and this model was loaded to keep {limit}",
                hint=f"shorten it by {n - limit + 1} tokens or more, to leave room for an answer",
            )
        if not prompt.ids:
            raise RequestError("the prompt has no tokens, and a reply needs one to begin from")
        for what, ids in (
            ("the prompt has", prompt.ids),
            ("`logit_bias` names", params.logit_bias),
        ):
            bad = next((i for i in ids if not 0 <= i < self._n_ids), None)
            if bad is not None:
                raise RequestError(
                    f"{what} the token id {bad}, and this model's ids go from 0 to "
                    f"{self._n_ids - 1}"
                )

    def add(
        self,
        prompt: Prompt,
        params: SamplingParams,
        *,
        seed: int | None = None,
        scope: bytes = b"",
        constraint: Constraint | None = None,
    ) -> int:
        """Accepts a request and returns the id that its outputs carry; see `Engine.add`."""
        self.check(prompt, params)
        if constraint is not None:
            raise RequestError("this engine cannot hold a reply to a format")
        if seed is None:
            seed = params.seed
        if seed is None:
            seed = int.from_bytes(os.urandom(8), "little")
        room = self.plan.max_seq_len - len(prompt.ids)
        request_id = next(self._ids)
        request = _Request(
            prompt=prompt,
            params=params,
            seed=seed,
            reply=Reply(
                self._tokenizer.stream_decoder(bare=prompt.bare),
                params.stops,
                with_logprobs=params.logprobs is not None,
            ),
            stop_ids=frozenset() if params.ignore_eos else prompt.stop_ids,
            added_at=time.perf_counter(),
        )
        self._requests[request_id] = request
        drawing = self._source.draw(
            str(request_id),
            prompt,
            params,
            max_tokens=room if params.max_tokens is None else min(room, params.max_tokens),
            seed=seed,
            scope=scope,
        )
        request.task = asyncio.run_coroutine_threadsafe(  # type: ignore[assignment]  # a future of either kind can be cancelled
            self._forward(request_id, drawing), self._loop
        )
        return request_id

    async def _forward(self, request_id: int, drawing: AsyncIterator[Drawn]) -> None:
        is_whole = False
        try:
            async for drawn in drawing:
                is_whole = is_whole or drawn.is_last
                self._came.put((request_id, drawn))
            if not is_whole:
                raise RuntimeError("the engine ended a reply without saying so")
        except EngineGone as error:
            self._came.put((request_id, _Failed(str(error), is_fatal=True)))
        except Exception as error:
            self._came.put(
                (request_id, _Failed(f"{type(error).__name__}: {error}", is_fatal=False))
            )

    def n_cached(self, ids: Sequence[int], scope: bytes = b"") -> int:
        """0: what the source has cached is its own business."""
        return 0

    def step(self) -> list[Output]:
        """What came since the last call; waits a little for the first of it.

        Raises:
            EngineGone: the source has ended.
        """
        outputs = []
        came: list[tuple[int, Drawn | _Failed]] = []
        try:
            came.append(self._came.get(timeout=_WAIT_S))
            while True:
                came.append(self._came.get_nowait())
        except queue.Empty:
            pass
        for request_id, what in came:
            request = self._requests.get(request_id)
            if request is None:  # it has ended, and these tokens were on their way
                continue
            if isinstance(what, _Failed):
                if what.is_fatal:
                    raise EngineGone(what.message)
                request.error = what.message
                outputs.append(self._end(request_id, "error"))
                continue
            reason = self._take(request, what)
            if reason is not None:
                outputs.append(self._end(request_id, reason))
            else:
                outputs.append(Output(request_id, _piece(request)))
        return outputs

    def abort(self, request_id: int) -> Output | None:
        """Ends a request; None if it has ended already."""
        return self._end(request_id, "abort") if request_id in self._requests else None

    def scoring(self, ids: tuple[int, ...], n_top: int, scope: bytes) -> _AsyncScoring:
        """Log-probabilities of a text's ids."""
        work = self._source.score(f"score-{next(self._ids)}", ids, n_top, scope)
        return _AsyncScoring(asyncio.run_coroutine_threadsafe(work, self._loop))

    def _take(self, request: _Request, drawn: Drawn) -> FinishReason | None:
        """Adds tokens to a reply; the reason where one of them ends it."""
        if request.first_at is None:
            request.first_at, request.cached = time.perf_counter(), drawn.cached
        for i, token in enumerate(drawn.ids):
            if token in request.stop_ids:
                return "stop"
            one = None if drawn.logprobs is None else drawn.logprobs[i]
            request.n_given += 1
            logprob, top = (0.0, ()) if one is None else (one.logprob, one.top)
            if request.reply.push(token, logprob, top):
                return "stop"
        if drawn.is_stopped:
            return "stop"
        return "length" if drawn.is_last else None

    def _end(self, request_id: int, reason: FinishReason) -> Output:
        request = self._requests.pop(request_id)
        if request.task is not None:
            request.task.cancel()  # closes the source's iterator where it still runs
        final = request.reply.finish(reason)
        return Output(request_id, _piece(request, final))


class _AsyncScoring:
    """A score on its way."""

    def __init__(self, future: Any) -> None:
        self._future = future

    def step(self) -> bool:
        """Waits a little; raises what went wrong."""
        try:
            self._future.result(timeout=_WAIT_S)
        except TimeoutError:
            return False
        return True

    def result(self) -> Score:
        found: Score = self._future.result(timeout=0)
        return found

    def close(self) -> None:
        self._future.cancel()


def _piece(request: _Request, reason: FinishReason | None = None) -> Piece:
    text, ids, logprobs = request.reply.take()
    completion = None if reason is None else _completion(request, reason)
    return Piece(
        text=text, token_ids=ids, logprobs=logprobs, finish_reason=reason, completion=completion
    )


def _completion(request: _Request, reason: FinishReason) -> Completion:
    reply, now = request.reply, time.perf_counter()
    first = now if request.first_at is None else request.first_at
    n_prompt = len(request.prompt.ids)
    return Completion(
        text=reply.text,
        token_ids=tuple(reply.token_ids),
        finish_reason=reason,
        logprobs=None if reply.logprobs is None else tuple(reply.logprobs),
        prompt_tokens=n_prompt,
        cached_tokens=request.cached,
        seed=request.seed,
        timings=Timings(
            prompt_tokens=n_prompt,
            cached_tokens=request.cached,
            completion_tokens=len(reply.token_ids),
            queue_s=0.0,  # the source does not say when it began
            prefill_s=first - request.added_at,
            decode_s=now - first,
        ),
        error=request.error,
        stop_string=reply.stop_string,
    )


class LoopThread:
    """An event loop in a thread of its own."""

    def __init__(self, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Runs `work` in the loop and waits for it."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    def close(self) -> None:
        """Ends what runs in the loop, and the thread."""

        async def cancel() -> None:
            others = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        self.run(cancel())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(5)
        if not self._thread.is_alive():
            self.loop.close()
