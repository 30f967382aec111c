"""What can stand by itself of a text that was broken off."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama.text.statements import complete_part


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", ""),
        ("x = 1", ""),
        ("x = 1\n", "x = 1\n"),
        ("x = 1\ny = f(", "x = 1\n"),
        ("x = f(\n  1,\n", ""),
        ("x = f(\n  1,\n)\ny", "x = f(\n  1,\n)\n"),
        ("r)\nx", "r)\n"),
        ('s = "("\nt', 's = "("\n'),
        ("# (\nx", "# (\n"),
        ('s = """(\n\n"""\nx', 's = """(\n\n"""\n'),
        ('a\ns = """(\n\n', "a\n"),
        ("int f() {\n  // (\n  return 1;\n", ""),
        ("int f() {\n  return 1;\n}\nint", "int f() {\n  return 1;\n}\n"),
    ],
)
def test_the_last_complete_statement(text: str, part: str) -> None:
    assert complete_part(text) == part


@given(st.text(alphabet="ab()[]{}\"'\n#/\\ ", max_size=60))
def test_it_is_a_beginning_that_ends_with_a_line_and_stays(text: str) -> None:
    part = complete_part(text)
    assert text.startswith(part)
    assert not part or part.endswith("\n")
    assert complete_part(part) == part
