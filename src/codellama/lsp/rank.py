"""Which of several candidates goes first, and which are left out.

A candidate is good when the text after the cursor is likely to follow it. The score is the mean
log-probability, per token, of the suffix's first lines after prefix and candidate, read off the
model in the ordinary direction. How likely the candidate itself was breaks ties and stands in where
there is no suffix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MARGIN = 1.0  # nats per token that a candidate may be behind the best one


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A text, how likely the model thought it (mean per token), and the suffix after it."""

    text: str
    logprob: float | None = None
    follows: float | None = None
    is_whole: bool = True


def ranked(candidates: Sequence[Candidate], *, margin: float = MARGIN) -> list[Candidate]:
    """The candidates without repetitions, best first, and without those far behind the best.

    Where some have a score for the suffix and others not, those without go last.
    """
    distinct: dict[str, Candidate] = {}
    for one in candidates:
        known = distinct.get(one.text)
        if known is None or _key(one) < _key(known):
            distinct[one.text] = one
    ordered = sorted(distinct.values(), key=_key)
    scores = [one.follows for one in ordered if one.follows is not None]
    if not scores:
        return ordered
    least = max(scores) - margin
    return [one for one in ordered if one.follows is None or one.follows >= least]


def _key(one: Candidate) -> tuple[bool, float, float]:
    return (
        one.follows is None,
        -(one.follows if one.follows is not None else 0.0),
        -(one.logprob if one.logprob is not None else float("-inf")),
    )


def following_text(suffix: str, *, max_lines: int = 2, max_chars: int = 160) -> str:
    """The beginning of a suffix that is scored: up to its first lines that are not blank."""
    kept, full = [], 0
    for line in suffix.splitlines(keepends=True):
        kept.append(line)
        full += bool(line.strip())
        if full == max_lines:
            break
    text = "".join(kept)[:max_chars]
    return text if text.strip() else ""
