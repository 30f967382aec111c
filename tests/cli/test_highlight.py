"""Highlighting a stream changes colours and nothing else."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codellama.cli.highlight import Highlighter

ANSWER = '''\
Here `it` is:
```python
def add(a, b):
    """Add
    def two."""
    return a + b
```
and ``` is not a fence here.
  ```unheard-of
def x
  ```
'''
COLOR = re.compile(r"\x1b\[[0-9;]*m")


def highlight(pieces: list[str]) -> list[str]:
    highlighter = Highlighter()
    return [highlighter.push(piece) for piece in pieces] + [highlighter.finish()]


def plain(shown: list[str]) -> str:
    return COLOR.sub("", "".join(shown))


@settings(deadline=None)
@given(st.lists(st.sampled_from(["```", "`", "python", "\n", " ", "x", "def ", '"""', "\t", "é"])))
def test_without_colours_nothing_is_changed(pieces: list[str]) -> None:
    assert plain(highlight(pieces)) == "".join(pieces)


@settings(deadline=None)
@given(st.lists(st.integers(0, len(ANSWER)), max_size=20))
def test_how_the_stream_is_cut_does_not_matter(cuts: list[int]) -> None:
    at = [0, *sorted(cuts), len(ANSWER)]
    pieces = [ANSWER[a:b] for a, b in itertools.pairwise(at)]
    assert "".join(highlight(pieces)) == "".join(highlight([ANSWER]))


def test_only_known_code_is_coloured() -> None:
    lines = "".join(highlight([ANSWER])).split("\n")
    colored = [i for i, line in enumerate(lines) if COLOR.search(line)]
    assert colored == [2, 3, 4, 5]


def test_a_string_over_lines_stays_a_string() -> None:
    lines = "".join(highlight([ANSWER])).split("\n")
    keyword = lines[2][: lines[2].index("def")]
    assert keyword
    assert not lines[4].strip().startswith(keyword + "def")
    assert keyword not in lines[4]


def test_text_is_shown_at_once_and_code_by_the_line() -> None:
    highlighter = Highlighter()
    assert highlighter.push("He") == "He"
    assert highlighter.push("llo\n``") == "llo\n"
    assert highlighter.push("`python\nx = ") == "```python\n"
    assert plain([highlighter.push("1\n")]) == "x = 1\n"


@pytest.mark.parametrize("open_end", ["```python\nx = 1", "``", "```"])
def test_an_open_end_is_not_lost(open_end: str) -> None:
    assert plain(highlight([open_end])) == open_end
