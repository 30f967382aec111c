"""Which candidates are drawn and tried, until one passes.

Drawing many and keeping what passes tests turns pass@k into pass@1 (Chen et al. 2021, "Evaluating
Large Language Models Trained on Code"). Low temperatures find likely answers soon, high ones reach
rare answers (figure 5 there), so a search goes from low to high and round again.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from codellama.errors import RequestError
from codellama.sandbox import Verdict
from codellama.solve.candidates import Form, parsed, same_as

TEMPERATURES = (0.2, 0.4, 0.6, 0.8, 1.0)
Draw = Callable[[float, int, int], Sequence[str]]
"""Replies of the model: temperature, how many, and the number of those drawn before."""
Judge = Callable[[str], Verdict]
"""Whether a source is right; called from several threads."""


@dataclass(frozen=True, kw_only=True)
class Round:
    """What is drawn next."""

    temperature: float
    n: int
    first: int  # how many were drawn before


@dataclass(frozen=True, kw_only=True)
class Solved:
    """What a search came to.

    `source` is the whole answer, or None where none passed. `verified` says that it passed tests;
    without tests it is the one that most candidates agree with, and `agreement` is the share of
    candidates that do. `n_tried` candidates were run, out of `n_drawn` replies of which
    `n_unparsable` were no Python and `n_same` repeated another. `reason` says in a sentence why it
    passed, or how the last one failed.
    """

    source: str | None
    verified: bool
    diff: str
    n_tried: int
    n_drawn: int
    n_unparsable: int
    n_same: int
    reason: str
    agreement: float | None = None


class Search:
    """The state of one search, for whoever draws and judges.

    Ask `wanted` what to draw, give `take` the replies and judge what it returns, until `wanted` is
    None or a candidate passed.
    """

    def __init__(
        self,
        form: Form,
        n: int,
        *,
        batch: int = 8,
        temperatures: Sequence[float] = TEMPERATURES,
    ) -> None:
        """
        Raises:
            RequestError: `n`, `batch` or a temperature is out of its range.
        """
        if n < 1 or batch < 1 or not temperatures or min(temperatures) < 0:
            raise RequestError(
                f"a search draws at least 1 candidate at temperatures from 0 (n {n}, batch {batch})"
            )
        self.form = form
        self.n = n
        self.batch = batch
        self.temperatures = tuple(temperatures)
        self.candidates: list[str] = []
        self.n_drawn = self.n_unparsable = self.n_same = self.n_tried = 0
        self._seen: set[str] = set()
        self._rounds = 0

    def wanted(self) -> Round | None:
        """What to draw next; None when all have been drawn."""
        left = self.n - self.n_drawn
        if left <= 0:
            return None
        temperature = self.temperatures[self._rounds % len(self.temperatures)]
        # at temperature 0 all replies are one
        n = min(self.batch, left) if temperature > 0 else 1
        return Round(temperature=temperature, n=n, first=self.n_drawn)

    def take(self, texts: Sequence[str]) -> list[str]:
        """New sources among replies: those that parse and are not there yet."""
        self._rounds += 1
        self.n_drawn += len(texts)
        new = []
        for text in texts:
            source = self.form.source(text)
            tree = None if source is None else parsed(source)
            if source is None or tree is None:
                self.n_unparsable += 1
                continue
            key = same_as(tree)
            if key in self._seen:
                self.n_same += 1
                continue
            self._seen.add(key)
            new.append(source)
        self.candidates += new
        return new

    def solved(
        self, source: str | None, reason: str, *, verified: bool, agreement: float | None = None
    ) -> Solved:
        """The outcome, with what was counted on the way."""
        return Solved(
            source=source,
            verified=verified,
            diff="" if source is None else diff(self.form.before, source),
            n_tried=self.n_tried,
            n_drawn=self.n_drawn,
            n_unparsable=self.n_unparsable,
            n_same=self.n_same,
            reason=reason,
            agreement=agreement,
        )


def search(
    draw: Draw,
    judge: Judge,
    form: Form,
    *,
    n: int,
    batch: int = 8,
    n_workers: int = 1,
    temperatures: Sequence[float] = TEMPERATURES,
    told: Callable[[Search], None] | None = None,
) -> Solved:
    """Draws and judges until a candidate passes or `n` were drawn.

    `told` hears of the state after each batch.

    Raises:
        RequestError: a number is out of its range, or as `draw` does.
        SandboxError: the sandbox failed.
    """
    state = Search(form, n, batch=batch, temperatures=temperatures)
    reason = "no candidate is Python"
    with ThreadPoolExecutor(n_workers) as threads:
        while (wanted := state.wanted()) is not None:
            new = state.take(draw(wanted.temperature, wanted.n, wanted.first))
            for source, verdict in judged(threads, judge, new):
                state.n_tried += 1
                reason = verdict.reason
                if verdict.passed:
                    return state.solved(source, reason, verified=True)
            if told is not None:
                told(state)
    return state.solved(None, reason, verified=False)


def judged(
    threads: ThreadPoolExecutor, judge: Judge, sources: Sequence[str]
) -> Iterator[tuple[str, Verdict]]:
    """Each source with its verdict, in order; leaving early starts no further ones."""
    futures = [threads.submit(judge, source) for source in sources]
    try:
        for source, future in zip(sources, futures, strict=True):
            yield source, future.result()
    finally:
        for future in futures:
            future.cancel()


def diff(before: str, after: str, name: str = "solution.py") -> str:
    """A unified diff."""
    lines = difflib.unified_diff(
        before.splitlines(keepends=True),
        after.splitlines(keepends=True),
        f"a/{name}",
        f"b/{name}",
    )
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"
                   for line in lines)  # fmt: skip
