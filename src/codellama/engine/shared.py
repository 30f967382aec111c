"""One engine, many callers: each gets its own pieces, whoever runs the steps."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from codellama.engine.completion import Completion, Piece, TokenLogprob
from codellama.engine.engine import Engine
from codellama.engine.interrupts import postponed
from codellama.engine.params import SamplingParams
from codellama.engine.prompts import Prompt
from codellama.engine.sampler import seed_of
from codellama.engine.scoring import Scoring
from codellama.errors import RequestError


class SharedEngine:
    """Runs requests of several callers over one engine, step by step.

    A caller that waits for its own request runs steps for all. One step at a time: a lock keeps
    threads apart, and Ctrl-C waits for the end of the step. Whoever leaves early, by Ctrl-C, by
    closing a stream or by an error, aborts its own requests and nobody else's.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine: Engine | None = engine
        self._lock = threading.Lock()
        self._inbox: dict[int, deque[Piece]] = {}  # what came for each request and was not taken

    def run(
        self, prompts: Sequence[Prompt], params: SamplingParams, n: int = 1
    ) -> list[list[Completion]]:
        """`n` replies to each prompt, all computed together.

        Raises:
            RequestError: one of the prompts can never be served; then nothing has run.
        """
        if type(n) is not int or n < 1:
            raise RequestError(f"`n` is {n!r}; expected a positive integer")
        self._check(prompts, params)
        requests: list[int] = []
        try:
            for prompt in prompts:
                base = int.from_bytes(os.urandom(8)) if params.seed is None else params.seed
                for i in range(n):
                    self._add(prompt, params, seed_of(base, i), requests)
            found = [self._wait(request_id) for request_id in requests]
        finally:
            self._drop(requests)
        return [found[i : i + n] for i in range(0, len(found), n)]

    def stream(self, prompt: Prompt, params: SamplingParams) -> Iterator[Piece]:
        """One reply piece by piece; the last piece, and no other, has a finish reason.

        Raises:
            RequestError: it can never be served; raised at once, not with the first piece.
        """
        self._check([prompt], params)
        return self._pieces(prompt, params)

    def as_they_end(
        self, requests: Iterable[tuple[Prompt, SamplingParams]], n_at_once: int
    ) -> Iterator[tuple[int, Completion]]:
        """Each request's completion with its place among the requests, soonest first.

        `n_at_once` of them are in the engine at any time, and the next is taken when one ends.

        Raises:
            RequestError: the next request can never be served; those before it have run or run on.
        """
        coming = enumerate(requests)
        places: dict[int, int] = {}  # by request id
        ids: list[int] = []
        try:
            while True:
                for place, (prompt, params) in islice(coming, n_at_once - len(places)):
                    self._add(prompt, params, params.seed, ids)
                    places[ids[-1]] = place
                if not places:
                    return
                with self._lock, postponed():
                    for output in self._open().step():
                        self._inbox[output.request_id].append(output.piece)
                for request_id in list(places):
                    inbox = self._inbox[request_id]
                    ended = [one.completion for one in inbox if one.completion is not None]
                    inbox.clear()
                    if ended:
                        self._drop([request_id])
                        ids.remove(request_id)
                        yield places.pop(request_id), ended[0]
        finally:
            self._drop(ids)

    def score(self, prompt: Prompt) -> tuple[float | None, ...]:
        """Each token's log-probability after those before it; None for the first.

        Raises:
            RequestError: the text is longer than the context.
        """
        self._check([prompt], SamplingParams(max_tokens=1))
        with self._lock:
            scoring = Scoring(self._open(), prompt.ids, 0, b"")
        try:
            while True:
                with self._lock, postponed():
                    if scoring.step():
                        break
                    for output in self._open().step():  # others go on, and free what they held
                        self._inbox[output.request_id].append(output.piece)
        finally:
            with self._lock, postponed():
                scoring.close()
        return tuple(None if one is None else one.logprob for one in scoring.result().logprobs)

    def close(self) -> None:
        """Aborts what is running and lets go of the engine."""
        with self._lock, postponed():
            for request_id in self._inbox:
                self._abort(request_id)
            self._engine = None

    def _pieces(self, prompt: Prompt, params: SamplingParams) -> Iterator[Piece]:
        requests: list[int] = []
        token_ids: tuple[int, ...] = ()
        logprobs: tuple[TokenLogprob, ...] = ()
        try:
            self._add(prompt, params, params.seed, requests)
            while True:
                piece = self._next(requests[0])
                token_ids += piece.token_ids
                logprobs += piece.logprobs or ()
                if not piece.text and piece.finish_reason is None:
                    continue  # half a character, or what may become a stop string
                if piece.finish_reason is not None:
                    self._drop(requests)  # now: nobody has to ask for more after the last piece
                yield Piece(
                    text=piece.text,
                    token_ids=token_ids,
                    logprobs=None if piece.logprobs is None else logprobs,
                    finish_reason=piece.finish_reason,
                    completion=piece.completion,
                )
                if piece.finish_reason is not None:
                    return
                token_ids, logprobs = (), ()
        finally:
            self._drop(requests)

    def _wait(self, request_id: int) -> Completion:
        while True:
            completion = self._next(request_id).completion
            if completion is not None:
                return completion

    def _next(self, request_id: int) -> Piece:
        """The request's next piece; runs steps until there is one."""
        inbox = self._inbox[request_id]
        while not inbox:
            with self._lock, postponed():
                if not inbox:  # another thread's step may have brought it
                    for output in self._open().step():
                        self._inbox[output.request_id].append(output.piece)
        return inbox.popleft()

    def _check(self, prompts: Sequence[Prompt], params: SamplingParams) -> None:
        with self._lock:
            engine = self._open()
            for prompt in prompts:
                engine.check(prompt, params)

    def _add(
        self, prompt: Prompt, params: SamplingParams, seed: int | None, requests: list[int]
    ) -> None:
        # The id is noted before a Ctrl-C can come through, or nobody could abort the request.
        with self._lock, postponed():
            requests.append(self._open().add(prompt, params, seed=seed))
            self._inbox[requests[-1]] = deque()

    def _drop(self, requests: list[int]) -> None:
        with self._lock, postponed():
            for request_id in requests:
                self._abort(request_id)
                self._inbox.pop(request_id, None)

    def _abort(self, request_id: int) -> None:
        output = None if self._engine is None else self._engine.abort(request_id)
        if output is not None:
            self._inbox[request_id].append(output.piece)

    def _open(self) -> Engine:
        if self._engine is None:
            raise RequestError("this model was closed", hint="load it again")
        return self._engine
