"""`POST /v1/solve`: candidates are drawn until one passes the tests of the request."""

from __future__ import annotations

import asyncio
import dataclasses
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

from pydantic import Field

from codellama.engine.params import SamplingParams
from codellama.engine.prompts import Prompt
from codellama.engine.sampler import seed_of
from codellama.engine.solving import agreed, by_assertions, form_of, stopping
from codellama.sandbox import Sandbox
from codellama.server import prompting
from codellama.server.answers import whole
from codellama.server.refusals import Refusal
from codellama.server.schema import Drawing, Message
from codellama.server.served import Served
from codellama.server.web import Call, Endpoint
from codellama.solve import Form, Search, Solved
from codellama.solve.search import judged

_MASK = (1 << 64) - 1
_MOST_AT_ONCE = 2
_BATCH = 8  # replies in one request to the engine, as for other routes


class SolveRequest(Drawing):
    """A task for the chat form, or a prefix to go on with, or a hole; and tests for it.

    `tests` are assertions or a `check` function, as `Sandbox.check` takes them; without them the
    candidate that most agree with is the answer, and it is not verified.
    """

    task: str | None = None
    prefix: str | None = None
    suffix: str | None = None
    tests: Annotated[str, Field(max_length=1 << 20)] | None = None
    entry_point: Annotated[str, Field(max_length=256)] | None = None
    n: Annotated[int, Field(ge=1, le=200)] = 50
    max_tokens: Annotated[int, Field(ge=1, le=4096)] = 512


async def solve(call: Call, body: SolveRequest) -> None:
    """Answers with the source, a diff and what was counted; 503 where nothing can be isolated."""
    served = call.state.find(body.model)
    form = form_of(body.task, body.prefix, body.suffix)
    prompt = await _prompt(call, served, body)
    prompting.check_fits(served, [prompt], body.max_tokens)
    if call.state.n_solving >= _MOST_AT_ONCE:
        raise Refusal(429, "other searches are running", code="overloaded", retry_after=10)
    call.state.n_solving += 1
    try:
        found = await _solve(call, served, body, form, prompt)
    finally:
        call.state.n_solving -= 1
    await call.json({"object": "solution", "model": served.name, **dataclasses.asdict(found)})


async def _solve(
    call: Call, served: Served, body: SolveRequest, form: Form, prompt: Prompt
) -> Solved:
    """Searches in a sandbox that ends with the request, and all that runs in it."""
    loop = asyncio.get_running_loop()
    box = await loop.run_in_executor(None, lambda: Sandbox.open(n_workers=2))
    try:
        return await call.unless_gone(_search(call, served, body, form, prompt, box))
    finally:
        await asyncio.shield(loop.run_in_executor(None, box.close))


async def _search(
    call: Call, served: Served, body: SolveRequest, form: Form, prompt: Prompt, box: Sandbox
) -> Solved:
    loop = asyncio.get_running_loop()
    state = Search(form, body.n, batch=_BATCH)
    base = body.seed if body.seed is not None else int.from_bytes(os.urandom(8), "little")
    params = prompting.params(call.state.settings, body, max_tokens=body.max_tokens)
    params = stopping(form, params)
    reason = "no candidate is Python"

    def first_that_passes(sources: list[str]) -> tuple[str | None, str]:
        last = reason
        judge = by_assertions(box, body.tests or "", body.entry_point)
        with ThreadPoolExecutor(box.n_workers, thread_name_prefix="solve") as threads:
            for source, verdict in judged(threads, judge, sources):
                state.n_tried += 1
                last = verdict.reason
                if verdict.passed:
                    return source, last
        return None, last

    while (wanted := state.wanted()) is not None:
        drawn = dataclasses.replace(
            params, temperature=wanted.temperature, seed=seed_of(base & _MASK, wanted.first)
        )
        new = state.take(await _draw(call, served, prompt, drawn, wanted.n))
        if body.tests is None:
            state.n_tried += len(new)
            continue
        source, reason = await loop.run_in_executor(None, first_that_passes, new)
        if source is not None:
            return state.solved(source, reason, verified=True)
    if body.tests is not None:
        return state.solved(None, reason, verified=False)
    return await loop.run_in_executor(None, agreed, state, box, body.entry_point)


async def _draw(
    call: Call, served: Served, prompt: Prompt, params: SamplingParams, n: int
) -> list[str]:
    generation = served.service.submit([prompt], params, n, scope=call.key_scope)
    try:
        return [one.text for one in await whole(generation)]
    finally:
        generation.cancel()


async def _prompt(call: Call, served: Served, body: SolveRequest) -> Prompt:
    if body.task is not None:
        return await prompting.chat(call, served, [Message(role="user", content=body.task)])
    prefix = body.prefix or ""
    if body.suffix is None:
        return await prompting.text_prompt(call, served, prefix)
    told = prompting.Telling(order="psm")  # each of many replies is to the same prompt
    hole, _ = await prompting.trimmed_infill(
        call, served, prefix, body.suffix, body.max_tokens, told
    )
    return hole


ENDPOINTS: list[Endpoint[Any]] = [
    Endpoint("/v1/solve", ("POST",), solve, SolveRequest, generates=True),
]
