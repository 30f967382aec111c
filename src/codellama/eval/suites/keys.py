"""Key retrieval: a number said once in a long prompt is asked for at its end.

The Code Llama paper, appendix G.2: Python functions joined to the wanted length, with a function
that returns a two-digit number at a relative position among them.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from codellama.errors import ConfigError
from codellama.eval import rows, summaries
from codellama.eval.suite import (
    GREEDY,
    Ask,
    Curve,
    Judged,
    Measured,
    Problem,
    Reply,
    Row,
    Sampling,
    Summary,
)
from codellama.eval.suites import Options

LENGTHS = (2000, 4000, 8000, 16000, 24000)
POSITIONS = (0.0, 0.2, 0.4, 0.6, 0.8)
_KEY = (
    'def my_function() -> int:\n    """Note that this function is used at the end\n    """\n'
    "    return {key}\n\n\n"
)
_END = "assert my_function() == "


@dataclass(frozen=True, kw_only=True)
class Keys:
    lengths: tuple[int, ...]
    n_examples: int
    seed: int
    count: Callable[[str], int]
    name: str = "keys"
    title: str = "Key retrieval"
    variant: str = ""
    hub: str | None = None
    files: tuple[str, ...] = ()
    sampling: Sampling = GREEDY

    def problems(self, rows_: Iterable[Row]) -> Iterator[Problem]:
        filler = [one for row in rows_ for one in functions(rows.first(row, "text", "code"))]
        if not filler:
            raise ConfigError("the data has no Python function to fill prompts with")
        sizes = [max(1, self.count(one)) for one in filler]
        frame = self.count(_KEY.format(key=10) + _END)
        for length in self.lengths:
            for position in POSITIONS:
                for i in range(self.n_examples):
                    draw = random.Random(f"{self.seed} {length} {position} {i}")
                    key = draw.randrange(10, 100)
                    parts = _fill(filler, sizes, length - frame, draw)
                    at = round(position * len(parts))
                    text = "".join([*parts[:at], _KEY.format(key=key), *parts[at:], _END])
                    yield Problem(
                        id=f"{length}/{position}/{i}",
                        ask=Ask(kind="complete", text=text, stop=("\n",), max_tokens=8),
                        row={"key": key},
                        group=f"{length}/{position:g}",
                    )

    def work(self, problem: Problem, reply: Reply) -> Measured:
        said = re.match(r"\s*(\d+)", reply.text)
        right = said is not None and int(said[1]) == problem.row["key"]
        return Measured(measures={"accuracy": float(right)})

    def summary(self, judged: Sequence[Judged]) -> Summary:
        figures = tuple(summaries.means(judged, {"accuracy": "%"}))
        lines: dict[str, list[tuple[float, float]]] = {}
        for figure in figures:
            length, position, _ = figure.key.split("/")
            lines.setdefault(f"{length} tokens", []).append((float(position), 100 * figure.value))
        curve = Curve(title="Retrieval by position", x_label="relative position of the key",
                      y_label="% found", lines=lines)  # fmt: skip
        return Summary(figures=figures, curves=(curve,) if lines else ())


def functions(text: str) -> Iterator[str]:
    """The functions at the left margin of a Python text, as they stand, each with a gap behind."""
    for found in re.finditer(r"^(?:async )?def .*\n(?:[ \t].*\n|\n)*", text, re.MULTILINE):
        if 100 <= len(found[0]) <= 4000 and "my_function" not in found[0]:
            yield found[0].rstrip() + "\n\n\n"


def _fill(filler: Sequence[str], sizes: Sequence[int], room: int, draw: random.Random) -> list[str]:
    parts: list[str] = []
    misses = 0
    while misses < 20:
        i = draw.randrange(len(filler))
        if sizes[i] <= room:
            parts.append(filler[i])
            room -= sizes[i]
        else:
            misses += 1
    return parts


def _make(options: Options) -> Keys:
    return Keys(
        lengths=options.lengths or LENGTHS,
        n_examples=options.examples or 64,
        seed=options.seed,
        count=options.count,
    )


SUITES = {"keys": _make}
