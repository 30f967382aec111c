"""APPS: problems of three difficulties with hidden tests on standard input or by calls.

Hendrycks et al. 2021. Two-shot `Q:`/`A:` blocks, or for chat one message; the code is asked for
inside triple single quotes, and programs are not filtered by example tests, as in the Code Llama
paper, section 3.1 and appendix. The two worked examples are our own, since the paper's are not in
its text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from codellama.errors import ConfigError
from codellama.eval import rows, summaries
from codellama.eval.suite import (
    Ask,
    Cases,
    Check,
    Judged,
    Problem,
    Reply,
    Row,
    Sampling,
    Summary,
    Work,
)
from codellama.eval.suites import Options

_DRAWN = Sampling(n=5, temperature=0.6)
_FENCE = "'''"
_ASKED = (
    "Write a Python program that solves the problem. {how} Put the code inside triple single "
    "quotes."
)
_READS = "It must read from and write to standard IO."
_CALLS = "It must use the provided function signature."


@dataclass(frozen=True, kw_only=True)
class Apps:
    chat: bool = False
    name: str = "apps"
    hub: str | None = "codeparrot/apps:test.jsonl"
    files: tuple[str, ...] = ("test.jsonl", "apps.jsonl")
    sampling: Sampling = _DRAWN

    @property
    def title(self) -> str:
        return "APPS, zero-shot chat" if self.chat else "APPS, 2-shot"

    @property
    def variant(self) -> str:
        return "chat" if self.chat else ""

    def problems(self, rows_: Iterable[Row]) -> Iterator[Problem]:
        for row in rows_:
            if not _tests(row)["inputs"]:
                continue  # nothing to judge it by
            yield Problem(
                id=str(row.get("problem_id", row.get("id"))),
                ask=self._ask(row),
                row=row,
                group=rows.text(row, "difficulty"),
            )

    def _ask(self, row: Row) -> Ask:
        question = rows.text(row, "question").strip()
        starter = str(row.get("starter_code") or "").strip("\n")
        how = _CALLS if _tests(row)["fn_name"] else _READS
        asked = f"{question}\n{_ASKED.format(how=how)}" + (f"\n{starter}" if starter else "")
        if self.chat:
            return Ask(kind="chat", text=asked, max_tokens=1024)
        text = f"{_SHOTS}Q: {asked}\nA: {_FENCE}\n"
        return Ask(kind="complete", text=text, stop=(_FENCE, "\nQ:"), max_tokens=1024)

    def work(self, problem: Problem, reply: Reply) -> Work:
        program = _code(reply.text) if self.chat else reply.text
        tests = _tests(problem.row)
        pairs = list(zip(tests["inputs"], tests["outputs"], strict=False))
        if tests["fn_name"] is None:
            return Cases(program=program, cases=tuple((_said(i), _said(o)) for i, o in pairs))
        # A method of `Solution` or a plain function: the program says which by what it defines.
        program += _CALL.format(name=tests["fn_name"])
        lines = [_SAME] + [f"assert same(solve_by_call(*{i!r}), {o!r})" for i, o in pairs]
        return Check(solution=program, tests="\n".join(lines), entry_point=None)

    def summary(self, judged: Sequence[Judged]) -> Summary:
        return summaries.passing(judged)


def _tests(row: Row) -> dict[str, Any]:
    value = row.get("input_output")
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else {}
        except ValueError as error:
            raise ConfigError(
                f"the row {row.get('problem_id')!r}: `input_output` is not JSON: {error}"
            ) from error
    found = value if isinstance(value, dict) else {}
    return {
        "inputs": found.get("inputs") or [],
        "outputs": found.get("outputs") or [],
        "fn_name": found.get("fn_name"),
    }


def _said(value: object) -> str:
    return "\n".join(map(str, value)) if isinstance(value, list) else str(value)


def _code(text: str) -> str:
    for pattern in (r"'''(?:python\n)?(.*?)(?:'''|\Z)", r"```(?:python)?\n(.*?)(?:```|\Z)"):
        found = re.search(pattern, text, re.DOTALL)
        if found:
            return found[1].strip("\n")
    return text


_CALL = """

def solve_by_call(*arguments):
    if "Solution" in globals():
        return getattr(Solution(), {name!r})(*arguments)
    return globals()[{name!r}](*arguments)
"""
_SAME = """
def same(got, wanted):
    if isinstance(got, tuple):
        got = list(got)
    return got == wanted or (isinstance(wanted, list) and len(wanted) == 1 and got == wanted[0])
"""
_SHOTS = f"""\
Q: You are given a whole number n and then n whole numbers, one on each line. Print their sum.
{_ASKED.format(how=_READS)}
A: {_FENCE}
n = int(input())
print(sum(int(input()) for _ in range(n)))
{_FENCE}

Q: Count the words of a sentence. Words are separated by single spaces.
{_ASKED.format(how=_CALLS)}
def count_words(sentence: str) -> int:
A: {_FENCE}
def count_words(sentence: str) -> int:
    return len(sentence.split(" "))
{_FENCE}

"""


def _make(options: Options) -> Apps:
    return Apps(chat=options.chat)


SUITES = {"apps": _make}
