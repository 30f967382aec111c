"""MBPP: ids 11 to 510, three shots, or for chat none.

Prompt and the three examples (ids 2, 3, 4) are those of Austin et al. 2021, section 4, since the
Code Llama paper gives no text for them. Zero-shot chat asks for `[PYTHON]` tags, as its figure 13.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from codellama.errors import ConfigError
from codellama.eval import rows, summaries
from codellama.eval.suite import GREEDY, Ask, Check, Judged, Problem, Reply, Row, Sampling, Summary
from codellama.eval.suites import Options

SHOTS = (2, 3, 4)
IDS = range(11, 511)
_DONE = "[DONE]"


@dataclass(frozen=True, kw_only=True)
class Mbpp:
    chat: bool = False
    name: str = "mbpp"
    hub: str | None = "google-research-datasets/mbpp:full/*.parquet"
    files: tuple[str, ...] = ("mbpp.jsonl", "sanitized-mbpp.json")
    sampling: Sampling = GREEDY

    @property
    def title(self) -> str:
        return "MBPP, zero-shot chat" if self.chat else "MBPP, 3-shot"

    @property
    def variant(self) -> str:
        return "chat" if self.chat else ""

    def problems(self, rows_: Iterable[Row]) -> Iterator[Problem]:
        by_id = {_id(row): row for row in rows_}
        missing = [i for i in SHOTS if i not in by_id]
        if missing and not self.chat:
            raise ConfigError(
                f"the data has no row with task_id {missing[0]}, one of the three examples",
                hint="give the whole mbpp.jsonl, with all 974 rows",
            )
        shots = "" if self.chat else "".join(_shot(by_id[i]) for i in SHOTS)
        for number in IDS:
            if number in by_id:
                yield Problem(
                    id=str(number), ask=self._ask(by_id[number], shots), row=by_id[number]
                )

    def _ask(self, row: Row, shots: str) -> Ask:
        if self.chat:
            text = (
                f"{_task(row)}Your code should start with a [PYTHON] tag and end with a [/PYTHON] "
                "tag."
            )
            return Ask(kind="chat", text=text)
        return Ask(kind="complete", text=f"{shots}{_task(row)}[BEGIN]\n", stop=(_DONE, "\n```"))

    def work(self, problem: Problem, reply: Reply) -> Check:
        row = problem.row
        setup = str(row.get("test_setup_code") or "")
        imports = rows.texts(row, "test_imports") if "test_imports" in row else []
        return Check(
            solution=tagged(reply.text) if self.chat else reply.text,
            tests="\n".join([*imports, *([setup] if setup else []), *rows.texts(row, "test_list")]),
            entry_point=None,
        )

    def summary(self, judged: Sequence[Judged]) -> Summary:
        return summaries.passing(judged)


def tagged(text: str) -> str:
    """The program between `[PYTHON]` tags, or in a code fence, or all there is."""
    for pattern in (r"\[PYTHON\](.*?)(?:\[/PYTHON\]|\Z)", r"```(?:python)?\n(.*?)(?:```|\Z)"):
        found = re.search(pattern, text, re.DOTALL)
        if found:
            return found[1].strip("\n")
    return text


def _id(row: Row) -> int:
    value = row.get("task_id")
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"the row {value!r} has no number for `task_id`")
    return value


def _task(row: Row) -> str:
    tests = "\n".join(rows.texts(row, "test_list"))
    return (
        f"You are an expert Python programmer, and here is your task: "
        f"{rows.first(row, 'text', 'prompt')} Your code should pass these tests:\n\n{tests}\n"
    )


def _shot(row: Row) -> str:
    code = rows.text(row, "code").replace("\r\n", "\n")
    return f"{_task(row)}[BEGIN]\n{code}\n{_DONE}\n\n"


def _make(options: Options) -> Mbpp:
    return Mbpp(chat=options.chat)


SUITES = {"mbpp": _make}
