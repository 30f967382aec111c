"""HumanEval infilling: a line, some lines or a span of the solution is cut out.

Bavarian et al. 2022, "Efficient Training of Language Models to Fill in the Middle". The program is
prefix, reply and suffix, run with the original tests; the reply ends at `<EOT>` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from codellama.engine.prompts import Order
from codellama.eval import rows, summaries
from codellama.eval.metrics import edit_similarity, exact_match
from codellama.eval.suite import GREEDY, Ask, Check, Judged, Problem, Reply, Row, Sampling, Summary
from codellama.eval.suites import Options


@dataclass(frozen=True, kw_only=True)
class Infilling:
    name: str
    title: str
    files: tuple[str, ...]
    max_tokens: int
    order: Order
    hub: str | None = None
    sampling: Sampling = GREEDY

    @property
    def variant(self) -> str:
        return self.order

    def problems(self, rows_: Iterable[Row]) -> Iterator[Problem]:
        for row in rows_:
            ask = Ask(
                kind="infill",
                text=rows.text(row, "prompt"),
                suffix=rows.text(row, "suffix"),
                order=self.order,
                max_tokens=self.max_tokens,
            )
            yield Problem(id=rows.text(row, "task_id"), ask=ask, row=row)

    def work(self, problem: Problem, reply: Reply) -> Check:
        cut_out = rows.text(problem.row, "canonical_solution")
        return Check(
            solution=problem.ask.text + reply.text + problem.ask.suffix,
            tests=rows.text(problem.row, "test"),
            entry_point=rows.text(problem.row, "entry_point"),
            measures={
                "exact_match": exact_match(reply.text, cut_out),
                "edit_similarity": edit_similarity(reply.text, cut_out),
            },
        )

    def summary(self, judged: Sequence[Judged]) -> Summary:
        return summaries.passing(judged, {"exact_match": "%", "edit_similarity": "%"})


def _maker(what: str, file: str, max_tokens: int) -> Callable[[Options], Infilling]:
    def make(options: Options) -> Infilling:
        return Infilling(
            name=f"infill-{what}",
            title=f"HumanEval infilling, {what.replace('-', ' ')}, {options.order.upper()}",
            files=(f"HumanEval-{file}.jsonl.gz", f"HumanEval-{file}.jsonl"),
            max_tokens=max_tokens,
            order=options.order,
        )

    return make


SUITES = {
    "infill-single-line": _maker("single-line", "SingleLineInfilling", 128),
    "infill-multi-line": _maker("multi-line", "MultiLineInfilling", 256),
    "infill-random-span": _maker("random-span", "RandomSpanInfilling", 256),
}
