"""How much of a text that was broken off can stand by itself."""

from __future__ import annotations

import re

_TOKEN = re.compile(
    r'"""(?:[^\\]|\\.)*?(?:"""|\Z)|\'\'\'(?:[^\\]|\\.)*?(?:\'\'\'|\Z)'
    r'|"(?:[^"\\\n]|\\.)*"?|\'(?:[^\'\\\n]|\\.)*\'?|(?:#|//)[^\n]*|[()\[\]{}]|\n',
    re.DOTALL,
)


def complete_part(text: str) -> str:
    """The longest beginning that ends with a line and leaves no bracket or string open.

    Brackets that the text closes without having opened them belong to what comes before it. Empty
    where not even the first line is complete.
    """
    depth = end = 0
    for found in _TOKEN.finditer(text):
        token = found[0]
        if token in ("(", "[", "{"):
            depth += 1
        elif token in (")", "]", "}"):
            depth = max(0, depth - 1)
        elif token == "\n" and not depth:
            end = found.end()
    return text[:end]
