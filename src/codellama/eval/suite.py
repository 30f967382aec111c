"""What a suite is: problems for a model, and what becomes of its replies."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from codellama.engine.prompts import Order

Row = Mapping[str, Any]
Kind = Literal["complete", "infill", "chat", "score"]


@dataclass(frozen=True, kw_only=True)
class Ask:
    """One thing to ask a model: to continue `text`, to write what belongs between it and `suffix`,
    to answer it as a message, or to say how likely each of its tokens is ("score").

    A text that is longer than the context loses its start or its end where `cut` says so, and is
    refused otherwise.
    """

    kind: Kind
    text: str
    suffix: str = ""
    order: Order = "psm"
    stop: tuple[str, ...] = ()
    max_tokens: int = 512
    cut: Literal["start", "end"] | None = None


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How replies are drawn: `n` to each problem. Temperature 0 takes the likeliest token."""

    n: int = 1
    temperature: float = 0.0
    top_p: float = 0.95
    seed: int = 0
    max_tokens: int | None = None
    """Instead of the suite's own limit."""


GREEDY = Sampling()


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What came back. `error` says why nothing did; `logprobs` answers "score"."""

    text: str = ""
    finish: str = "stop"
    n_tokens: int = 0
    logprobs: tuple[float, ...] | None = None
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One problem: its name in the data, what to ask, and the row it came from.

    Figures are given for each `group`, such as a language, a difficulty or a position.
    """

    id: str
    ask: Ask
    row: Row
    group: str = ""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A reply that needs no run: numbers to average."""

    measures: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class ToScore:
    """A text for the program that the user named as a scorer."""

    fields: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Check:
    """A reply as a Python program and the tests it is to pass; further numbers beside that."""

    solution: str
    tests: str
    entry_point: str | None
    measures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Cases:
    """A program that reads standard input, and what it is to print for each."""

    program: str
    cases: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Build:
    """A program of another language with its tests, in one file that is built and run."""

    language: str
    program: str


Work = Measured | ToScore | Check | Cases | Build


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A reply with its verdict: whether it passed (None where nothing was run) and its numbers."""

    problem: Problem
    sample: int
    reply: Reply
    passed: bool | None
    reason: str
    measures: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One number of a report. `error` is a standard error; `key` finds the paper's figure.

    `unit` is "%" for shares from 0 to 1, which are shown as percent, or a word.
    """

    key: str
    label: str
    value: float
    n: int
    unit: str = "%"
    error: float | None = None


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Points of a picture, each line with its name."""

    title: str
    x_label: str
    y_label: str
    lines: Mapping[str, Sequence[tuple[float, float]]]
    log_x: bool = False


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The numbers of a run, and the pictures they make."""

    figures: tuple[Figure, ...]
    curves: tuple[Curve, ...] = ()


class Suite(Protocol):
    """A benchmark. `variant` tells apart runs of one suite, such as the order of infilling."""

    @property
    def name(self) -> str: ...
    @property
    def variant(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def sampling(self) -> Sampling:
        """What the protocol asks for."""
        ...

    @property
    def files(self) -> tuple[str, ...]:
        """What its file is called where users have it; none for a suite that makes its own text."""
        ...

    @property
    def hub(self) -> str | None:
        """A data set of the hub and the files in it, as `owner/name:pattern`."""
        ...

    def problems(self, rows_: Iterable[Row]) -> Iterator[Problem]:
        """The problems of a file's rows. Raises ConfigError for a row that is not one."""
        ...

    def work(self, problem: Problem, reply: Reply) -> Work:
        """What is to be run or averaged."""
        ...

    def summary(self, judged: Sequence[Judged]) -> Summary:
        """The run's numbers."""
        ...
