"""From what the model wrote to what may be shown at the cursor.

Each step only takes away from the end. What is left in the end leaves a file that parsed parsing,
does not say again what stands after the cursor, and ends with the scope in which it began.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from codellama.lsp.overlap import cut_repetition, repeats_first_line, trimmed
from codellama.lsp.shape import Shape, indent_of, repeats
from codellama.lsp.syntax import Syntax

_TRIES = 24  # ends at which a text is tried before it is given up


@dataclass(frozen=True, kw_only=True)
class Place:
    """A cursor in a document, and its grammar where that is known."""

    prefix: str
    suffix: str
    shape: Shape
    syntax: Syntax | None
    inside: str = "code"


def finish(text: str, place: Place, *, is_whole: bool) -> str | None:
    """What of `text` is shown at `place`; None where nothing of it can be.

    `is_whole` says that the model ended by itself: what was broken off loses its last line, where
    it has several.
    """
    text = text.replace("\r\n", "\n").replace("\r", "")
    if place.inside == "comment" and place.syntax is not None:
        text = text.partition("*/")[0]
    if place.shape.is_single_line:
        text = text.partition("\n")[0]
    else:
        text = _lines(text, place, is_whole=is_whole)
    text = _end(cut_repetition(text, place.suffix))
    if not text.strip():
        return None
    if place.syntax is not None:
        return _checked(text, place, place.syntax)
    shown = next((end for end in trimmed(text, place.suffix) if end.strip()), None)
    return None if shown is None or repeats_first_line(shown, place.suffix) else _end(shown)


def still_fits(text: str, place: Place, *, is_same_suffix: bool) -> str | None:
    """The rest of a suggestion whose beginning was typed, where it may still be shown.

    It is not shaped anew: typing along must not shorten it. Where the editor closed a bracket
    meanwhile, the rest does not close it again.
    """
    for shown in [text] if is_same_suffix else trimmed(text, place.suffix):
        if shown.strip() and not repeats_first_line(shown, place.suffix):
            syntax = place.syntax
            if syntax is None or syntax.accepts(syntax.insert(shown)):
                return shown
    return None


def _lines(text: str, place: Place, *, is_whole: bool) -> str:
    lines = text.split("\n")
    if not is_whole and len(lines) > 1:
        lines.pop()
    del lines[place.shape.max_lines :]
    for n in range(3, len(lines) + 1):
        if repeats(lines[:n]):
            del lines[n - 2 :]
            break
    if place.syntax is None:
        del lines[_outside(lines, place.prefix) :]
    return "\n".join(lines)


def _outside(lines: list[str], prefix: str) -> int:
    """The first line that is less indented than the cursor's, for languages without a grammar."""
    least = indent_of(prefix[prefix.rfind("\n") + 1 :])
    for i, line in enumerate(lines):
        if i and line.strip() and indent_of(line) < least:
            return i
    return len(lines)


def _checked(text: str, place: Place, syntax: Syntax) -> str | None:
    """The longest beginning of `text` that the grammar takes, up to the end of its scope."""
    end = syntax.scope_end(syntax.insert(text))
    if end is not None:
        scoped = _end(text.encode()[:end].decode("utf-8", "ignore"))
        text = scoped if scoped.strip() else text
    seen: set[str] = set()
    kept: str | None = None
    least: int | None = None
    for beginning in _beginnings(text, place.shape):
        for shown in trimmed(beginning, place.suffix):
            shown = _end(shown)
            if not shown.strip() or shown in seen or repeats_first_line(shown, place.suffix):
                continue
            if len(seen) >= _TRIES:
                return kept
            seen.add(shown)
            made = syntax.insert(shown)
            if not syntax.accepts(made):
                continue
            if syntax.parses or made.n_errors == 0:
                return shown
            if least is None or made.n_errors < least:
                kept, least = shown, made.n_errors
    return kept


def _beginnings(text: str, shape: Shape) -> Iterator[str]:
    """`text`, then ever shorter beginnings: up to line ends, and the first line up to word ends."""
    lines = text.split("\n")
    for n in range(len(lines), 0, -1):
        yield "\n".join(lines[:n])
    first = lines[0]
    ends = [found.end() for found in re.finditer(r"\w+|[^\w\s]", first)]
    for end in reversed(ends[:-1]):
        if any(char.isalnum() for char in first[:end]):  # a bracket alone is not worth showing
            yield first[:end]


def _end(text: str) -> str:
    """Without the space at its end, which would only be left over after it."""
    return text.rstrip()
