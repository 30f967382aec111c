"""Perplexity of long files, by how much of the file the model has read.

The Code Llama paper, figure 4a: files of at least 50 kB. A file longer than the context loses its
end. Tokens are put together by their position: those at 128 to 255, 256 to 511 and so on.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from codellama.errors import ConfigError
from codellama.eval import rows
from codellama.eval.suite import (
    GREEDY,
    Ask,
    Curve,
    Figure,
    Judged,
    Measured,
    Problem,
    Reply,
    Row,
    Sampling,
    Summary,
)
from codellama.eval.suites import Options

MIN_BYTES = 50_000
_FIRST = 128


@dataclass(frozen=True, kw_only=True)
class Perplexity:
    name: str = "perplexity"
    title: str = "Perplexity by length"
    variant: str = ""
    hub: str | None = None
    files: tuple[str, ...] = ("long-files.jsonl",)
    sampling: Sampling = GREEDY

    def problems(self, rows_: Iterable[Row]) -> Iterator[Problem]:
        found = False
        for number, row in enumerate(rows_):
            text = rows.first(row, "text", "content", "code")
            if len(text.encode()) < MIN_BYTES:
                continue
            found = True
            ask = Ask(kind="score", text=text, cut="end")
            yield Problem(id=str(row.get("id", row.get("path", number))), ask=ask, row=row)
        if not found:
            raise ConfigError(f"the data has no text of {MIN_BYTES // 1000} kB or more")

    def work(self, problem: Problem, reply: Reply) -> Measured:
        sums: dict[str, float] = defaultdict(float)
        for position, logprob in enumerate(reply.logprobs or (), 1):  # 0 is <s>
            end = max(_FIRST, 1 << position.bit_length())
            sums[f"nats@{end}"] -= logprob
            sums[f"tokens@{end}"] += 1
        return Measured(measures=sums)

    def summary(self, judged: Sequence[Judged]) -> Summary:
        nats: dict[int, float] = defaultdict(float)
        tokens: dict[int, float] = defaultdict(float)
        for one in judged:
            for key, value in one.measures.items():
                what, _, end = key.partition("@")
                (nats if what == "nats" else tokens)[int(end)] += value
        if not tokens:
            return Summary(figures=())
        points = [(end, math.exp(nats[end] / tokens[end])) for end in sorted(tokens)]
        whole = math.exp(sum(nats.values()) / sum(tokens.values()))
        figures = [
            Figure(key="perplexity", label="perplexity", value=whole,
                   n=int(sum(tokens.values())), unit=""),
            *(
                Figure(key=f"perplexity@{end}", label=f"perplexity of tokens before {end}",
                       value=value, n=int(tokens[end]), unit="")
                for end, value in points
            ),
        ]  # fmt: skip
        curve = Curve(
            title="Perplexity by position", x_label="tokens read (log)", y_label="perplexity",
            lines={"perplexity": points}, log_x=True,
        )  # fmt: skip
        return Summary(figures=tuple(figures), curves=(curve,))


def _make(options: Options) -> Perplexity:
    return Perplexity()


SUITES = {"perplexity": _make}
