"""Problems, tests and solutions that models wrote, kept where the solution passes the tests.

The pipeline of Code Llama (arXiv 2308.12950, section 2.5): one model proposes problems, exact
copies go, another writes tests for each, then ten solutions at temperature 0.8 with one of the
tests shown; the first that passes all of them in the sandbox is kept. Every stage appends to a file
as it goes, so that a run that was stopped goes on with the next problem:

    problems.jsonl    one line a reply: the problems it listed
    tests.jsonl       one line a problem: its tests, or why there are none
    solutions.jsonl   one line a problem with tests: the solution that passed, if one did
    conversations.jsonl   question and answer of the solved ones, for the instruct stage
    yield.json        how many came and went at each step
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Protocol

from codellama.errors import ConfigError
from codellama.train.decontaminate import Fingerprints

N_SOLUTIONS, TEMPERATURE, N_TESTS, PER_REPLY = 10, 0.8, 5, 50
_MAX_TOKENS = {"tests": 512, "solutions": 768}
_NUMBERED = re.compile(r"^\s*(?:\d+[.):]|[-*])\s+(.{15,600})$")

_PROBLEMS = (
    "List {n} programming problems as an interviewer would set them, from easy to medium. Make "
    "them as different from each other as you can. Each must be solvable by one function that "
    "stands alone and uses nothing but the standard library. One numbered line for each problem, "
    "and nothing else."
)
_TESTS = """Write {n} tests for a Python problem, as assertions on one function, between [TESTS] \
and [/TESTS]. Put a comment line `#Test case n:` above each.

Problem: Return the sum of the even numbers of a list.
[TESTS]
#Test case 1:
assert sum_even([1, 2, 3, 4]) == 6
#Test case 2:
assert sum_even([]) == 0
[/TESTS]

Problem: {problem}"""
_SOLUTIONS = """Solve a Python problem by one function, between [PYTHON] and [/PYTHON]. The test \
says what the function is called.

Problem: Return the sum of the even numbers of a list.
Test: assert sum_even([1, 2, 3, 4]) == 6
[PYTHON]
def sum_even(numbers):
    return sum(n for n in numbers if n % 2 == 0)
[/PYTHON]

