"""The measure of completed bodies: it must be able to say no."""

from __future__ import annotations

import pytest

from codellama.train.corpus import Document
from codellama.train.quality import body, body_tasks, parses

PROMPT = 'def f(x):\n    """Doc."""\n'


@pytest.mark.parametrize(
    ("completion", "is_cut", "expected"),
    [
        ("    return x\n", False, True),
        ("    return x", False, True),
        ("    return (x\n", False, False),
        ("    if x:\n", False, False),
        ("", False, False),
        ("\n\n", False, False),
        ("    # only a comment\n", False, False),
        ("    return x\n\n\ndef g(:\n", False, True),  # what follows the body does not count
        ("    a = 1\n    return (x", True, True),  # an unfinished last line is cut off
        ("    return (x", True, False),
        ("  return x\n", False, False),
    ],
)
def test_parses(completion: str, is_cut: bool, expected: bool) -> None:
    assert parses(PROMPT, completion, is_cut=is_cut) is expected


def test_body_ends_at_a_dedent() -> None:
    assert body("    a = 1\n\n    b\nprint(1)\n    c\n", is_cut=False) == "    a = 1\n\n    b\n"


def test_tasks_split_behind_the_docstring() -> None:
    texts = [f'def f{i}(x):\n    """One.\n\n    Two."""\n    return x + {i}\n' for i in range(10)]
    texts.append('def one_line(): "Doc."; return 1\n')
    documents = [Document("p", "a.py", "val-pkg", "function", text) for text in texts]
    tasks = body_tasks(documents, 5)
    assert [t.reference.strip() for t in tasks] == [f"return x + {i}" for i in (0, 2, 4, 6, 8)]
    assert all(t.prompt.endswith('Two."""\n') for t in tasks)
    assert all(parses(t.prompt, t.reference, is_cut=False) for t in tasks)
