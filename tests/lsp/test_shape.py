"""One line or many, by where the cursor stands; and where a text that comes is enough."""

from __future__ import annotations

import pytest

from codellama.lsp.shape import Scope, Shape, opens_block, shape_at
from codellama.lsp.spacing import after_space, split_space


def lines(prefix: str, suffix: str, inside: str = "code") -> int:
    return shape_at(prefix, suffix, inside, max_lines=20, max_tokens=128).max_lines


@pytest.mark.parametrize(
    ("prefix", "suffix", "expected"),
    [
        ("def f(a):\n    ", "\n", 20),  # the body of what was just opened
        ("def f(a):", "\n", 20),
        ("if (x) {", "}\n", 20),  # the editor closed the bracket
        ("x = 1\n", "\n", 6),  # among others
        ("x = ", "\n", 1),
        ("foo(", ", 3)\n", 1),  # code stands right of the cursor
        ("", "\nimport os\n", 20),
        ("x = 1\n", "y = 2\n", 1),
    ],
)
def test_the_place_says_how_many_lines(prefix: str, suffix: str, expected: int) -> None:
    assert lines(prefix, suffix) == expected


@pytest.mark.parametrize("inside", ["comment", "string"])
def test_text_in_comments_and_strings_stays_on_its_line(inside: str) -> None:
    assert lines("def f():\n    ", "\n", inside) == 1


@pytest.mark.parametrize(
    ("line", "opens"),
    [("else:", True), ("for x in y: # every", True), ("do", True), ("undo", False), ("x", False),
     ("() => {", True), ("url = 'a'", False)],
)  # fmt: skip
def test_lines_that_open_a_block(line: str, opens: bool) -> None:
    assert opens_block(line) == opens


@pytest.mark.parametrize(
    ("text", "is_over"),
    [
        ("return 1", False),
        ("return 1\n", False),
        ("return 1\n\n", False),
        ("return 1\n    more\n", False),
        ("return 1\ndef g():", False),  # the line is not complete
        ("return 1\ndef g():\n", True),
        ("a\na\na\n", True),  # it repeats itself
        ("a\n    b\n    c\n    d\n", True),  # more lines than are wanted
    ],
)
def test_a_text_is_over_when_it_leaves_its_block(text: str, is_over: bool) -> None:
    scope = Scope("def f():\n    ", Shape(max_lines=4, max_tokens=64))
    assert scope.is_over(text) == is_over


def test_a_single_line_is_over_at_its_end() -> None:
    scope = Scope("x = ", Shape(max_lines=1, max_tokens=48))
    assert not scope.is_over("1 + 2")
    assert scope.is_over("1 + 2\n")


def test_space_before_the_cursor_is_left_to_the_model() -> None:
    assert split_space("def f():\n\t  ") == ("def f():\n", "\t  ")
    assert split_space("x =") == ("x =", "")


@pytest.mark.parametrize(
    ("text", "space", "is_indent", "expected"),
    [
        ("    return 1\n    x", "    ", True, "return 1\n    x"),
        ("        deep\n        er", "    ", True, "deep\n    er"),  # moved to the left
        ("\n\n    return", "    ", True, "return"),
        ("def g():", "    ", True, None),  # the block is over
        ("\treturn", "        ", True, "return"),  # a tab is as wide
        (" 5", " ", False, "5"),
        ("= 5", " ", False, None),
        ("abc", "", False, "abc"),
    ],
)
def test_the_space_is_taken_off_again(
    text: str, space: str, is_indent: bool, expected: str | None
) -> None:
    assert after_space(text, space, is_indent=is_indent) == expected
