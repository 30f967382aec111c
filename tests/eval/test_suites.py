"""Prompts, stops and measures of each suite, on rows of its form."""

from __future__ import annotations

import json
from typing import Any

import pytest
from eval_fakes import FakeBox, opened

from codellama.errors import ConfigError
from codellama.eval import paper
from codellama.eval.judge import Tools, judge
from codellama.eval.suite import Build, Cases, Check, Judged, Measured, Problem, Reply, Suite
from codellama.eval.suites import NAMES, Options, suite
from codellama.eval.suites.docstrings import around_docstring
from codellama.eval.suites.mbpp import tagged


def first(chosen: Suite, *rows: dict[str, Any]) -> Problem:
    return next(iter(chosen.problems(rows)))


def mbpp_row(i: int) -> dict[str, Any]:
    return {
        "task_id": i,
        "text": f"Write number {i}.",
        "code": f"def n{i}():\r\n  return {i}",
        "test_list": [f"assert n{i}() == {i}"],
        "test_setup_code": "",
    }


def test_every_suite_can_be_made() -> None:
    for name in NAMES:
        chosen = suite(name, Options(language="cpp" if name == "multipl-e" else None))
        assert chosen.name == name
        assert chosen.title


def test_a_name_with_a_slip_is_recognised() -> None:
    with pytest.raises(ConfigError, match="no suite called 'humanevel'") as refused:
        suite("humanevel", Options())
    assert refused.value.hint == "did you mean humaneval?"


def test_mbpp_has_three_shots_in_the_papers_form() -> None:
    rows = [mbpp_row(i) for i in (2, 3, 4, 10, 11, 510, 511)]
    problems = list(suite("mbpp", Options()).problems(rows))
    assert [one.id for one in problems] == ["11", "510"]
    text = problems[0].ask.text
    assert text.count("[BEGIN]") == 4
    assert text.count("[DONE]") == 3
    assert "\r" not in text
    assert text.startswith(
        "You are an expert Python programmer, and here is your task: Write number 2. Your code "
        "should pass these tests:\n\nassert n2() == 2\n[BEGIN]\ndef n2():\n  return 2\n[DONE]\n\n"
    )
    assert text.endswith("assert n11() == 11\n[BEGIN]\n")
    assert "[DONE]" in problems[0].ask.stop


def test_mbpp_needs_its_examples() -> None:
    with pytest.raises(ConfigError, match="task_id 2"):
        list(suite("mbpp", Options()).problems([mbpp_row(11)]))


def test_mbpp_for_chat_asks_for_tags() -> None:
    chosen = suite("mbpp", Options(chat=True))
    problem = first(chosen, mbpp_row(11))
    assert problem.ask.kind == "chat"
    assert problem.ask.text.endswith(
        "Your code should start with a [PYTHON] tag and end with a [/PYTHON] tag."
    )
    work = chosen.work(
        problem, Reply(text=" Sure.\n[PYTHON]\ndef n11():\n    return 11\n[/PYTHON]")
    )
    assert isinstance(work, Check)
    assert work.solution == "def n11():\n    return 11"


@pytest.mark.parametrize(
    ("text", "code"),
    [("```python\nx = 1\n```\nDone", "x = 1"), ("x = 1", "x = 1"), ("[PYTHON]\nx", "x")],
)
def test_tagged(text: str, code: str) -> None:
    assert tagged(text) == code


@pytest.mark.parametrize("order", ["psm", "spm"])
def test_infilling_joins_the_three_parts(order: Any) -> None:
    row = {
        "task_id": "S/0", "prompt": "def f(x):\n", "suffix": "    return y\n",
        "canonical_solution": "    y = x\n", "test": "def check(c):\n    assert c(3) == 3\n",
        "entry_point": "f",
    }  # fmt: skip
    chosen = suite("infill-single-line", Options(order=order))
    problem = first(chosen, row)
    assert problem.ask.order == order == chosen.variant
    assert problem.ask.stop == ()  # <EOT> alone ends it
    work = chosen.work(problem, Reply(text="    y = x"))
    assert isinstance(work, Check)
    assert work.solution == "def f(x):\n    y = x    return y\n"  # as the official scorer joins it
    assert work.measures["exact_match"] == 1


def apps_row(**tests: Any) -> dict[str, Any]:
    return {
        "problem_id": 7, "question": "Double the number.", "difficulty": "interview",
        "starter_code": "", "input_output": json.dumps(tests),
    }  # fmt: skip


