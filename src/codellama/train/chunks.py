"""Where documents are cut, so that each part fits a row.

A part ends at a line's end. Among the ends that leave it at least half full, the one before the
least indented line wins (a top-level definition before a method, a method before a statement),
then the latest; a blank line before it breaks ties between equal indents.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from codellama.train.shards import StoredTexts

MARGIN = 14  # markers, and the tokens that cutting a document in three can add

Chunks = NDArray[np.int32]  # [N, 4]: document, first character, end character, tokens


def cut(text: str, line_tokens: Sequence[int], limit: int) -> list[tuple[int, int, int]]:
    """(start, end, tokens) of the parts of `text`; `line_tokens` counts each line's ids.

    A single line longer than `limit` becomes a part by itself; who uses it must shorten it.
    """
    lines = text.split("\n")
    parts = []
    first, start = 0, 0
    while first < len(lines):
        total, last = 0, first
        while last < len(lines) and (last == first or total + line_tokens[last] <= limit):
            total += line_tokens[last]
            last += 1
        if last < len(lines):
            last = _best_end(lines, line_tokens, first, last, total // 2)
        size = sum(len(line) + 1 for line in lines[first:last]) - (last == len(lines))
        if size:
            parts.append((start, start + size, sum(line_tokens[first:last])))
        start += size
        first = last
    return parts


def chunk_table(documents: StoredTexts, row_length: int, cache: Path | None = None) -> Chunks:
    """The parts of all documents, in order.

    With `cache`, a folder, they are kept there under the digest of text and tokenizer.
    """
    limit = row_length - MARGIN
    path = None
    if cache is not None:
        path = cache / f"chunks-{row_length}-{documents.digest[:16]}.npy"
        if path.exists():
            return np.load(path)  # type: ignore[no-any-return]  # Any in a library's stubs
    rows: list[tuple[int, int, int, int]] = []
    for i, document in enumerate(documents):
        rows += [(i, *part) for part in cut(document.text, document.line_tokens(), limit)]
    table = np.array(rows, np.int32).reshape(-1, 4)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.partial.npy")
        np.save(partial, table)
        partial.rename(path)
    return table


def _best_end(
    lines: Sequence[str], line_tokens: Sequence[int], first: int, last: int, at_least: int
) -> int:
    best, best_cost = last, (1 << 30, 0)
    used = 0
    for end in range(first + 1, last + 1):
        used += line_tokens[end - 1]
        line = lines[end]
        if used < at_least or not line.strip():
            continue
        indent = len(line) - len(line.lstrip())
        cost = (2 * indent + bool(lines[end - 1].strip()), -end)
        if cost < best_cost:
            best, best_cost = end, cost
    return best
