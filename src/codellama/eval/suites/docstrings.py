"""Docstring generation on CodeXGLUE's code-to-text set, Python, by infilling.

As in the Code Llama paper, table 13: the hole is behind triple quotes and a space, with the closing
quotes left out; the first line that is not empty counts, by smoothed BLEU of up to four words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from codellama.engine.prompts import Order
from codellama.eval import rows, summaries
from codellama.eval.metrics import sentence_bleu, words
from codellama.eval.suite import (
    GREEDY,
    Ask,
    Judged,
    Measured,
    Problem,
    Reply,
    Row,
    Sampling,
    Summary,
)
from codellama.eval.suites import Options

_QUOTES = '"""'
_DOCSTRING = re.compile(
    r"""(?P<lead>\s*)[rRuU]*(?:(?P<three>\"{3}|'{3}).*?(?P=three)|(?P<one>["'])[^\n]*?(?P=one))""",
    re.DOTALL,
)


@dataclass(frozen=True, kw_only=True)
class Docstrings:
    order: Order = "psm"
    name: str = "docstrings"
    hub: str | None = "google/code_x_glue_ct_code_to_text:python/test-*.parquet"
    files: tuple[str, ...] = ("test.jsonl", "docstrings.jsonl")
    sampling: Sampling = GREEDY

    @property
    def title(self) -> str:
        return f"Docstrings, CodeXGLUE Python, {self.order.upper()}"

    @property
    def variant(self) -> str:
        return self.order

    def problems(self, rows_: Iterable[Row]) -> Iterator[Problem]:
        for number, row in enumerate(rows_):
            prefix, suffix = around_docstring(rows.first(row, "code", "original_string"))
            ask = Ask(
                kind="infill",
                text=prefix,
                suffix=suffix,
                order=self.order,
                stop=(_QUOTES,),
                max_tokens=128,
            )
            yield Problem(id=str(row.get("id", number)), ask=ask, row=row)

    def work(self, problem: Problem, reply: Reply) -> Measured:
        said = next((line for line in reply.text.splitlines() if line.strip()), "")
        wanted = problem.row.get("docstring_tokens")
        if wanted is None:
            wanted = words(rows.text(problem.row, "docstring"))
        wanted = words(" ".join(wanted).lower())
        return Measured(measures={"bleu": 100 * sentence_bleu(words(said.lower()), wanted)})

    def summary(self, judged: Sequence[Judged]) -> Summary:
        return Summary(figures=tuple(summaries.means(judged, {"bleu": ""})))


def around_docstring(code: str) -> tuple[str, str]:
    """A function's text before what its docstring says, quotes included, and after its end."""
    header = re.search(r":[ \t]*(?:#[^\n]*)?\n", code)
    start = header.end() if header else 0
    found = _DOCSTRING.match(code, start)
    if found is None:
        indent = re.match(r"[ \t]*", code[start:])
        return code[:start] + (indent[0] if indent else "") + _QUOTES + " ", "\n" + code[start:]
    return code[:start] + found["lead"] + _QUOTES + " ", code[found.end() :]


def _make(options: Options) -> Docstrings:
    return Docstrings(order=options.order)


SUITES = {"docstrings": _make}