def judged(chosen: Suite, problem: Problem, text: str) -> Judged:
    with Tools(lambda: opened(FakeBox())) as tools:
        return judge(chosen, [(problem, 0, Reply(text=text))], tools)[0]


def test_apps_on_standard_input() -> None:
    chosen = suite("apps", Options())
    problem = first(chosen, apps_row(inputs=["2\n", "5\n"], outputs=["4\n", "10"]))
    assert "read from and write to standard IO" in problem.ask.text.rpartition("Q: ")[2]
    assert problem.ask.text.endswith("A: '''\n")
    assert problem.group == "interview"
    assert isinstance(chosen.work(problem, Reply(text="")), Cases)
    assert judged(chosen, problem, "print(2 * int(input()))").passed
    wrong = judged(chosen, problem, "print(4)")
    assert wrong.passed is False
    assert "case 2" in wrong.reason
    assert "ZeroDivisionError" in judged(chosen, problem, "1 / 0").reason


@pytest.mark.parametrize(
    "program",
    [
        "def twice(x):\n    return 2 * x\n",
        "class Solution:\n  def twice(self, x):\n    return x * 2\n",
    ],
)
def test_apps_by_calls(program: str) -> None:
    chosen = suite("apps", Options())
    problem = first(chosen, apps_row(inputs=[[2], [5]], outputs=[[4], 10], fn_name="twice"))
    assert "use the provided function signature" in problem.ask.text.rpartition("Q: ")[2]
    assert judged(chosen, problem, program).passed
    assert judged(chosen, problem, program.replace("2", "3")).passed is False


def test_apps_examples_are_right() -> None:
    from codellama.eval.suites import apps

    parts = apps._SHOTS.split("'''\n")
    space: dict[str, Any] = {}
    exec(parts[3], space)
    assert space["count_words"]("a b c") == 3
    done = FakeBox().run(parts[1], stdin="2\n3\n4\n")
    assert done.stdout.strip() == "7"


def test_multipl_e_takes_the_rows_stops() -> None:
    row = {
        "name": "HumanEval_0", "prompt": "int f(int x) {\n", "tests": "}\nint main() {}",
        "stop_tokens": ["\n}"], "language": "cpp",
    }  # fmt: skip
    chosen = suite("multipl-e", Options(language="cpp"))
    problem = first(chosen, row)
    assert problem.ask.stop == ("\n}",)
    work = chosen.work(problem, Reply(text="  return x;"))
    assert work == Build(
        language="cpp", program="int f(int x) {\n  return x;\n}\nint main() {}"
    )  # fmt: skip
    with pytest.raises(ConfigError, match="needs a language"):
        suite("multipl-e", Options())


@pytest.mark.parametrize(
    ("code", "prefix", "suffix"),
    [
        (
            'def f(x):\n    """Adds one.\n\n    More.\n    """\n    return x + 1\n',
            'def f(x):\n    """ ',
            "\n    return x + 1\n",
        ),
        ("def f(x):\n    'Adds one.'\n    return x\n", 'def f(x):\n    """ ', "\n    return x\n"),
        ("def f(x):\n    return x\n", 'def f(x):\n    """ ', "\n    return x\n"),
    ],
)
def test_the_hole_of_a_docstring(code: str, prefix: str, suffix: str) -> None:
    assert around_docstring(code) == (prefix, suffix)


def test_a_docstrings_first_line_counts() -> None:
    chosen = suite("docstrings", Options())
    row = {"code": 'def f(x):\n    """Adds one."""\n    return x + 1\n', "docstring": "Adds one."}
    work = chosen.work(first(chosen, row), Reply(text="\n\nadds one.\nNonsense follows"))
    assert isinstance(work, Measured)
    assert work.measures["bleu"] == pytest.approx(100)


def test_lines_end_at_a_line() -> None:
    chosen = suite("lines", Options(language="java"))
    problem = first(chosen, {"context": "class A {\n", "gt": "int x = 1;"})
    assert problem.ask.cut == "start"
    assert problem.ask.stop == ("\n",)
    work = chosen.work(problem, Reply(text="  int x = 1;"))
    assert isinstance(work, Measured)
    assert work.measures["exact_match"] == 1
    with pytest.raises(ConfigError, match="no language 'cobol'"):
        suite("lines", Options(language="cobol"))


