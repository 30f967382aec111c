"""Add requests, step, take what comes out."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from collections.abc import Sequence as List
from dataclasses import dataclass, replace
from itertools import count, islice

import numpy as np
from numpy.typing import NDArray

from codellama.engine.batch import flatten
from codellama.engine.blocks import BlockPool, Content
from codellama.engine.completion import Completion, Piece, Timings
from codellama.engine.constraint import Begun, Constraint, apply
from codellama.engine.draft import Drafter, Speculation
from codellama.engine.lookup import PromptLookup
from codellama.engine.params import MAX_BIASES, SamplingParams
from codellama.engine.plan import EnginePlan
from codellama.engine.prompts import Prompt
from codellama.engine.reply import Reply
from codellama.engine.sampler import Sampler
from codellama.engine.scheduler import Scheduler, Work
from codellama.engine.scoring import Scoring
from codellama.engine.sequence import Draw, Failure, Sequence
from codellama.errors import ContextTooLong, RequestError
from codellama.runners import Batch, Runner
from codellama.runners.sampling import Logits, SamplingKernel, to_array
from codellama.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Output:
    """What a step added to a request."""

    request_id: int
    piece: Piece


@dataclass(slots=True)
class _Request:
    sequence: Sequence
    added_at: float
    constraint: Constraint | None = None
    started_at: float | None = None
    first_token_at: float | None = None


class Engine:
    """Runs any number of requests over one runner.

    Every request that `add` accepts ends exactly once, with the piece that carries its completion:
    from `step`, or from `abort`. What a request says depends on its prompt, parameters and seed,
    never on what else is running. Not for use from several threads at a time.

    Args:
        runner: computes; its cache holds `plan.n_blocks` blocks.
        tokenizer: decodes replies.
        kernel: samples.
        drafters: guess ahead where look-up finds nothing; unused where the plan says "off".
        never: ids that are kept from being drawn, unless a request biases them itself.
        clock: seconds, for the timings.
    """

    def __init__(
        self,
        runner: Runner,
        tokenizer: Tokenizer,
        plan: EnginePlan,
        kernel: SamplingKernel,
        *,
        drafters: Iterable[Drafter] = (),
        never: Iterable[int] = (),
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        assert runner.n_blocks >= plan.n_blocks, "the runner's cache is smaller than planned"
        assert runner.block_size == plan.block_size, "runner and plan disagree on the block size"
        self.plan = plan
        self._runner = runner
        self._tokenizer = tokenizer
        self._n_ids = min(tokenizer.n_vocab, runner.config.vocab_size)
        self._kernel = kernel
        self._never = dict.fromkeys(sorted(never), -100.0)
        self._sampler = Sampler(kernel, self._n_ids)
        self._clock = clock
        self._ids = count()
        self._requests: dict[int, _Request] = {}
        self.pool = BlockPool(plan.n_blocks, plan.block_size)
        self.scheduler = Scheduler(
            self.pool,
            max_running=plan.max_num_seqs,
            step_tokens=plan.step_tokens,
            prompt_tokens=plan.prompt_tokens,
            share_prefixes=plan.share_prefixes,
        )
        is_on = plan.speculation != "off"
        self._speculation = Speculation(
            (PromptLookup(), *drafters) if is_on else (),
            n_most=plan.draft_tokens,
            row_cost=plan.draft_cost,
        )

    @property
    def n_requests(self) -> int:
        """Requests that have not ended."""
        return len(self._requests)

    @property
    def n_running(self) -> int:
        """Requests that steps work on; the others wait for a place."""
        return len(self.scheduler.running)

    @property
    def cache_usage(self) -> float:
        """The share of the cache's blocks that sequences hold."""
        return 1 - self.pool.n_free / self.pool.n_blocks

    @property
    def can_constrain(self) -> bool:
        """Whether `add` takes a constraint."""
        return True

    def check(self, prompt: Prompt, params: SamplingParams) -> None:
        """Refuses what could never be served.

        Raises:
            ContextTooLong: the prompt leaves no room for an answer.
            RequestError: an id is outside the vocabulary.
        """
        limit, n_prompt = self.plan.max_seq_len, len(prompt.ids)
        if n_prompt >= limit:
            enough = limit
            while enough <= n_prompt:
                enough *= 2
            raise ContextTooLong(
                f"the prompt has {n_prompt} tokens and this model was loaded to keep {limit}",
                hint=f"shorten it by {n_prompt - limit + 1} tokens or more, to leave room for an "
                f"answer, or load the model with --max-seq-len {enough}",
            )
        if not prompt.ids:
            raise RequestError("the prompt has no tokens, and a reply needs one to begin from")
        ids = np.asarray(prompt.ids)
        if ids.min() < 0 or ids.max() >= self._n_ids:
            bad = next(i for i in prompt.ids if not 0 <= i < self._n_ids)
            raise RequestError(
                f"the prompt has the token id {bad}, and this model's ids go from 0 to "
                f"{self._n_ids - 1}"
            )
        outside = [token for token in params.logit_bias if token >= self._n_ids]
        if outside:
            raise RequestError(
                f"`logit_bias` names the token id {outside[0]}, and this model's ids go from 0 to "
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
        """Accepts a request and returns the id that its outputs carry.

        Args:
            prompt: what to continue.
            params: how to draw the reply.
            seed: instead of that of `params`; with neither, one is drawn.
            scope: requests of different scopes do not find each other's tokens in the cache.
            constraint: what the reply may say; its own, and followed from its beginning.

        Raises:
            RequestError: see `check`.
        """
        self.check(prompt, params)
        if seed is None:
            seed = params.seed
        if seed is None:
            seed = int.from_bytes(os.urandom(8), "little")
        longest = self.plan.max_seq_len
        if params.max_tokens is not None:
            longest = min(longest, len(prompt.ids) + params.max_tokens)
        if prompt.begun:
            assert constraint is None, "a prompt that has begun the reply constrains it itself"
            constraint = Begun(self._tokenizer.beginnings, prompt.begun, self._n_ids)
        sequence = Sequence(
            request_id=next(self._ids),
            prompt_ids=prompt.ids,
            stop_ids=prompt.stop_ids,
            params=self._without_never(params),
            seed=seed,
            max_len=longest,
            limit=self.plan.max_seq_len,
            scope=Content.root(scope),
            reply=Reply(
                self._tokenizer.stream_decoder(bare=prompt.bare),
                params.stops,
                with_logprobs=params.logprobs is not None,
                begun=prompt.begun,
            ),
            is_led=constraint is not None,
        )
        self._requests[sequence.request_id] = _Request(sequence, self._clock(), constraint)
        self.scheduler.add(sequence)
        return sequence.request_id

    def _without_never(self, params: SamplingParams) -> SamplingParams:
        """A bias keeps out what is never drawn, so that log-probabilities stay the model's own.

        A request that brings as many biases as there may be keeps its own alone.
        """
        new = {i: bias for i, bias in self._never.items() if i not in params.logit_bias}
        if not new or len(new) + len(params.logit_bias) > MAX_BIASES:
            return params
        return replace(params, logit_bias={**params.logit_bias, **new})

    def n_cached(self, ids: List[int], scope: bytes = b"") -> int:
        """How many of the first of `ids` a request of that scope would find in the cache now."""
        return self.scheduler.n_cached(ids, Content.root(scope))

    def step(self) -> list[Output]:
        """Runs one batch; returns what it added to the requests that grew or ended."""
        work = self.scheduler.schedule()
        if not work:
            assert not self._requests, "requests are waiting and none of them can run"
            return []
        budget = self.plan.step_tokens - sum(item.n_tokens for item in work)
        work = self._speculation.extend(work, budget, self.scheduler.lend)
        self._note_start(work)
        results = self._compute(work)
        return self._outputs(self.scheduler.advance(work, results))

    def logits(self, batch: Batch) -> tuple[NDArray[np.float32], SamplingKernel]:
        """Runs a batch of the caller's own blocks; logits of the ids there are, and the kernel."""
        logits = to_array(self._runner.run(batch))
        return np.ascontiguousarray(logits[:, : self._n_ids]), self._kernel

    def scoring(self, ids: tuple[int, ...], n_top: int, scope: bytes) -> Scoring:
        """Reads a text between steps for the log-probabilities of its tokens."""
        return Scoring(self, ids, n_top, scope)

    def abort(self, request_id: int) -> Output | None:
        """Ends a request and frees its blocks at once; None if it has ended already."""
        request = self._requests.get(request_id)
        if request is None:
            return None
        self.scheduler.finish(request.sequence, "abort")
        return self._outputs([request.sequence])[0]

    def _compute(self, work: list[Work]) -> list[list[Draw] | Failure]:
        """One result for each sequence of the step.

        If the batch as a whole fails, its parts are run apart, so that what cannot be computed ends
        alone: writing the same keys and values twice changes nothing. A guess that cannot be
        computed ends nothing.
        """
        try:
            return self._run(work)
        except Exception as error:
            if len(work) == 1 and not work[0].draft:
                return [Failure(f"{type(error).__name__}: {error}")]
            if len(work) == 1:
                return self._compute([replace(work[0], draft=())])
        return [result for item in work for result in self._compute([item])]

    def _run(self, work: list[Work]) -> list[list[Draw] | Failure]:
        shares = [item.share for item in work]
        logits = self._runner.run(flatten(shares))  # the only line that touches the device
        due: list[Sequence] = []
        ahead: list[tuple[int, ...]] = []
        for item, share in zip(work, shares, strict=True):
            if share.n_logits:
                self._constrain(logits, len(due), item.sequence)
            due += [item.sequence] * share.n_logits
            ahead += [item.draft[:i] for i in range(share.n_logits)]
        draws = iter(self._sampler.draw(logits, due, ahead) if due else [])
        return [
            _confirmed(item.draft, list(islice(draws, share.n_logits)))
            for item, share in zip(work, shares, strict=True)
        ]

    def _constrain(self, logits: Logits, row: int, sequence: Sequence) -> None:
        constraint = self._requests[sequence.request_id].constraint
        if constraint is None or not sequence.is_led:
            return
        allowed = constraint.allowed(sequence.tokens[sequence.n_prompt :])
        if allowed is None:
            sequence.is_led = False
        elif isinstance(logits, np.ndarray):
            apply(logits, row, allowed)
        else:
            logits.allow(row, allowed)

    def _note_start(self, work: Iterable[Work]) -> None:
        now = self._clock()
        for item in work:
            request = self._requests[item.sequence.request_id]
            if request.started_at is None:
                request.started_at = now

    def _outputs(self, sequences: Iterable[Sequence]) -> list[Output]:
        now = self._clock()
        outputs = []
        for sequence in sequences:
            request = self._requests[sequence.request_id]
            if request.first_token_at is None:
                request.first_token_at = now
            text, token_ids, logprobs = sequence.reply.take()
            completion = None
            if sequence.finish_reason is not None:
                self._speculation.forget(sequence)
                completion = _completion(request, now)
                del self._requests[sequence.request_id]
            piece = Piece(
                text=text,
                token_ids=token_ids,
                logprobs=logprobs,
                finish_reason=sequence.finish_reason,
                completion=completion,
            )
            outputs.append(Output(sequence.request_id, piece))
        return outputs


def _confirmed(draft: tuple[int, ...], draws: list[Draw]) -> list[Draw]:
    """The draws that follow from tokens drawn: those that repeat the draft, and the one after."""
    n = 0
    while n < len(draft) and draws[n].token_id == draft[n]:
        n += 1
    return draws[: n + 1]


def _completion(request: _Request, now: float) -> Completion:
    sequence, reply = request.sequence, request.sequence.reply
    assert sequence.finish_reason is not None, "only what has ended is complete"
    started = now if request.started_at is None else request.started_at
    first = now if request.first_token_at is None else request.first_token_at
    n_reused = sequence.n_reused or 0
    return Completion(
        text=reply.text,
        token_ids=tuple(reply.token_ids),
        finish_reason=sequence.finish_reason,
        logprobs=None if reply.logprobs is None else tuple(reply.logprobs),
        prompt_tokens=sequence.n_prompt,
        cached_tokens=n_reused,
        seed=sequence.seed,
        timings=Timings(
            prompt_tokens=sequence.n_prompt,
            cached_tokens=n_reused,
            completion_tokens=len(reply.token_ids),
            queue_s=started - request.added_at,
            prefill_s=first - started,
            decode_s=now - first,
            drafted_tokens=sequence.n_drafted,
            accepted_tokens=sequence.n_accepted,
        ),
        error=sequence.error,
        stop_string=reply.stop_string,
    )
