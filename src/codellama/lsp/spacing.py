"""The space in front of the cursor, which the model writes better than it goes on from.

Tokens hold the space before a word. A prompt that ends in white space therefore ends in a token
that hardly ever stood there in training. So the model is shown the line without it, and writes it
again.
"""

from __future__ import annotations

from codellama.lsp.shape import indent_of


def split_space(prefix: str) -> tuple[str, str]:
    """A prefix without the spaces and tabs at its end, and those."""
    kept = prefix.rstrip(" \t")
    return kept, prefix[len(kept) :]


def after_space(text: str, space: str, *, is_indent: bool) -> str | None:
    """What goes on after `space` of a text that was written from before it.

    A text that is indented deeper than the cursor moves to the left as a whole. None where the text
    does not begin with the space: in front of a line this means that the block is over.
    """
    if not space:
        return text
    if not is_indent:
        # Within a line, one space is a space; of more, the model need not have written all.
        return text.lstrip(" \t") if text[:1] in (" ", "\t") else None
    lines = text.split("\n")
    while len(lines) > 1 and not lines[0].strip():
        del lines[0]
    wanted, found = indent_of(space + "x"), indent_of(lines[0])
    if not lines[0].strip():
        return ""
    if found < wanted:
        return None
    extra = found - wanted
    moved = [lines[0].lstrip()]
    for line in lines[1:]:
        width = min(extra, indent_of(line)) if line.strip() else 0
        moved.append(_less(line, width))
    return "\n".join(moved)


def _less(line: str, width: int) -> str:
    """A line with `width` columns less of indentation."""
    if not width:
        return line
    columns = indent_of(line) - width
    body = line.lstrip()
    tabs = "\t" * (columns // 8) if line.startswith("\t") else ""
    return tabs + " " * (columns - 8 * len(tabs)) + body
