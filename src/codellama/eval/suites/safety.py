"""TruthfulQA, ToxiGen and BOLD: what a model says is judged by a program that the user names.

The Code Llama paper, section 4.1 and table 9: temperature 0.1, top-p 0.9. Its judges are two tuned
models (true, informative), a classifier (toxic) and VADER (sentiment), none of which comes with
this package. The scorer reads a JSON object on each line and answers each with a JSON object of
numbers: `true` and `informative`, `toxic`, or `sentiment`.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from codellama.errors import ConfigError
from codellama.eval import rows, summaries
from codellama.eval.suite import Ask, Judged, Problem, Reply, Row, Sampling, Summary, ToScore
from codellama.eval.suites import Options

_DRAWN = Sampling(temperature=0.1, top_p=0.9)
_LEFT_OUT = ("hinduism", "atheism")
_SHOTS = 6


@dataclass(frozen=True, kw_only=True)
class TruthfulQA:
    chat: bool
    seed: int
    name: str = "truthfulqa"
    title: str = "TruthfulQA"
    variant: str = ""
    hub: str | None = "truthfulqa/truthful_qa:generation/*.parquet"
    files: tuple[str, ...] = ("TruthfulQA.csv", "truthfulqa.jsonl")
    sampling: Sampling = _DRAWN

    def problems(self, rows_: Iterable[Row]) -> Iterator[Problem]:
        pairs = [_pair(row) for row in rows_]
        if len(pairs) <= _SHOTS:
            raise ConfigError(f"the data has {len(pairs)} questions; {_SHOTS + 1} are needed")
        for number, (question, answer) in enumerate(pairs):
            others = [pair for pair in pairs if pair[0] != question]
            shots = random.Random(f"{self.seed} {number}").sample(others, _SHOTS)
            text = "".join(f"Q: {q}\nA: {a}\n\n" for q, a in shots) + f"Q: {question}\nA:"
            ask = (
                Ask(kind="chat", text=question, max_tokens=100)
                if self.chat
                else Ask(kind="complete", text=text, stop=("\n", "Q:"), max_tokens=100)
            )
            row = {"question": question, "best_answer": answer}
            yield Problem(id=str(number), ask=ask, row=row)

    def work(self, problem: Problem, reply: Reply) -> ToScore:
        return ToScore(
            fields={"question": str(problem.row["question"]), "answer": reply.text.strip()}
        )

    def summary(self, judged: Sequence[Judged]) -> Summary:
        both = [
            _with(one, "true_and_informative", one.measures["true"] * one.measures["informative"])
            for one in judged
            if {"true", "informative"} <= one.measures.keys()
        ]
        units = dict.fromkeys(("true_and_informative", "informative", "true"), "%")
        return Summary(figures=tuple(summaries.means(both, units)))


@dataclass(frozen=True, kw_only=True)
class ToxiGen:
    chat: bool
    name: str = "toxigen"
    title: str = "ToxiGen"
    variant: str = ""
    hub: str | None = None
    files: tuple[str, ...] = ("toxigen.jsonl",)
    sampling: Sampling = _DRAWN

    def problems(self, rows_: Iterable[Row]) -> Iterator[Problem]:
        for number, row in enumerate(rows_):
            ask = _continue(rows.first(row, "prompt", "text"), self.chat)
            group = str(row.get("group", row.get("target_group", "")))
            yield Problem(id=str(row.get("id", number)), ask=ask, row=row, group=group)

    def work(self, problem: Problem, reply: Reply) -> ToScore:
        return ToScore(fields={"prompt": problem.ask.text, "text": reply.text})

    def summary(self, judged: Sequence[Judged]) -> Summary:
        return _in_all_and_by_group(judged, "toxic", "%")


@dataclass(frozen=True, kw_only=True)
class Bold:
    chat: bool
    name: str = "bold"
    title: str = "BOLD"
    variant: str = ""
    hub: str | None = None
    files: tuple[str, ...] = ("bold.jsonl",)
    sampling: Sampling = _DRAWN

    def problems(self, rows_: Iterable[Row]) -> Iterator[Problem]:
        for number, row in enumerate(rows_):
            category = str(row.get("category", ""))
            if category.lower() in _LEFT_OUT:  # as in the paper: too few prompts
                continue
            prompts = rows.texts(row, "prompts") if "prompts" in row else [rows.text(row, "prompt")]
            for i, prompt in enumerate(prompts):
                ask = _continue(prompt, self.chat)
                yield Problem(
                    id=f"{number}/{i}", ask=ask, row=row, group=str(row.get("domain", ""))
                )

    def work(self, problem: Problem, reply: Reply) -> ToScore:
        return ToScore(fields={"prompt": problem.ask.text, "text": problem.ask.text + reply.text})

    def summary(self, judged: Sequence[Judged]) -> Summary:
        return _in_all_and_by_group(judged, "sentiment", "")


def _continue(prompt: str, chat: bool) -> Ask:
    return Ask(kind="chat" if chat else "complete", text=prompt, stop=("\n",), max_tokens=100)


def _pair(row: Row) -> tuple[str, str]:
    return rows.first(row, "question", "Question"), rows.first(row, "best_answer", "Best Answer")


def _in_all_and_by_group(judged: Sequence[Judged], measure: str, unit: str) -> Summary:
    in_all = [_with(one, measure, one.measures.get(measure), group="") for one in judged]
    groups = judged if any(one.problem.group for one in judged) else []
    figures = [*summaries.means(in_all, {measure: unit}), *summaries.means(groups, {measure: unit})]
    return Summary(figures=tuple(figures))


def _with(one: Judged, measure: str, value: float | None, group: str | None = None) -> Judged:
    problem = one.problem if group is None else replace(one.problem, group=group)
    measures = dict(one.measures) | ({} if value is None else {measure: value})
    return replace(one, problem=problem, measures=measures)


def _truthfulqa(options: Options) -> TruthfulQA:
    return TruthfulQA(chat=options.chat, seed=options.seed)


def _toxigen(options: Options) -> ToxiGen:
    return ToxiGen(chat=options.chat)


def _bold(options: Options) -> Bold:
    return Bold(chat=options.chat)


SUITES = {"truthfulqa": _truthfulqa, "toxigen": _toxigen, "bold": _bold}
