"""What a suggestion says again that already stands after the cursor."""

from __future__ import annotations

_PAIRS = {")": "(", "]": "[", "}": "{"}


def first_line(suffix: str) -> str:
    """The first line of a suffix that is not blank, without the space around it."""
    return next((line.strip() for line in suffix.split("\n") if line.strip()), "")


def repeats_first_line(text: str, suffix: str) -> bool:
    """Whether a line of `text` is the first line of the suffix once more.

    Lines without a letter or digit, such as a closing bracket, are no repetition: where there is
    one too many, the file no longer parses. Where the cursor stands in the middle of a line, what
    stands right of it is that first line, and one that ends with it repeats it as well.
    """
    return _repeated_at(text, suffix) is not None


def cut_repetition(text: str, suffix: str) -> str:
    """`text` before the line that repeats the suffix's first one; all of it where none does."""
    at = _repeated_at(text, suffix)
    return text if at is None else text[:at]


def _repeated_at(text: str, suffix: str) -> int | None:
    first = first_line(suffix)
    if not any(char.isalnum() for char in first):
        return None
    is_rest = bool(suffix.partition("\n")[0].strip())
    offset = 0
    for i, line in enumerate(text.split("\n")):
        if line.strip() == first:
            return offset
        if is_rest and i == 0 and line.rstrip().endswith(first):
            return offset + len(line.rstrip()) - len(first)
        offset += len(line) + 1
    return None


def overlap(text: str, suffix: str) -> int:
    """Characters at the end of `text` with which the suffix begins."""
    for n in range(min(len(text), len(suffix)), 0, -1):
        if text.endswith(suffix[:n]):
            return n
    return 0


def trimmed(text: str, suffix: str) -> list[str]:
    """`text` as it may be inserted, the likeliest first: without its overlap, or with it.

    An overlap goes first where it spans a line end or a word, or where without it brackets close
    that the text has opened and no others.
    """
    n = overlap(text, suffix)
    if not n:
        return [text]
    shorter = text[: len(text) - n]
    shared = suffix[:n]
    is_much = "\n" in shared.strip("\n") or sum(char.isalnum() for char in shared) >= 3
    if is_much or unopened(text) > unopened(shorter):
        return [shorter, text]
    return [text, shorter]


def unopened(text: str) -> int:
    """Brackets that a text closes without having opened them; strings are not looked into."""
    stack: list[str] = []
    found = 0
    for char in text:
        if char in "([{":
            stack.append(char)
        elif char in _PAIRS:
            if stack and stack[-1] == _PAIRS[char]:
                stack.pop()
            else:
                found += 1
    return found