Problem: {problem}
Test: {test}"""


class Generator(Protocol):
    """A model that answers questions."""

    def replies(
        self, question: str, *, n: int, temperature: float, max_tokens: int | None, seed: int
    ) -> list[str]:
        """`n` replies to one question; without `max_tokens` as long as the context allows."""


class Checker(Protocol):
    """What decides whether a solution passes tests: a sandbox."""

    def check(self, solution: str, tests: str, entry_point: str | None) -> Any: ...


@dataclass(frozen=True, kw_only=True)
class SelfInstruct:
    """The settings of a run."""

    n_problems: int
    n_solutions: int = N_SOLUTIONS
    temperature: float = TEMPERATURE
    seed: int = 7

    def __post_init__(self) -> None:
        if self.n_problems <= 0 or self.n_solutions <= 0:
            raise ConfigError(
                f"{self.n_problems} problems with {self.n_solutions} solutions each: both must be "
                "above zero"
            )


def self_instruct(
    folder: Path,
    settings: SelfInstruct,
    proposes: Generator,
    solves: Generator,
    checker: Checker,
    *,
    evaluation: Fingerprints | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Carries out what `folder` lacks; gives the yield, which is in yield.json as well.

    `evaluation` holds marks of evaluation problems; a problem that shares one goes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    proposed = _problems(folder / "problems.jsonl", settings, proposes, note)
    distinct = list(dict.fromkeys(proposed))
    clean = [p for p in distinct if evaluation is None or evaluation.match(p) is None]
    clean = clean[: settings.n_problems]
    tested = _tests(folder / "tests.jsonl", clean, settings, solves, note)
    with_tests = [line for line in tested if line["tests"]]
    solved = _solutions(folder / "solutions.jsonl", with_tests, settings, solves, checker, note)
    kept = [line for line in solved if line["solution"] is not None]
    with (folder / "conversations.jsonl").open("w", encoding="utf-8") as out:
        for line in kept:
            out.write(json.dumps(conversation(line), ensure_ascii=False) + "\n")
    found = {
        "proposed": len(proposed),
        "distinct": len(distinct),
        "kept after decontamination": len(clean),
        "with tests": len(with_tests),
        "without tests": Counter(line["why"] for line in tested if not line["tests"]),
        "solutions run": sum(line["tried"] for line in solved),
        "solved": len(kept),
    }
    (folder / "yield.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return found


def conversation(line: dict[str, Any]) -> list[dict[str, str]]:
    """A solved problem as a question, with its first test, and an answer."""
    ask = f"{line['problem']}\nYour code should pass this test:\n\n{line['tests'][0]}"
    answer = f"[PYTHON]\n{line['solution'].strip()}\n[/PYTHON]"
    return [{"role": "user", "content": ask}, {"role": "assistant", "content": answer}]


def listed(reply: str) -> list[str]:
    """The problems of a numbered or bulleted list."""
    found = (_NUMBERED.match(line) for line in reply.splitlines())
    return [match[1].strip() for match in found if match]


def asserts_of(reply: str) -> list[str]:
    """The assertions between the tags that can be read, each as one text."""
    body = _between(reply, "TESTS")
    tree = _parsed(body) if body is not None else None
    if tree is None:
        return []
    return [ast.unparse(node) for node in tree.body if isinstance(node, ast.Assert)]


def solution_of(reply: str) -> str | None:
    """The code between the tags, or in a fenced block, if it is Python."""
    body = _between(reply, "PYTHON")
    if body is None:
        fence = re.search(r"```(?:python)?\n(.*?)```", reply, re.DOTALL)
        body = fence[1] if fence else None
    return body.strip("\n") + "\n" if body is not None and _parsed(body) is not None else None


def _problems(
    path: Path, settings: SelfInstruct, proposes: Generator, note: Callable[[str], None]
) -> list[str]:
    replies = [line["problems"] for line in read_lines(path)]
    found = [p for problems in replies for p in problems]
    n_empty = 0
    while len(dict.fromkeys(found)) < settings.n_problems:
        question = _PROBLEMS.format(n=min(PER_REPLY, settings.n_problems))
        (reply,) = proposes.replies(question, n=1, temperature=settings.temperature,
                                    max_tokens=None,
                                    seed=settings.seed + len(replies))  # fmt: skip
        problems = listed(reply)
        new = set(problems) - set(found)
        n_empty = 0 if new else n_empty + 1
        if n_empty == 3:
            raise ConfigError(
                "three replies in a row listed no new problem",
                hint="let a larger model propose them, or ask for fewer",
            )
        replies.append(problems)
        found += problems
        append_line(path, {"problems": problems})
        note(f"{len(dict.fromkeys(found))} of {settings.n_problems} problems")
    return found


def _tests(
    path: Path, problems: Sequence[str], settings: SelfInstruct, writes: Generator,
    note: Callable[[str], None],
) -> list[dict[str, Any]]:  # fmt: skip
    done = {line["problem"]: line for line in read_lines(path)}
    for i, problem in enumerate(problems):
        if problem in done:
            continue
        (reply,) = writes.replies(_TESTS.format(n=N_TESTS, problem=problem), n=1, temperature=0.0,
                                  max_tokens=_MAX_TOKENS["tests"], seed=settings.seed)  # fmt: skip
        tests = asserts_of(reply)
        why = None if tests else "no tags" if _between(reply, "TESTS") is None else "no assertions"
        done[problem] = {"problem": problem, "tests": tests, "why": why}
        append_line(path, done[problem])
        note(f"tests for {i + 1} of {len(problems)} problems")
    return [done[problem] for problem in problems]


def _solutions(
    path: Path, tested: Sequence[dict[str, Any]], settings: SelfInstruct, solves: Generator,
    checker: Checker, note: Callable[[str], None],
) -> list[dict[str, Any]]:  # fmt: skip
    done = {line["problem"]: line for line in read_lines(path)}
    for i, line in enumerate(tested):
        problem, tests = line["problem"], line["tests"]
        if problem in done:
            continue
        random = Random(f"{settings.seed}/{problem}")
        question = _SOLUTIONS.format(problem=problem, test=random.choice(tests))
        replies = solves.replies(question, n=settings.n_solutions,
                                 temperature=settings.temperature,
                                 max_tokens=_MAX_TOKENS["solutions"],
                                 seed=random.randrange(1 << 30))  # fmt: skip
        solution, tried = None, 0
        for code in filter(None, map(solution_of, replies)):
            tried += 1
            if checker.check(code, "\n".join(tests), None).passed:
                solution = code
                break
        done[problem] = line | {"solution": solution, "tried": tried}
        append_line(path, done[problem])
        n_solved = sum(entry["solution"] is not None for entry in done.values())
        note(f"{n_solved} solved of {i + 1}; {len(tested)} in all")
    return [done[line["problem"]] for line in tested]


def read_lines(path: Path) -> Iterator[Any]:
    """The whole lines of a JSONL file; a last one that was torn by a kill does not count."""
    if not path.is_file():
        return
    raw = path.read_bytes()
    end = raw.rfind(b"\n") + 1
    if end < len(raw):
        path.write_bytes(raw[:end])
    for number, line in enumerate(raw[:end].splitlines(), 1):
        try:
            yield json.loads(line)
        except ValueError as error:
            raise ConfigError(
                f"{path}: line {number} is not JSON: {error}",
                hint="delete the line; what it held is made again",
            ) from error


def append_line(path: Path, value: Any) -> None:
    """Adds one line, whole in the file when this returns."""
    with path.open("a", encoding="utf-8") as out:
        out.write(json.dumps(value, ensure_ascii=False) + "\n")


def _between(text: str, tag: str) -> str | None:
    match = re.search(rf"\[{tag}\]\n?(.*?)\[/{tag}\]", text, re.DOTALL)
    return match[1] if match else None


def _parsed(text: str) -> ast.Module | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
