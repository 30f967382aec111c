"""MultiPL-E: HumanEval translated to other languages. Cassano et al. 2022.

The program is prompt, reply and tests in one file, as in the benchmark's own runner; rows bring
their stop strings.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from codellama.errors import ConfigError
from codellama.eval import rows, summaries
from codellama.eval.suite import GREEDY, Ask, Build, Judged, Problem, Reply, Row, Sampling, Summary
from codellama.eval.suites import Options

LANGUAGES = ("cpp", "java", "php", "ts", "cs", "sh", "js", "rs", "go", "rb", "pl", "lua")
"""As the benchmark calls them; the first six are the paper's."""


@dataclass(frozen=True, kw_only=True)
class MultiplE:
    language: str
    name: str = "multipl-e"
    sampling: Sampling = GREEDY

    @property
    def title(self) -> str:
        return f"MultiPL-E HumanEval, {self.language}"

    @property
    def variant(self) -> str:
        return self.language

    @property
    def files(self) -> tuple[str, ...]:
        stem = f"humaneval-{self.language}"
        return (f"{stem}.jsonl", f"{stem}.jsonl.gz", f"{stem}.json", f"{stem}.parquet")

    @property
    def hub(self) -> str:
        return f"nuprl/MultiPL-E:humaneval-{self.language}/*.parquet"

    def problems(self, rows_: Iterable[Row]) -> Iterator[Problem]:
        for row in rows_:
            prompt = rows.text(row, "prompt")
            ask = Ask(kind="complete", text=prompt, stop=tuple(rows.texts(row, "stop_tokens")))
            yield Problem(id=rows.text(row, "name"), ask=ask, row=row, group=self.language)

    def work(self, problem: Problem, reply: Reply) -> Build:
        tests = rows.text(problem.row, "tests")
        return Build(
            language=self.language, program=f"{problem.ask.text}{reply.text}\n{tests}"
        )  # fmt: skip

    def summary(self, judged: Sequence[Judged]) -> Summary:
        return summaries.passing(judged)


def _make(options: Options) -> MultiplE:
    if options.language not in LANGUAGES:
        raise ConfigError(
            f"MultiPL-E needs a language, and got {options.language!r}",
            hint=f"give --language and one of {', '.join(LANGUAGES)}",
        )
    return MultiplE(language=options.language)


SUITES = {"multipl-e": _make}
