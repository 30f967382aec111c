"""Infilling prompts that arrive as text, as editors without an infilling route send them.

They write `<PRE> {prefix} <SUF>{suffix} <MID>` and trust the tokenizer to form the markers, which
it does not where `<SUF>` is followed by a character that merges with its `>`. Here the two texts
are taken out again, so that the prompt can be made of ids.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_OPEN = re.compile(r"(?:<s>)? ?<PRE> ")
_CUT_OPEN = re.compile(r"(?:P?R?E> )")  # what is left of `<PRE> ` after a cut inside it
_SUF, _MID = " <SUF>", " <MID>"


@dataclass(frozen=True, kw_only=True)
class InfillText:
    """The texts around a hole, and whether the prompt says more than it should.

    `is_cut`: the beginning was cut off, so that the prefix begins anywhere. `n_suffix_marks`: more
    than one means that the texts spell the marker themselves and the last one was taken.
    """

    prefix: str
    suffix: str
    is_cut: bool = False
    n_suffix_marks: int = 1


def find_infill(text: str) -> InfillText | None:
    """The hole that `text` spells in the family's markers; None where it is other text."""
    opening = _OPEN.match(text)
    if opening is not None:
        body = text[opening.end() :]
        if body.startswith(_SUF.lstrip()) or body.startswith(_SUF + _SUF):
            found = _suffix_first(body)
            if found is not None:
                return found
    if not text.endswith(_MID):
        return None
    body = text[: -len(_MID)]
    if opening is not None:
        body = body[opening.end() :]
    n_marks = body.count(_SUF) + body.startswith(_SUF.lstrip())
    if not n_marks:
        return None
    if opening is None and n_marks != 1:
        return None
    at = body.rfind(_SUF)
    prefix, suffix = (body[:at], body[at + len(_SUF) :]) if at >= 0 else ("", body[len("<SUF>") :])
    if opening is None:
        cut = _CUT_OPEN.match(prefix)
        prefix = prefix[cut.end() :] if cut is not None and cut.end() > 2 else prefix
    return InfillText(prefix=prefix, suffix=suffix, is_cut=opening is None, n_suffix_marks=n_marks)


def _suffix_first(body: str) -> InfillText | None:
    """`<SUF>{suffix} <MID> {prefix}`, the order in which the middle goes on from the prefix."""
    suffix, mark, prefix = body[len("<SUF>") :].partition(_MID)
    if not mark or (prefix and not prefix.startswith(" ")):
        return None
    return InfillText(prefix=prefix[1:], suffix=suffix)
