"""Verdicts: every program in the sandbox, each different one once."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from codellama.errors import ConfigError
from codellama.eval import toolchains
from codellama.eval.suite import (
    Build,
    Cases,
    Check,
    Judged,
    Measured,
    Problem,
    Reply,
    Suite,
    ToScore,
    Work,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

Progress = Callable[[int, int], None]


class Ruling(Protocol):
    @property
    def passed(self) -> bool: ...
    @property
    def reason(self) -> str: ...


class Ended(Protocol):
    @property
    def status(self) -> str: ...
    @property
    def exit_code(self) -> int | None: ...
    @property
    def stdout(self) -> str: ...
    @property
    def stderr(self) -> str: ...
    @property
    def reason(self) -> str: ...


class Box(Protocol):
    """What is needed of `codellama.sandbox.Sandbox`."""

    @property
    def level(self) -> str: ...
    def check_many(self, checks: Iterable[tuple[str, str, str | None]]) -> Iterator[Ruling]: ...
    def run(
        self, program: str, *, stdin: str = "", files: Mapping[str, bytes] | None = None
    ) -> Ended: ...


OpenBox = Callable[[], AbstractContextManager[Box]]


class Tools:
    """What verdicts are made with; the sandbox is opened when the first program is to be run.

    Each may be absent where no suite of the run needs it. A context manager, which closes the
    sandbox.
    """

    def __init__(
        self,
        open_box: OpenBox | None = None,
        *,
        n_workers: int = 2,
        scorer: str | None = None,
    ) -> None:
        self._open_box = open_box
        self._stack = ExitStack()
        self._box: Box | None = None
        self.n_workers = n_workers
        self.scorer = scorer

    def box(self) -> Box:
        """Raises ConfigError where there is none, and SandboxError where it cannot be had."""
        if self._box is None:
            if self._open_box is None:
                raise ConfigError("this suite runs programs, and there is no sandbox for them")
            self._box = self._stack.enter_context(self._open_box())
        return self._box

    @property
    def level(self) -> str | None:
        """How programs were isolated; None where none was run."""
        return None if self._box is None else str(self._box.level)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._box = None
        self._stack.close()


def judge(
    suite: Suite,
    samples: Sequence[tuple[Problem, int, Reply]],
    tools: Tools,
    progress: Progress | None = None,
) -> list[Judged]:
    """The samples with their verdicts, in their order. A reply that is an error fails unrun.

    Raises:
        SandboxError: a program could not be isolated.
        ConfigError: a suite needs a scorer and none was named, or the scorer failed.
    """
    works = [None if reply.error else suite.work(problem, reply) for problem, _, reply in samples]
    distinct = list(dict.fromkeys(_key(work) for work in works if _is_run(work)))
    by_key = {_key(work): work for work in works if _is_run(work)}
    verdicts: dict[Any, tuple[bool, str]] = {}
    for done, (key, verdict) in enumerate(_verdicts(distinct, by_key, tools), 1):
        verdicts[key] = verdict
        if progress is not None:
            progress(done, len(distinct))
    scores = iter(_scores([w for w in works if isinstance(w, ToScore)], tools.scorer))
    found: list[Judged] = []
    for (problem, sample, reply), work in zip(samples, works, strict=True):
        measures: Mapping[str, float] = {}
        passed: bool | None = None
        reason = ""
        if work is None:
            passed, reason = False, f"no reply: {reply.error}"
        elif isinstance(work, Measured):
            measures = work.measures
        elif isinstance(work, ToScore):
            measures = next(scores)
        else:
            passed, reason = verdicts[_key(work)]
            measures = work.measures if isinstance(work, Check) else {}
        found.append(
            Judged(problem=problem, sample=sample, reply=reply, passed=passed, reason=reason,
                   measures=measures)
        )  # fmt: skip
    return found


def _is_run(work: Work | None) -> bool:
    return isinstance(work, (Check, Cases, Build))


def _key(work: Work | None) -> Any:
    """What a verdict depends on."""
    if isinstance(work, Check):
        return ("check", work.solution, work.tests, work.entry_point)
    if isinstance(work, Cases):
        return ("cases", work.program, work.cases)
    assert isinstance(work, Build), "only programs have verdicts"
    return ("build", work.language, work.program)


def _verdicts(
    keys: Sequence[Any], works: Mapping[Any, Work | None], tools: Tools
) -> Iterator[tuple[Any, tuple[bool, str]]]:
    checks = [key for key in keys if key[0] == "check"]
    if checks:
        rulings = tools.box().check_many((key[1], key[2], key[3]) for key in checks)
        for key, ruling in zip(checks, rulings, strict=True):
            yield key, (ruling.passed, ruling.reason)
    others = [key for key in keys if key[0] != "check"]
    if not others:
        return
    tools.box()  # opened once, before the threads
    with ThreadPoolExecutor(tools.n_workers) as pool:
        yield from zip(
            others, pool.map(lambda key: _run(works[key], tools), others), strict=True
        )  # fmt: skip


def _run(work: Work | None, tools: Tools) -> tuple[bool, str]:
    if isinstance(work, Build):
        return toolchains.run(tools.box(), work)
    assert isinstance(work, Cases), "nothing else is run here"
    box = tools.box()
    for number, (given, wanted) in enumerate(work.cases, 1):
        ran = box.run(work.program, stdin=given)
        if ran.status != "ok":
            last = ran.stderr.strip().splitlines()[-1:] or [""]
            return False, f"case {number} ended with {ran.status}: {last[0][:200]}"
        if _lines(ran.stdout) != _lines(wanted):
            return False, f"case {number} printed {ran.stdout[:100]!r}; expected {wanted[:100]!r}"
    return True, ""


def _lines(text: str) -> list[list[str]]:
    """Words of each line that has any: spaces and empty lines do not count."""
    return [line.split() for line in text.splitlines() if line.strip()]


def _scores(works: Sequence[ToScore], scorer: str | None) -> list[Mapping[str, float]]:
    """What the user's scorer says of each text: a JSON object of numbers for each line."""
    if not works:
        return []
    if scorer is None:
        raise ConfigError(
            "this suite is judged by a program of yours, and none was named",
            hint="give --scorer; docs/evaluate.md shows one for each suite",
        )
    given = "".join(json.dumps(dict(work.fields)) + "\n" for work in works)
    try:
        done = subprocess.run(
            shlex.split(scorer), input=given, capture_output=True, text=True, encoding="utf-8"
        )
    except OSError as error:
        raise ConfigError(f"the scorer {scorer!r} cannot be started: {error.strerror}") from error
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
        raise ConfigError(f"the scorer ended with exit code {done.returncode}: {last[0][:300]}")
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    if len(lines) != len(works):
        raise ConfigError(f"the scorer answered {len(lines)} lines to {len(works)}")
    return [_score(number, line) for number, line in enumerate(lines, 1)]


def _score(number: int, line: str) -> Mapping[str, float]:
    try:
        found = json.loads(line)
        return {str(name): float(value) for name, value in found.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"line {number} of the scorer's answer is no JSON object of numbers: {line[:100]!r}"
        ) from error
