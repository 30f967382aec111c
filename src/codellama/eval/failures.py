"""The replies worth reading: those that failed, with what was asked and what was expected."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from codellama.eval.suite import Judged

MOST = 20
_CHARS = 1500
_EXPECTED = ("canonical_solution", "code", "gt", "answer", "best_answer", "docstring", "key")


def entries(judged: Sequence[Judged], most: int = MOST) -> list[dict[str, Any]]:
    """Up to `most` samples that failed, spread over the problems, the first of each problem."""
    seen: set[str] = set()
    found: list[Judged] = []
    for one in judged:
        if has_failed(one) and one.problem.id not in seen:
            seen.add(one.problem.id)
            found.append(one)
    step = max(1, len(found) // most)
    return [_entry(one) for one in found[::step][:most]]


def has_failed(one: Judged) -> bool:
    """Not passed; where nothing ran, not exact or not right."""
    if one.passed is not None:
        return not one.passed
    marks = [one.measures[name] for name in ("exact_match", "accuracy") if name in one.measures]
    return bool(marks) and not all(marks)


def _entry(one: Judged) -> dict[str, Any]:
    row = one.problem.row
    expected = next((str(row[name]) for name in _EXPECTED if name in row), "")
    return {
        "problem": one.problem.id,
        "sample": one.sample,
        "reason": one.reason[:_CHARS],
        "asked": one.problem.ask.text[-_CHARS:],
        "after": one.problem.ask.suffix[:_CHARS],
        "reply": one.reply.text[:_CHARS],
        "expected": expected[:_CHARS],
    }
