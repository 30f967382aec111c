"""What repeats the text after the cursor is found and taken off."""

from __future__ import annotations

import pytest

from codellama.lsp.overlap import cut_repetition, overlap, repeats_first_line, trimmed, unopened


@pytest.mark.parametrize(
    ("text", "suffix", "expected"),
    [
        ("return a\nreturn b", "\n    return b\n", "return a\n"),
        ("return b", "\n\n\n  return b\n", ""),
        ("x, y)", "y)\n", "x, "),  # the rest of the cursor's own line
        ("a\n}", "\n}\n", "a\n}"),  # a bracket alone is no line
        ("value = 1", "\n", "value = 1"),
        ("value = 1", "", "value = 1"),
        ("returns", "\nreturn\n", "returns"),  # not the whole line
    ],
)
def test_a_line_that_stands_after_the_cursor_is_not_said_again(
    text: str, suffix: str, expected: str
) -> None:
    assert cut_repetition(text, suffix) == expected
    assert repeats_first_line(text, suffix) == (text != expected)


@pytest.mark.parametrize(
    ("text", "suffix", "n"), [("a)", ")\n", 1), ("a)", "]", 0), ("abc", "bcd", 2), ("", "x", 0)]
)
def test_overlap_is_the_longest_end_that_begins_the_suffix(text: str, suffix: str, n: int) -> None:
    assert overlap(text, suffix) == n


@pytest.mark.parametrize(
    ("text", "suffix", "likeliest"),
    [
        ("a, b)", ")\n", "a, b"),  # the bracket that closes stands there already
        ("f(a)", ")\n", "f(a)"),  # its own brackets are closed
        ("first\nsecond", "\nsecond\n", "first"),
        ("one two", "two", "one "),
        ("x", "y", "x"),
    ],
)
def test_an_overlap_goes_where_it_closes_or_says_too_much(
    text: str, suffix: str, likeliest: str
) -> None:
    assert trimmed(text, suffix)[0] == likeliest


def test_unopened_brackets_are_counted() -> None:
    assert [unopened(text) for text in ("()", ")", "(])", "a[0])}", "")] == [0, 1, 1, 2, 0]
