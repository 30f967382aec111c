"""HumanEval, and HumanEval+ with its many more inputs.

Zero-shot: the prompt as it is, ended by what begins the next statement. Chen et al. 2021; Liu et
al. 2023 (EvalPlus). The program is prompt and reply, as in the official scorer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from codellama.errors import ConfigError
from codellama.eval import rows, summaries
from codellama.eval.suite import GREEDY, Ask, Check, Judged, Problem, Reply, Row, Sampling, Summary
from codellama.eval.suites import Options

STOPS = ("\ndef", "\nclass", "\n#", "\nif", "\nprint", "\n@", "\n```")


@dataclass(frozen=True, kw_only=True)
class HumanEval:
    name: str = "humaneval"
    title: str = "HumanEval"
    variant: str = ""
    hub: str | None = "openai/openai_humaneval:*.parquet"
    files: tuple[str, ...] = ("HumanEval.jsonl.gz", "HumanEval.jsonl")
    sampling: Sampling = GREEDY

    def problems(self, rows_: Iterable[Row]) -> Iterator[Problem]:
        for row in rows_:
            ask = Ask(kind="complete", text=rows.text(row, "prompt"), stop=STOPS)
            yield Problem(id=rows.text(row, "task_id"), ask=ask, row=row)

    def work(self, problem: Problem, reply: Reply) -> Check:
        return Check(
            solution=problem.ask.text + reply.text,
            tests=rows.text(problem.row, "test"),
            entry_point=rows.text(problem.row, "entry_point"),
        )

    def summary(self, judged: Sequence[Judged]) -> Summary:
        return summaries.passing(judged)


@dataclass(frozen=True, kw_only=True)
class HumanEvalPlus:
    """HumanEval with EvalPlus's inputs: what the reference solution answers is what is right."""

    name: str = "humaneval-plus"
    title: str = "HumanEval+"
    files: tuple[str, ...] = ("HumanEvalPlus.jsonl.gz", "HumanEvalPlus-Mini.jsonl.gz")
    variant: str = ""
    hub: str | None = None
    sampling: Sampling = GREEDY

    def problems(self, rows_: Iterable[Row]) -> Iterator[Problem]:
        for row in rows_:
            ask = Ask(kind="complete", text=rows.text(row, "prompt"), stop=STOPS)
            yield Problem(id=rows.text(row, "task_id"), ask=ask, row=row)

    def work(self, problem: Problem, reply: Reply) -> Check:
        row = problem.row
        inputs = [*_inputs(row, "base_input"), *_inputs(row, "plus_input")]
        tests = _TESTS.format(
            reference=rows.text(row, "prompt") + rows.text(row, "canonical_solution"),
            name=rows.text(row, "entry_point"),
            inputs=inputs,
            atol=row.get("atol") or 0,
            same=_SPECIAL.get(rows.text(row, "entry_point"), "same(got, wanted)"),
        )
        return Check(
            solution=problem.ask.text + reply.text,
            tests=tests,
            entry_point=rows.text(row, "entry_point"),
        )

    def summary(self, judged: Sequence[Judged]) -> Summary:
        return summaries.passing(judged)


def _inputs(row: Row, name: str) -> list[object]:
    value = row.get(name)
    if not isinstance(value, list):
        raise ConfigError(f"the row {row.get('task_id')!r} has no list `{name}`")
    return value


# A root is right where the polynomial is almost nothing, whichever root it is.
_SPECIAL = {
    "find_zero": "abs(sum(c * got ** i for i, c in enumerate(arguments[0]))) <= max(atol, 1e-4)"
}

_TESTS = """
def reference_of(source, name):
    space = {{}}
    exec(source, space)
    return space[name]

def same(got, wanted):
    if isinstance(wanted, float) or isinstance(got, float):
        if not isinstance(got, (int, float)) or not isinstance(wanted, (int, float)):
            return False
        return got == wanted or abs(got - wanted) <= max(atol, 1e-6) + 1e-7 * abs(wanted)
    if isinstance(wanted, (list, tuple)) and type(got) is type(wanted):
        return len(got) == len(wanted) and all(map(same, got, wanted))
    return got == wanted

inf, nan = float("inf"), float("nan")
atol = {atol!r}
inputs = {inputs!r}

def check(candidate):
    from copy import deepcopy
    reference = reference_of({reference!r}, {name!r})
    for arguments in inputs:
        wanted = reference(*deepcopy(arguments))
        got = candidate(*deepcopy(arguments))
        assert {same}, arguments
"""


def _humaneval(options: Options) -> HumanEval:
    return HumanEval()


def _plus(options: Options) -> HumanEvalPlus:
    return HumanEvalPlus()


SUITES = {"humaneval": _humaneval, "humaneval-plus": _plus}
