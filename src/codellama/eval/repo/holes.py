"""Holes of three kinds in lines that a commit added."""

from __future__ import annotations

import ast
import random
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import StringIO
from typing import Literal, get_args

from codellama.eval.repo.history import Added

HoleKind = Literal["line", "lines", "body"]
KINDS: tuple[HoleKind, ...] = get_args(HoleKind)
_MOST_LINES, _MOST_BODY_LINES = 8, 25
_PER_FILE = 2  # of a kind: a commit that added everything is not to be all there is


@dataclass(frozen=True, kw_only=True)
class Hole:
    """Whole lines cut out of a file: prefix + middle + suffix is the file as the commit left it."""

    kind: HoleKind
    commit: str
    path: str
    prefix: str
    middle: str
    suffix: str

    @property
    def id(self) -> str:
        line = self.prefix.count("\n") + 1
        return f"{self.kind} {self.commit[:10]}:{self.path}:{line}"


def cut(added: Iterable[Added], n: int, seed: int) -> list[Hole]:
    """Up to `n` holes of each kind, the same for the same history and seed.

    A line has code in it; several lines are two to eight that were added together; a body is all of
    a Python function but its docstring, 25 lines at most.
    """
    found: list[Hole] = []
    per_file: Counter[tuple[HoleKind, str]] = Counter()
    counts: Counter[HoleKind] = Counter()
    for one in added:
        draw = random.Random(f"{seed} {one.commit} {one.path}")
        candidates = list(_candidates(one))
        draw.shuffle(candidates)
        for hole in candidates:
            key = (hole.kind, one.path)
            if counts[hole.kind] < n and per_file[key] < _PER_FILE:
                found.append(hole)
                counts[hole.kind] += 1
                per_file[key] += 1
        if all(counts[kind] >= n for kind in KINDS):
            break
    return sorted(found, key=lambda hole: KINDS.index(hole.kind))


def parses(path: str, text: str) -> bool | None:
    """Whether a Python file is one; None for other languages."""
    if not path.endswith(".py"):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return False
    return True


def _candidates(added: Added) -> Iterator[Hole]:
    # A form feed begins no line for git or Python, as it would for `splitlines`.
    lines = StringIO(added.text).readlines()
    if parses(added.path, added.text) is False:
        return
    for first, end in added.runs:
        code = [i for i in range(first, min(end, len(lines))) if _has_code(lines[i])]
        for i in code:
            yield _hole("line", added, lines, i, i + 1)
            stop = min(end, len(lines), i + 2 + i % (_MOST_LINES - 1))
            if stop - i >= 2:
                yield _hole("lines", added, lines, i, stop)
    if added.path.endswith(".py"):
        for first, end in _bodies(added.text):
            if any(a <= first and end <= b for a, b in added.runs):
                yield _hole("body", added, lines, first, end)


def _hole(kind: HoleKind, added: Added, lines: list[str], first: int, end: int) -> Hole:
    return Hole(
        kind=kind,
        commit=added.commit,
        path=added.path,
        prefix="".join(lines[:first]),
        middle="".join(lines[first:end]),
        suffix="".join(lines[end:]),
    )


def _has_code(line: str) -> bool:
    text = line.strip()
    return not text.startswith(("#", "//", "*", '"""')) and bool(re.search(r"\w{2}", text))


def _bodies(text: str) -> Iterator[tuple[int, int]]:
    """Lines [first, end) of function bodies, from 0, docstrings left out."""
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        body = node.body[1:] if ast.get_docstring(node) is not None else node.body
        if not body or body[0].lineno <= node.lineno or node.end_lineno is None:
            continue
        first = min([body[0].lineno, *(d.lineno for d in getattr(body[0], "decorator_list", []))])
        if node.end_lineno - first < _MOST_BODY_LINES:
            yield first - 1, node.end_lineno
