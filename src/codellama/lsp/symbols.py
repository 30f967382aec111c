"""Names in source text: which are used, which are defined and how, and what is imported."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from codellama.lsp.languages import Language

if TYPE_CHECKING:
    import tree_sitter

_WORD = re.compile(r"[A-Za-z_]\w*")
_HEAD_LINES = 6  # of a definition, or its first lines up to its body's third
_HEAD_CHARS = 400


@dataclass(frozen=True, kw_only=True)
class Symbols:
    """What a file defines, each with the first lines of its definition, and its import lines."""

    definitions: dict[str, str]
    imports: tuple[str, ...]


@lru_cache(maxsize=256)
def symbols(language: Language, text: str) -> Symbols:
    """The symbols of a file, also of one that does not parse everywhere."""
    import tree_sitter

    source = text.encode("utf-8", "replace")
    tree = tree_sitter.Parser(language.grammar()).parse(source)
    lines = source.split(b"\n")
    definitions: dict[str, str] = {}
    imports: list[str] = []
    todo = [tree.root_node]
    while todo:
        node = todo.pop()
        if node.type in language.imports:
            imports.append(_text(source[node.start_byte : node.end_byte]))
            continue
        if node.type in language.definitions:
            name = _name(node)
            if name is not None:
                definitions.setdefault(name, _head(node, lines))
        todo += reversed(node.children)
    return Symbols(definitions=definitions, imports=tuple(imports))


def words(text: str) -> list[str]:
    """The names in a text, those that stand last first, each once."""
    return list(dict.fromkeys(reversed(_WORD.findall(text))))


def imported_names(imports: tuple[str, ...]) -> frozenset[str]:
    """Every word of some import lines: modules, packages and the names taken from them."""
    return frozenset(word for line in imports for word in _WORD.findall(line))


def _name(node: tree_sitter.Node) -> str | None:
    found = node.child_by_field_name("name")
    inner = node.child_by_field_name("declarator")
    while found is None and inner is not None:  # C wraps a function's name in its declarator
        if inner.type in ("identifier", "field_identifier", "type_identifier",
                          "qualified_identifier"):  # fmt: skip
            found = inner
        inner = inner.child_by_field_name("declarator")
    if found is None or found.text is None:
        return None
    return _text(found.text).rpartition("::")[2]


def _head(node: tree_sitter.Node, lines: list[bytes]) -> str:
    first, last = node.start_point[0], node.end_point[0]
    body = node.child_by_field_name("body")
    if body is not None:
        last = min(last, max(body.start_point[0] + 1, first + 1))
    last = min(last, first + _HEAD_LINES - 1)
    text = b"\n".join(lines[first : last + 1])
    return _text(text)[:_HEAD_CHARS].rstrip()


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")
