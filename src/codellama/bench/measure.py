"""Repetitions of the same work on several engines, taking turns."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

Seconds = float


@dataclass(frozen=True, kw_only=True)
class Work:
    """A prompt of n tokens, or n steps of `n_streams` sequences; always from an empty cache."""

    kind: Literal["prefill", "decode"]
    n: int
    n_streams: int = 1

    @property
    def n_tokens(self) -> int:
        """Tokens that are read or made."""
        return self.n * self.n_streams

    def __str__(self) -> str:
        streams = f" x {self.n_streams} streams" if self.n_streams > 1 else ""
        return f"{self.kind} {self.n}{streams}"


class Engine(Protocol):
    """What can be measured; see `process.EngineProcess`."""

    name: str

    def prefill(self, n: int) -> Seconds: ...

    def decode(self, n: int, n_streams: int) -> Seconds: ...


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Tokens per second of one engine at one kind of work, one number per repetition."""

    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    @property
    def low(self) -> float:
        return min(self.samples)

    @property
    def high(self) -> float:
        return max(self.samples)


@dataclass
class Results:
    """Rates by engine and work."""

    rates: dict[tuple[str, Work], list[float]] = field(default_factory=dict)

    def add(self, engine: str, work: Work, seconds: Seconds) -> None:
        self.rates.setdefault((engine, work), []).append(work.n_tokens / seconds)

    def of(self, engine: str, work: Work) -> Rates | None:
        found = self.rates.get((engine, work))
        return None if found is None else Rates(samples=tuple(found))


def run(engine: Engine, work: Work) -> Seconds:
    """Seconds that an engine takes for one repetition."""
    if work.kind == "prefill":
        return engine.prefill(work.n)
    return engine.decode(work.n, work.n_streams)


def interleave(
    engines: Sequence[Engine],
    works: Sequence[Work],
    *,
    n_repeats: int,
    between: Callable[[int], None] = lambda repetition: None,
) -> Results:
    """Every engine does every work once per repetition, and another one begins each time.

    A repetition before the first warms up and does not count. `between` is called before each
    repetition that counts, with its number from 0.
    """
    results = Results()
    for repetition in range(-1, n_repeats):
        if repetition >= 0:
            between(repetition)
        for i, work in enumerate(works):
            first = (repetition + i) % len(engines)
            for engine in [*engines[first:], *engines[:first]]:
                seconds = run(engine, work)
                if repetition >= 0:
                    results.add(engine.name, work, seconds)
    return results
