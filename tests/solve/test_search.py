"""What is drawn, what is tried, and when a search ends."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock

import pytest

from codellama.errors import RequestError
from codellama.sandbox import Verdict
from codellama.solve import Answer, Continuation, Hole, Search, search
from codellama.solve.search import diff

RIGHT = "return 4"


class Judge:
    """Passes what holds the right text, and remembers what it was shown."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self._lock = Lock()

    def __call__(self, source: str) -> Verdict:
        with self._lock:
            self.seen.append(source)
        passed = RIGHT in source
        return Verdict(passed, "ok" if passed else "failed", "as it is", 0.0, 0.0)


def drawing(*replies: str) -> tuple[list[tuple[float, int, int]], object]:
    asked: list[tuple[float, int, int]] = []

    def draw(temperature: float, n: int, first: int) -> Sequence[str]:
        asked.append((temperature, n, first))
        return [replies[(first + i) % len(replies)] for i in range(n)]

    return asked, draw


FORM = Continuation("def f():\n")


def test_it_stops_at_the_first_that_passes() -> None:
    judge = Judge()
    asked, draw = drawing("    return 1\n", "    return 2\n", f"    {RIGHT}\n", "    return 5\n")
    found = search(draw, judge, FORM, n=20, batch=2)  # type: ignore[arg-type]
    assert found.verified
    assert found.source == f"def f():\n    {RIGHT}\n"
    assert (found.n_tried, found.n_drawn) == (3, 4)
    assert asked == [(0.2, 2, 0), (0.4, 2, 2)]
    assert f"+    {RIGHT}\n" in found.diff


def test_what_is_no_python_or_is_there_already_is_not_tried() -> None:
    judge = Judge()
    _, draw = drawing(
        "    return (\n", "    return 1\n", "    return 1  # one\n", "    return  1\n"
    )
    found = search(draw, judge, FORM, n=8, batch=4)  # type: ignore[arg-type]
    assert judge.seen == ["def f():\n    return 1\n"]
    assert (found.n_tried, found.n_drawn, found.n_unparsable, found.n_same) == (1, 8, 2, 5)
    assert found.source is None
    assert not found.verified
    assert found.diff == ""


def test_a_failing_candidate_never_comes_back() -> None:
    _, draw = drawing(*(f"    return {n}\n" for n in range(500, 560)))
    assert search(draw, Judge(), FORM, n=50, n_workers=3).source is None  # type: ignore[arg-type]


def test_temperatures_go_round_and_greedy_is_drawn_once() -> None:
    asked, draw = drawing("    return 1\n")
    search(draw, Judge(), FORM, n=6, batch=3, temperatures=(0, 1.0))  # type: ignore[arg-type]
    assert asked == [(0, 1, 0), (1.0, 3, 1), (0, 1, 4), (1.0, 1, 5)]


@pytest.mark.parametrize("wrong", [{"n": 0}, {"n": 1, "batch": 0}, {"n": 1, "temperatures": ()}])
def test_numbers_out_of_range(wrong: dict[str, object]) -> None:
    with pytest.raises(RequestError):
        Search(FORM, **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("reply", "kept"),
    [
        ("    return 1\n\ndef g():\n    pass\n", "    return 1\n"),
        ("    return 1\n# done\nprint(f())", "    return 1\n"),
        ("    return 1\n```\nThat is it.", "    return 1\n"),
        (
            "    if a:\n        return 1\n\n    return 2",
            "    if a:\n        return 1\n\n    return 2\n",
        ),
        ("def g(): pass", "\n"),
    ],
)
def test_a_continuation_ends_with_its_function(reply: str, kept: str) -> None:
    form = Continuation("def f():\n")
    assert form.source(reply) == "def f():\n" + kept
    drawn = min((reply[: reply.find(stop)] for stop in form.stops if stop in reply), default=reply)
    assert form.source(drawn) == "def f():\n" + kept


def test_a_hole_takes_as_much_as_makes_python() -> None:
    hole = Hole("def f():\n    return ", "\n\nprint(f())\n")
    assert hole.source("4") == "def f():\n    return 4\n\nprint(f())\n"
    assert hole.source("4\n    )") == "def f():\n    return 4\n\nprint(f())\n"
    assert hole.source("(((") is None
    assert hole.before == "def f():\n    return \n\nprint(f())\n"


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        ("Here:\n```python\nx = 1\n```\nDone.", "x = 1\n"),
        ("```\nx = 1\n```\nand\n```py\ny = 2\n```", "x = 1\n\ny = 2\n"),
        ("[PYTHON]\nx = 1\n[/PYTHON]", "x = 1\n"),
        ("x = 1", "x = 1\n"),
        ("  ```python\n  x = 1\n  ```", "x = 1\n"),
        ("```python\nx = 1", "x = 1\n"),
        ("I cannot do that.", None),
    ],
)
def test_code_in_talk(reply: str, code: str | None) -> None:
    assert Answer().source(reply) == code


def test_a_diff_applies() -> None:
    assert (
        diff("a\nb\n", "a\nc\n", "x.py") == "--- a/x.py\n+++ b/x.py\n@@ -1,2 +1,2 @@\n a\n-b\n+c\n"
    )
    assert "\\ No newline at end of file\n" in diff("a", "b")
