"""OpenAI's completions, with infilling, echo and log-probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import ConfigDict

from codellama.engine.completion import Completion, TokenLogprob
from codellama.engine.prompts import Prompt
from codellama.engine.scoring import Score
from codellama.server import grammars, prompting
from codellama.server.answers import whole
from codellama.server.checks import check_bundle, no_stream_of_nothing, too_many
from codellama.server.refusals import Refusal, encode
from codellama.server.routes import replay, tabby
from codellama.server.schema import Body, CompletionRequest, TabbyRequest
from codellama.server.served import Served
from codellama.server.shapes import (
    CompletionChunks,
    by_deadline,
    counts,
    legacy_logprobs,
    timings,
    token_text,
    usage,
)
from codellama.server.streaming import SSE, events
from codellama.server.web import Call, Endpoint, validated


class _Anything(Body):
    """A body whose kind is decided by its fields."""

    model_config = ConfigDict(extra="allow")


async def completions(call: Call, anything: _Anything) -> None:
    """`POST /v1/completions`: OpenAI's, or Tabby's where the body says so."""
    fields: dict[str, Any] = anything.model_extra or {}
    if "prompt" not in fields and fields.keys() & {"segments", "language"}:
        await tabby.complete(call, validated(call, TabbyRequest, fields))
        return
    body = validated(call, CompletionRequest, fields)
    served = call.state.find(body.model)
    _check_choices(call, body)
    check_bundle(body, is_selected=max(body.best_of or 1, body.n) > body.n)
    if body.stream and body.max_tokens == 0:
        raise no_stream_of_nothing()
    prompts, texts = await _prompts(call, served, body)
    wanted = body.max_tokens if "max_tokens" in body.model_fields_set else None
    prompting.check_fits(served, prompts, wanted)
    for prompt in prompts:
        served.service.engine.check(prompt, prompting.drawn(call.state.settings))
    is_scored = body.echo and body.logprobs is not None
    entries = sum(len(prompt.ids) for prompt in prompts) * body.n if is_scored else 0
    with served.service.reserved(entries, body.logprobs or 0):
        await _complete(call, served, body, prompts, texts)


async def _complete(
    call: Call,
    served: Served,
    body: CompletionRequest,
    prompts: Sequence[Prompt],
    texts: Sequence[str],
) -> None:
    n, best_of = body.n, max(body.n, body.best_of or 1)
    logprobs = body.logprobs
    params = prompting.params(
        call.state.settings, body, max_tokens=body.max_tokens,
        logprobs=0 if logprobs is None and best_of > n else logprobs,
    )  # fmt: skip
    scores: list[Score | None] = [None] * len(prompts)
    if body.echo and logprobs is not None:
        scores = [
            await call.unless_gone(served.service.score(prompt.ids, logprobs, call.key_scope))
            for prompt in prompts
        ]
    chunks = CompletionChunks(served.name, call.state.version)
    echo = _Echo(served, prompts, texts, scores, n, body)
    if body.max_tokens == 0:
        await _answer_without_reply(call, served, prompts, chunks, echo, n)
        return
    constraint = await grammars.constraint(call, served, body.response_format, prompts)
    generation = served.service.submit(
        list(prompts), params, best_of, scope=call.key_scope, constraint=constraint
    )
    generation.be_done_in(body.deadline_ms)
    async with call.watching(generation):
        if body.stream:
            await call.stream(
                SSE,
                events(
                    call, generation, chunks, options=body.stream_options,
                    logprobs=None if logprobs is None else echo.entries, before=echo.chunks(),
                ),
            )  # fmt: skip
            return
        found = await whole(generation)
    kept = _best(found, best_of, n)
    shown = [by_deadline(generation, one) for one in kept]
    choices = [
        {
            "index": i,
            "text": echo.text(i) + shown[i][0],
            "logprobs": None if logprobs is None else echo.logprobs(i, one.logprobs or ()),
            "finish_reason": generation.reason(one),
            **shown[i][1],
        }
        for i, one in enumerate(kept)
    ]
    if body.bundle:
        made = await replay.bundles(call, served, generation, kept)
        for choice, bundle in zip(choices, made, strict=True):
            choice["bundle"] = bundle
    answer = {
        "id": chunks.id,
        "object": "text_completion",
        "created": chunks.created,
        "model": served.name,
        "system_fingerprint": call.state.version,
        "choices": choices,
        "usage": usage(found, best_of),
        "timings": timings(found[0]),
    }
    await call.json(answer)


class _Echo:
    """What of the prompts comes back with the replies, and where replies' log-probabilities go."""

    def __init__(
        self,
        served: Served,
        prompts: Sequence[Prompt],
        texts: Sequence[str],
        scores: Sequence[Score | None],
        n: int,
        body: CompletionRequest,
    ) -> None:
        self._tokenizer = served.model.tokenizer
        self._prompts, self._texts, self._scores = prompts, texts, scores
        self._n = n
        self._is_on = body.echo
        self._with_ids = body.return_token_ids
        self._offsets = [
            sum(len(token_text(self._tokenizer, i)) for i in prompt.ids) if body.echo else 0
            for prompt in prompts
        ]
        self._shown = [0] * (n * len(prompts))

    def text(self, reply: int) -> str:
        return self._texts[reply // self._n] if self._is_on else ""

    def prompt_entries(self, reply: int) -> list[tuple[int, TokenLogprob | None]]:
        prompt = reply // self._n
        score = self._scores[prompt]
        if score is None:
            return []
        return list(zip(self._prompts[prompt].ids, score.logprobs, strict=True))

    def logprobs(self, reply: int, entries: Sequence[TokenLogprob]) -> dict[str, Any]:
        """The prompt's entries, where asked for, and those of the whole reply."""
        both = self.prompt_entries(reply) + [(e.token_id, e) for e in entries]
        return legacy_logprobs(self._tokenizer, both, with_ids=self._with_ids)

    def entries(self, reply: int, entries: Sequence[TokenLogprob]) -> dict[str, Any]:
        """The next entries of a streamed reply."""
        offset = self._offsets[reply // self._n] + self._shown[reply]
        found = legacy_logprobs(
            self._tokenizer, ((e.token_id, e) for e in entries), offset, with_ids=self._with_ids
        )
        self._shown[reply] += sum(map(len, found["tokens"]))
        return found

    def chunks(self) -> list[tuple[int, str, str]]:
        """Chunks that repeat the prompts before a stream's first token."""
        found = []
        for reply in range(len(self._shown)) if self._is_on else ():
            entries = self.prompt_entries(reply)
            shown = (
                encode(legacy_logprobs(self._tokenizer, entries)).decode() if entries else "null"
            )
            found.append((reply, self.text(reply), shown))
        return found


async def _prompts(
    call: Call, served: Served, body: CompletionRequest
) -> tuple[list[Prompt], list[str]]:
    """The prompts of a body as ids, and as texts for `echo`."""
    given: Any = body.prompt
    several = isinstance(given, list) and not isinstance(given[0] if given else "", int)
    items = given if several else [given]
    limit = call.state.settings.limits.prompts
    if not 1 <= len(items) <= limit:
        raise Refusal(
            400, f"`prompt` holds {len(items)} prompts; expected 1 to {limit}",
            code="invalid_value", param="prompt",
        )  # fmt: skip
    # What is repeated and scored is one text in one order.
    order = body.order or ("psm" if body.echo or body.max_tokens == 0 else None)
    told = prompting.telling(call, order, seed=body.seed, wanted=body.response_format)
    if body.suffix is not None:
        if body.echo or len(items) > 1 or not isinstance(items[0], str):
            raise Refusal(
                400, "`suffix` goes with one prompt that is a text, and without `echo`",
                code="invalid_value", param="suffix",
            )  # fmt: skip
        made = await prompting.infill(call, served, items[0], body.suffix, told)
        return [prompting.with_stop_ids(made, body.stop_token_ids)], [items[0]]
    prompts, texts = [], []
    for item in items:
        if isinstance(item, str):
            prompts.append(await prompting.text_prompt(call, served, item, told))
            texts.append(item)
        else:
            prompts.append(prompting.ids_prompt(served, item))
            texts.append(served.model.tokenizer.decode(item) if body.echo else "")
    return [prompting.with_stop_ids(p, body.stop_token_ids) for p in prompts], texts


async def _answer_without_reply(
    call: Call,
    served: Served,
    prompts: Sequence[Prompt],
    chunks: CompletionChunks,
    echo: _Echo,
    n: int,
) -> None:
    """`max_tokens` 0: the prompts themselves, scored where asked for."""
    answer = {
        "id": chunks.id,
        "object": "text_completion",
        "created": chunks.created,
        "model": served.name,
        "system_fingerprint": call.state.version,
        "choices": [
            {
                "index": i,
                "text": echo.text(i),
                "logprobs": echo.logprobs(i, ()) if echo.prompt_entries(i) else None,
                "finish_reason": "length",
            }
            for i in range(n * len(prompts))
        ],
        "usage": counts(sum(len(prompt.ids) for prompt in prompts), 0),
    }
    await call.json(answer)


def _check_choices(call: Call, body: CompletionRequest) -> None:
    limit = call.state.settings.limits.choices
    for name, value in (("n", body.n), ("best_of", body.best_of or 1)):
        if value > limit:
            raise too_many(name, value, limit)
    if body.best_of is not None and body.best_of < body.n:
        raise Refusal(
            400, f"`best_of` is {body.best_of} and `n` is {body.n}; the best are taken of more",
            code="invalid_value", param="best_of",
        )  # fmt: skip
    if body.stream and (body.best_of or 1) > body.n:
        raise Refusal(
            400, "`best_of` above `n` cannot be streamed: the best is known at the end",
            code="invalid_value", param="best_of",
        )  # fmt: skip


def _best(found: Sequence[Completion], best_of: int, n: int) -> list[Completion]:
    """Of each prompt's replies the `n` with the highest mean log-probability, best first."""
    if best_of == n:
        return list(found)
    kept: list[Completion] = []
    for i in range(0, len(found), best_of):
        group = sorted(found[i : i + best_of], key=_mean_logprob, reverse=True)
        kept += group[:n]
    return kept


def _mean_logprob(one: Completion) -> float:
    entries = one.logprobs or ()
    return sum(entry.logprob for entry in entries) / len(entries) if entries else 0.0


ENDPOINTS: list[Endpoint[Any]] = [
    Endpoint("/v1/completions", ("POST",), completions, _Anything, generates=True),
]
