"""Self-instruct and verified conversations: what passes is kept, and stopping loses nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from codellama.errors import ConfigError, SandboxUnavailable
from codellama.sandbox import Sandbox
from codellama.train.corpus import Document
from codellama.train.decontaminate import Fingerprints
from codellama.train.self_instruct import (
    SelfInstruct,
    asserts_of,
    listed,
    self_instruct,
    solution_of,
)
from codellama.train.verified import make_verified, mutants, program

GOOD = "[PYTHON]\ndef double(x):\n    return 2 * x\n[/PYTHON]"
BAD = "[PYTHON]\ndef double(x):\n    return x + 2\n[/PYTHON]"
TESTS = (
    "Here.\n[TESTS]\n#Test case 1:\nassert double(4) == 8\n#Test case 2:\nassert double(0) == 0\n"
    "[/TESTS]"
)


class _Stop(BaseException):
    pass


class _Model:
    """Says what a model might, counts, and dies at the call it is told to."""

    def __init__(self, dies_at: int | None = None) -> None:
        self.asked: list[str] = []
        self.dies_at = dies_at

    def replies(
        self, question: str, *, n: int, temperature: float, max_tokens: int | None, seed: int
    ) -> list[str]:
        self.asked.append(question)
        if len(self.asked) == self.dies_at:
            raise _Stop
        if "programming problems" in question:
            # Another list for every seed, and one line that all of them have.
            return [
                f"1. Return twice the number {seed} and a little more.\n2) Double all numbers.\n"
            ]
        if "Write 5 tests" in question:
            return [TESTS if "twice" in question.rsplit("Problem:", 1)[1] else "no idea"]
        assert temperature == 0.8
        return [BAD, "no code", *[GOOD] * (n - 2)]


@pytest.fixture(scope="module")
def box() -> Iterator[Sandbox]:
    try:
        opened = Sandbox.open(n_workers=1)
    except SandboxUnavailable as error:
        pytest.skip(f"no sandbox here: {error}")
    with opened:
        yield opened


def test_the_first_solution_that_passes_is_kept(tmp_path: Path, box: Sandbox) -> None:
    model = _Model()
    found = self_instruct(tmp_path, SelfInstruct(n_problems=4), model, model, box)
    assert found["proposed"] == 6  # the same line came three times
    assert found["distinct"] == found["kept after decontamination"] == 4
    assert (found["with tests"], found["without tests"]) == (3, {"no tags": 1})
    assert (found["solved"], found["solutions run"]) == (3, 6)
    assert json.loads((tmp_path / "yield.json").read_text()) == found
    talks = [
        json.loads(line) for line in (tmp_path / "conversations.jsonl").read_text().splitlines()
    ]
    assert len(talks) == 3
    assert talks[0][1]["content"] == GOOD
    assert "assert double(4) == 8" in talks[0][0]["content"]


def test_a_stopped_run_goes_on_and_asks_nothing_twice(tmp_path: Path, box: Sandbox) -> None:
    whole = _Model()
    settings = SelfInstruct(n_problems=4)
    self_instruct(tmp_path / "whole", settings, whole, whole, box)
    asked: list[str] = []
    for dies_at in (2, 3, 2, 3, None):
        model = _Model(dies_at)
        try:
            self_instruct(tmp_path / "parts", settings, model, model, box)
        except _Stop:
            model.asked.pop()
            torn = tmp_path / "parts" / "solutions.jsonl"
            if torn.exists():  # a kill in the middle of a line
                torn.write_text(torn.read_text() + '{"problem": "Ret')
        asked += model.asked
    assert asked == whole.asked
    for name in ("problems", "tests", "solutions", "conversations"):
        one, two = ((tmp_path / n / f"{name}.jsonl").read_text() for n in ("whole", "parts"))
        assert one == two


def test_evaluation_problems_go(tmp_path: Path, box: Sandbox) -> None:
    marks = Fingerprints()
    marks.add("Please return twice the number 8 and more than ever before.", "p:1")
    assert marks.match("Return twice the number 7 and a little more.") is None
    marks.add("Return twice the number 7 and a little more.", "p:2")
    model = _Model()
    found = self_instruct(tmp_path, SelfInstruct(n_problems=3), model, model, box, evaluation=marks)
    assert found["distinct"] == 3
    assert found["kept after decontamination"] < 3


def test_a_model_with_nothing_new_to_say_is_an_error(tmp_path: Path) -> None:
    class Same(_Model):
        def replies(self, question: str, **settings: Any) -> list[str]:
            return ["1. Double every number given."]

    with pytest.raises(ConfigError, match="no new problem"):
        self_instruct(tmp_path, SelfInstruct(n_problems=2), Same(), Same(), None)  # type: ignore[arg-type]


def test_replies_are_read_with_care() -> None:
    assert listed("Sure!\n1. Reverse the words of a line.\n- Find the longest word.\nx") == [
        "Reverse the words of a line.", "Find the longest word.",
    ]  # fmt: skip
    assert asserts_of(TESTS) == ["assert double(4) == 8", "assert double(0) == 0"]
    assert asserts_of("[TESTS]\nassert (\n[/TESTS]") == asserts_of("assert 1") == []
    assert solution_of("```python\nx = 1\n```") == "x = 1\n"
    assert solution_of("[PYTHON]def f(:[/PYTHON]") is None


FUNCTION = '''def clamp(x, low, high):
    """Keep x between two limits.

    >>> clamp(5, 0, 3)
    3
    >>> clamp(-1, 0, 3), clamp(2, 0, 3)
    (0, 2)
    """
    # a comment
    if x < low:
        return low
    return high if x > high else x
'''


def test_verified_conversations_are_true(tmp_path: Path, box: Sandbox) -> None:
    broken = FUNCTION.replace("    3\n", "    4\n", 1).replace("clamp", "clump")
    needy = FUNCTION.replace("if x < low", "if helper(x) < low").replace("clamp", "claim")
    documents = [
        Document("p", f"{i}.py:1", "train", "function", text)
        for i, text in enumerate((FUNCTION, broken, needy, "def f():\n    '''No example.'''\n"))
    ]
    found = make_verified(documents, tmp_path, box)
    assert found == {"verified, with a bug to fix": 1, "examples fail alone": 2}
    lines = (tmp_path / "conversations.jsonl").read_text().splitlines()
    write, mend = (json.loads(line) for line in lines)
    assert write[1]["content"] == f"```python\n{FUNCTION.rstrip()}\n```"
    block = re.compile(r"```python\n(.*?)\n```", re.DOTALL)
    bug, fix = (block.search(message["content"]) for message in mend)
    assert bug is not None
    assert fix is not None
    assert box.run(program(bug[1] + "\n")).status == "error"
    assert box.run(program(fix[1] + "\n")).status == "ok"
    assert sum(a != b for a, b in zip(bug[1].split("\n"), fix[1].split("\n"), strict=True)) == 1
    before = (tmp_path / "verdicts.jsonl").read_text()
    assert make_verified(documents, tmp_path, None) == found  # type: ignore[arg-type]  # nothing runs
    assert (tmp_path / "verdicts.jsonl").read_text() == before


def test_mutants_differ_in_one_place() -> None:
    found = list(
        mutants("def f(a, b):\n    while a < 10 and not b:\n        a += 1\n    return a\n")
    )
    assert len(found) == len(set(found)) == 6  # the test, `and`, `<`, `10`, `+=`, `1`
