"""Completion of one line at the end of a long file, in the form of LCC.

Guo et al. 2023, "LongCoder"; the Code Llama paper, table 7. A file longer than the context loses
its start. Exact match, and BLEU of the line's words.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from codellama.errors import ConfigError
from codellama.eval import rows, summaries
from codellama.eval.metrics import edit_similarity, exact_match, sentence_bleu, words
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

LANGUAGES = ("python", "java", "csharp")


@dataclass(frozen=True, kw_only=True)
class Lines:
    language: str = "python"
    name: str = "lines"
    sampling: Sampling = GREEDY

    @property
    def title(self) -> str:
        return f"Line completion on long files (LCC), {self.language}"

    @property
    def variant(self) -> str:
        return self.language

    @property
    def files(self) -> tuple[str, ...]:
        return (f"lcc_{self.language}.jsonl", f"LCC_{self.language}.jsonl", "test.jsonl")

    @property
    def hub(self) -> str:
        return f"microsoft/LCC_{self.language}:data/test-*.parquet"

    def problems(self, rows_: Iterable[Row]) -> Iterator[Problem]:
        for number, row in enumerate(rows_):
            text = rows.first(row, "context", "input", "prompt").rstrip("\n") + "\n"
            ask = Ask(kind="complete", text=text, stop=("\n",), max_tokens=100, cut="start")
            yield Problem(id=str(row.get("id", number)), ask=ask, row=row, group=self.language)

    def work(self, problem: Problem, reply: Reply) -> Measured:
        wanted = rows.first(problem.row, "gt", "answer", "groundtruth")
        return Measured(
            measures={
                "exact_match": exact_match(reply.text, wanted),
                "bleu": 100 * sentence_bleu(words(reply.text), words(wanted)),
                "edit_similarity": edit_similarity(reply.text, wanted),
            }
        )

    def summary(self, judged: Sequence[Judged]) -> Summary:
        units = {"exact_match": "%", "bleu": "", "edit_similarity": "%"}
        return Summary(figures=tuple(summaries.means(judged, units)))


def _make(options: Options) -> Lines:
    language = options.language or "python"
    if language not in LANGUAGES:
        raise ConfigError(
            f"line completion has no language {language!r}",
            hint=f"give --language and one of {', '.join(LANGUAGES)}",
        )
    return Lines(language=language)


SUITES = {"lines": _make}
