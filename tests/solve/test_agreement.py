"""Without tests: what most candidates agree on."""

from __future__ import annotations

import ast

import pytest

from codellama.sandbox import Sandbox
from codellama.solve.agreement import function_to_call, inputs_for, most_agreed

HEAD = "def f(items: list[int], n: int) -> int:\n"


def test_the_largest_group_wins(box: Sandbox) -> None:
    same = ["return sum(items) + n", "return n + sum(items)", "k = n\n    return k + sum(items)"]
    odd = ["return 0", "raise ValueError", "return items", "return 1 / 0"]
    found = most_agreed(box, [HEAD + "    " + body + "\n" for body in [*odd[:2], *same, *odd[2:]]])
    assert found is not None
    source, share = found
    assert "sum(items)" in source
    assert share == pytest.approx(3 / 7)


def test_those_that_fail_everywhere_do_not_agree(box: Sandbox) -> None:
    bodies = ["raise ValueError", "raise KeyError", "return None.x", "return n"]
    found = most_agreed(box, [HEAD + f"    {body}\n" for body in bodies])
    assert found is not None
    assert "return n" in found[0]


def test_nothing_to_call(box: Sandbox) -> None:
    assert most_agreed(box, ["x = 1\n", "raise SystemExit\n"]) is None
    assert most_agreed(box, []) is None
    assert most_agreed(box, [HEAD + "    return 1\n"], "other") is None


def test_a_candidate_that_prints_or_leaves_is_no_trouble(box: Sandbox) -> None:
    sources = [HEAD + "    return n\n", "import os\n" + HEAD + "    os._exit(0)\n",
               HEAD + "    print('[1]' * 24)\n    return n\n"]  # fmt: skip
    found = most_agreed(box, sources)
    assert found is not None
    assert found[1] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("annotation", "kind"),
    [
        ("int", int), ("'int'", int), ("float", float), ("str", str), ("bool", bool),
        ("List[str]", list), ("typing.Dict[str, int]", dict), ("Tuple[int, ...]", tuple),
        ("set[int]", set), ("int | int", int), ("list", list),
    ],
)  # fmt: skip
def test_inputs_fit_annotations(annotation: str, kind: type) -> None:
    function = function_to_call(f"def f(x: {annotation}): return x\n")
    assert function is not None
    values = [given[0] for given in inputs_for(function)]
    assert {type(value) for value in values} == {kind}
    assert values == [given[0] for given in inputs_for(function)], "the same each time"
    assert ast.literal_eval(repr([v for v in values if v != set()])) == [
        v for v in values if v != set()
    ]


def test_defaults_are_left_out_and_the_last_function_is_meant() -> None:
    source = "def g(): pass\ndef f(a, b=2): pass\ndef _h(): pass\n"
    function = function_to_call(source)
    assert function is not None
    assert function.name == "f"
    assert all(len(given) == 1 for given in inputs_for(function))
    named = function_to_call(source, "g")
    assert named is not None
    assert named.name == "g"
