"""`LLM.solve`: a model draws, the sandbox judges."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from codellama.engine.params import MAX_STOPS, SamplingParams
from codellama.engine.sampler import seed_of
from codellama.errors import RequestError
from codellama.sandbox import Sandbox
from codellama.solve import (
    Answer,
    Continuation,
    Form,
    Hole,
    Judge,
    Search,
    Solved,
    most_agreed,
    search,
)
from codellama.solve.search import TEMPERATURES
from codellama.text.trim import room_for_prompt, trim

if TYPE_CHECKING:
    from codellama.engine.llm import LLM


def solve(
    llm: LLM,
    task: str | None,
    *,
    prefix: str | None = None,
    suffix: str | None = None,
    tests: str | Judge | None = None,
    entry_point: str | None = None,
    n: int = 50,
    batch: int = 8,
    temperatures: Sequence[float] = TEMPERATURES,
    params: SamplingParams | None = None,
    box: Sandbox | None = None,
    told: Callable[[Search], None] | None = None,
) -> Solved:
    """What `LLM.solve` does; `told` hears of the search after each batch.

    Raises:
        RequestError: there is no task, or two.
        SandboxUnavailable: programs cannot be isolated here.
    """
    form = form_of(task, prefix, suffix)
    base = stopping(form, SamplingParams(max_tokens=512) if params is None else params)
    seed = int.from_bytes(os.urandom(8), "little") if base.seed is None else base.seed

    near = _near(llm, form, base) if isinstance(form, Hole) else ("", "")

    def draw(temperature: float, count: int, first: int) -> list[str]:
        drawn = dataclasses.replace(base, temperature=temperature, seed=seed_of(seed, first))
        if task is not None:
            found = llm.chat([{"role": "user", "content": task}], drawn, n=count)
        elif isinstance(form, Hole):
            found = llm.infill(prefix=near[0], suffix=near[1], params=drawn, n=count)
        else:
            found = llm.complete(form.before, drawn, n=count)
        return [one.text for one in found]

    opened = Sandbox.open() if box is None else box
    try:
        if tests is None:
            return _unverified(draw, form, opened, entry_point, n, batch, temperatures, told)
        judge = tests if callable(tests) else by_assertions(opened, tests, entry_point)
        return search(
            draw, judge, form, n=n, batch=batch, temperatures=temperatures,
            n_workers=opened.n_workers, told=told,
        )  # fmt: skip
    finally:
        if box is None:
            opened.close()


def _near(llm: LLM, hole: Hole, params: SamplingParams) -> tuple[str, str]:
    """What the model is shown of a hole's surroundings."""
    fit = trim(
        (hole.prefix, hole.suffix),
        llm.tokenizer,
        room_for_prompt(llm.max_seq_len, params.max_tokens),
        allow_control=False,
        may_drop=True,
    )
    return fit.prefix, fit.suffix


def form_of(task: str | None, prefix: str | None, suffix: str | None) -> Form:
    """How replies become source: to a task, between two texts, or after one.

    Raises:
        RequestError: there is no task, or two.
    """
    if (task is None) == (prefix is None) or (task is not None and suffix is not None):
        raise RequestError("give a task, or a prefix that is to be continued or filled up")
    if prefix is None:
        return Answer()
    return Continuation(prefix) if suffix is None else Hole(prefix, suffix)


def stopping(form: Form, params: SamplingParams) -> SamplingParams:
    """`params` with the form's stops too: what comes after them would be drawn for nothing."""
    return dataclasses.replace(params, stop=(*params.stops, *form.stops)[:MAX_STOPS])


def by_assertions(box: Sandbox, tests: str, entry_point: str | None) -> Judge:
    """A judge that runs assertions, as `Sandbox.check` does."""
    return lambda source: box.check(source, tests, entry_point)


def _unverified(
    draw: Callable[[float, int, int], Sequence[str]],
    form: Form,
    box: Sandbox,
    entry_point: str | None,
    n: int,
    batch: int,
    temperatures: Sequence[float],
    told: Callable[[Search], None] | None,
) -> Solved:
    state = Search(form, n, batch=batch, temperatures=temperatures)
    while (wanted := state.wanted()) is not None:
        state.n_tried += len(state.take(draw(wanted.temperature, wanted.n, wanted.first)))
        if told is not None:
            told(state)
    return agreed(state, box, entry_point)


def agreed(state: Search, box: Sandbox, entry_point: str | None) -> Solved:
    """The outcome of a search without tests."""
    found = most_agreed(box, state.candidates, entry_point)
    if found is None:
        return state.solved(None, "no candidate has a function that runs", verified=False)
    source, share = found
    reason = f"unverified: {share:.0%} of the candidates give the same outputs on generated inputs"
    return state.solved(source, reason, verified=False, agreement=share)