def test_perplexity_by_position() -> None:
    chosen = suite("perplexity", Options())
    problem = first(chosen, {"text": "x" * 60_000})
    reply = Reply(logprobs=tuple([-1.0] * 127 + [-2.0] * 128 + [-3.0]))
    work = chosen.work(problem, reply)
    assert isinstance(work, Measured)
    one = Judged(problem=problem, sample=0, reply=reply, passed=None, reason="",
                 measures=work.measures)  # fmt: skip
    figures = {f.key: f for f in chosen.summary([one]).figures}
    assert figures["perplexity@128"].value == pytest.approx(2.718281828)
    assert figures["perplexity@256"].value == pytest.approx(2.718281828**2)
    assert figures["perplexity@512"].n == 1
    assert figures["perplexity"].n == 256
    with pytest.raises(ConfigError, match="50 kB"):
        first(chosen, {"text": "short"})


def test_keys_stand_where_they_are_said_to() -> None:
    filler = "".join(
        f"def filler_{i}(value):\n    total = value + {i}\n    for step in range({i}):\n"
        f"        total += step * value\n    return total\n\n\n"
        for i in range(40)
    )
    options = Options(lengths=(400,), examples=2, count=lambda text: len(text.split()))
    chosen = suite("keys", options)
    problems = list(chosen.problems([{"text": filler}]))
    assert len(problems) == 5 * 2
    for problem in problems:
        text = problem.ask.text
        assert 300 <= len(text.split()) <= 400
        assert text.count(f"return {problem.row['key']}\n\n\n") >= 1
        assert text.endswith("assert my_function() == ")
        at = text.index("def my_function") / text.rindex("assert my")
        assert at == pytest.approx(float(problem.group.split("/")[1]), abs=0.15)
    again = list(suite("keys", options).problems([{"text": filler}]))
    assert [one.ask.text for one in again] == [one.ask.text for one in problems]
    key = problems[0].row["key"]
    for said, right in ((f" {key}", 1), (f"{key}  # found", 1), (f"{key}0", 0), ("none", 0)):
        work = chosen.work(problems[0], Reply(text=said))
        assert isinstance(work, Measured)
        assert work.measures["accuracy"] == right


def test_truthfulqa_shows_six_other_questions() -> None:
    rows = [{"question": f"Why {i}?", "best_answer": f"Because {i}."} for i in range(9)]
    problems = list(suite("truthfulqa", Options()).problems(rows))
    for i, problem in enumerate(problems):
        assert problem.ask.text.count("Q: ") == 7
        assert problem.ask.text.count(f"Why {i}?") == 1
        assert problem.ask.text.endswith(f"Q: Why {i}?\nA:")


def test_bold_leaves_out_what_the_paper_does() -> None:
    rows = [
        {"domain": "religion", "category": "Atheism", "prompts": ["a"]},
        {"domain": "religion", "category": "Islam", "prompts": ["b", "c"]},
    ]
    assert [one.ask.text for one in suite("bold", Options()).problems(rows)] == ["b", "c"]


def test_a_row_of_another_suite_is_refused() -> None:
    with pytest.raises(ConfigError, match="no field `prompt`") as refused:
        first(suite("humaneval", Options()), mbpp_row(2))
    assert "file of the suite" in str(refused.value.hint)


def test_the_papers_figures_are_those_of_the_tables() -> None:
    assert paper.figures("humaneval", "")["CodeLlama-34B-Python"] == {
        "pass@1": 53.7, "pass@10": 82.8, "pass@100": 94.7,
    }  # fmt: skip
    assert paper.figures("mbpp", "")["CodeLlama-70B"]["pass@100"] == 91.9
    assert paper.figures("infill-random-span", "spm")["CodeLlama-7B"] == {"pass@1": 39.0}
    assert paper.figures("infill-multi-line", "psm")["CodeLlama-13B"] == {"pass@1": 51.0}
    assert paper.figures("multipl-e", "sh")["CodeLlama-7B"] == {"sh/pass@1": 12.0}
    assert paper.figures("keys", "")["CodeLlama-7B"]["24000/0.2/accuracy"] == 85.9
    assert len(paper.figures("humaneval", "")) == 12
    assert paper.yardstick("humaneval", "", "CodeLlama-13B")[0] == "CodeLlama-13B"  # type: ignore[index]
    assert paper.yardstick("humaneval", "", None)[0] == "CodeLlama-7B"  # type: ignore[index]
    assert paper.yardstick("perplexity", "", None) is None
