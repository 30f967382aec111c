"""What a server asks of an engine: take requests, step, say what came out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from codellama.engine.constraint import Constraint
from codellama.engine.engine import Output
from codellama.engine.params import SamplingParams
from codellama.engine.plan import EnginePlan
from codellama.engine.prompts import Prompt
from codellama.engine.scoring import Score


class ScoringSteps(Protocol):
    """A text being scored: `step` until it is true, then `result`; or `close`."""

    def step(self) -> bool: ...
    def result(self) -> Score: ...
    def close(self) -> None: ...


class Stepping(Protocol):
    """An engine as a server drives it, from one thread; `Engine` documents each member.

    `step` may wait for what comes, but no longer than some hundredths of a second: commands are
    taken between steps.
    """

    @property
    def can_constrain(self) -> bool: ...

    @property
    def plan(self) -> EnginePlan: ...

    @property
    def n_requests(self) -> int: ...

    @property
    def n_running(self) -> int: ...

    @property
    def cache_usage(self) -> float: ...

    def check(self, prompt: Prompt, params: SamplingParams) -> None: ...

    def add(
        self,
        prompt: Prompt,
        params: SamplingParams,
        *,
        seed: int | None = None,
        scope: bytes = b"",
        constraint: Constraint | None = None,
    ) -> int: ...

    def n_cached(self, ids: Sequence[int], scope: bytes = b"") -> int: ...

    def step(self) -> list[Output]: ...

    def abort(self, request_id: int) -> Output | None: ...

    def scoring(self, ids: tuple[int, ...], n_top: int, scope: bytes) -> ScoringSteps: ...
