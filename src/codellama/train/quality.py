"""What a model writes on held-out functions: does a body parse, is a hidden line found again?

Bodies: functions with a docstring are taken from held-out projects at equal distances. The
prompt is everything up to the end of the docstring's last line, dedented, without the file around
it. A completion ends before the first line that is not indented, at `</s>`, or at the limit of
tokens; one that reached the limit loses its last, unfinished line. It parses when prompt and
completion together are Python and at least one statement follows the docstring.

Lines: one line of a function's body, not blank, is hidden. The fill is right when its first line
equals the hidden one but for white space around it.
"""

from __future__ import annotations

import ast
import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from codellama.train.corpus import Document

MAX_TOKENS = 256


@dataclass(frozen=True)
class BodyTask:
    """One function to complete: what is given, and what its author wrote."""

    project: str
    path: str
    prompt: str
    reference: str


def body_tasks(
    documents: Sequence[Document], n: int, max_prompt_chars: int = 1200
) -> list[BodyTask]:
    """`n` tasks from documents of kind "function", spread evenly; each holds one function."""
    found = []
    for document in documents:
        if (end := _docstring_end(document.text)) is None:
            continue
        lines = document.text.split("\n")
        prompt = "\n".join(lines[:end]) + "\n"
        reference = "\n".join(lines[end:])
        if len(prompt) <= max_prompt_chars and reference.strip():
            found.append(BodyTask(document.project, document.path, prompt, reference))
    return [found[i * len(found) // n] for i in range(min(n, len(found)))]


def body(completion: str, *, is_cut: bool) -> str:
    """The part of a completion that is the function's body."""
    lines = completion.split("\n")
    if is_cut:
        lines = lines[:-1]
    kept = []
    for line in lines:
        if line.strip() and not line[0].isspace():
            break
        kept.append(line)
    return "\n".join(kept).rstrip() + "\n"


def parses(prompt: str, completion: str, *, is_cut: bool) -> bool:
    """Whether prompt and completion make one function that has a statement after its docstring."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(prompt + body(completion, is_cut=is_cut))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    last = tree.body[-1]
    return isinstance(last, (ast.FunctionDef, ast.AsyncFunctionDef)) and len(last.body) > 1


@dataclass(frozen=True)
class LineTask:
    """A function with one line hidden."""

    prefix: str
    line: str
    suffix: str


def line_tasks(documents: Sequence[Document], n: int) -> list[LineTask]:
    """`n` tasks, one from each of the functions that `body_tasks` would take."""
    found = []
    for task in body_tasks(documents, n):
        lines = task.reference.split("\n")
        choices = [i for i, line in enumerate(lines) if len(line.strip()) > 3]
        if not choices:
            continue
        digest = hashlib.sha256(task.path.encode()).digest()
        i = choices[int.from_bytes(digest[:4], "big") % len(choices)]
        before = task.prompt + "".join(line + "\n" for line in lines[:i])
        found.append(LineTask(before, lines[i], "\n" + "\n".join(lines[i + 1 :])))
    return found


def found_again(task: LineTask, fill: str) -> bool:
    """Whether the fill's first line is the hidden one."""
    written = fill.strip("\n").split("\n")[0]
    return written.strip() == task.line.strip()


def _docstring_end(text: str) -> int | None:
    """Number of lines up to the docstring's end when code follows on a later line."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        node = ast.parse(text).body[0]
    if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) or len(node.body) < 2:
        return None
    end = node.body[0].end_lineno
    assert end is not None, "nodes from ast.parse have ends"
    return end if node.body[1].lineno > end else None
