"""Whether a text still parses with something inserted, and what encloses a place in it."""

from __future__ import annotations

import ast
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

from codellama.lsp.languages import Language

if TYPE_CHECKING:
    import tree_sitter

_WHOLE_BYTES = 16_384  # a longer Python file is only parsed anew around what changed
_COMMENTS = frozenset(("comment", "line_comment", "block_comment"))
_STRINGS = frozenset((
    "string", "string_literal", "template_string", "raw_string_literal", "char_literal",
    "interpreted_string_literal", "raw_string", "concatenated_string", "rune_literal",
    "string_content", "string_fragment", "heredoc_body", "regex", "system_lib_string",
))  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Insertion:
    """A text with something inserted, and what its parser says about it."""

    tree: tree_sitter.Tree
    text: bytes
    start: int  # byte offset of what was inserted
    end: int
    n_errors: int


class Syntax:
    """One document around one place, parsed once, into which texts are tried.

    tree-sitter's grammars accept more than the languages do. For Python the interpreter's own
    parser therefore has its say as well, so that "parses" means what it means to Python.
    """

    def __init__(
        self, language: Language, prefix: str, suffix: str, previous: Syntax | None = None
    ) -> None:
        """`previous` is the same document as it was: what did not change is not parsed again.

        Raises:
            MissingExtra: the grammars are not installed.
        """
        import tree_sitter

        self._language = language
        self._before = prefix.encode("utf-8", "replace")
        self._after = suffix.encode("utf-8", "replace")
        text = self._before + self._after
        self._parser = tree_sitter.Parser(language.grammar())
        if previous is not None and previous._language is language:
            self._tree = self._parser.parse(text, previous._edited_to(text))
        else:
            self._tree = self._parser.parse(text)
        self._n_errors = count_errors(self._tree)
        self._parsed: bool | None = None

    def _edited_to(self, text: bytes) -> tree_sitter.Tree:
        """This document's tree, told where it differs from `text`."""
        old = self._before + self._after
        tree = self._tree.copy()
        start = _common(old, text)
        end = _common(old[start:][::-1], text[start:][::-1])
        old_end, new_end = len(old) - end, len(text) - end
        tree.edit(
            start, old_end, new_end,
            _point(old[:start]), _point(old[:old_end]), _point(text[:new_end]),
        )  # fmt: skip
        return tree

    @property
    def n_errors(self) -> int:
        """Places in the document that its grammar does not accept."""
        return self._n_errors

    @property
    def parses(self) -> bool:
        """Whether the document parses as it is."""
        if self._parsed is None:
            text = self._before + self._after
            self._parsed = self._n_errors == 0 and (
                not self._language.indents or python_parses(text)
            )
        return self._parsed

    def insert(self, text: str) -> Insertion:
        """The document with `text` at the place; its tree shares what did not change."""
        start, end = len(self._before), len(self._before) + len(text.encode("utf-8", "replace"))
        old = self._tree.copy()
        point = _point(self._before)
        whole = self._before + text.encode("utf-8", "replace") + self._after
        old.edit(start, start, end, point, point, _point(whole[:end]))
        tree = self._parser.parse(whole, old)
        return Insertion(tree=tree, text=whole, start=start, end=end, n_errors=count_errors(tree))

    def accepts(self, insertion: Insertion) -> bool:
        """Whether the document may become this: it parses, or parses no worse than it does now."""
        if insertion.n_errors:
            return insertion.n_errors <= self._n_errors and not self.parses
        if not self._language.indents or self._python_accepts(insertion):
            return True
        return not self.parses

    def _python_accepts(self, insertion: Insertion) -> bool:
        if len(insertion.text) <= _WHOLE_BYTES or self._n_errors:
            return python_parses(insertion.text)
        # Statements of a module that did not change parse as they did: look at those that did.
        start, end = len(insertion.text), 0
        for node in insertion.tree.root_node.children:
            if node.end_byte >= insertion.start and node.start_byte <= insertion.end:
                start, end = min(start, node.start_byte), max(end, node.end_byte)
        start = insertion.text.rfind(b"\n", 0, min(start, insertion.start)) + 1
        line_end = insertion.text.find(b"\n", max(end, insertion.end))
        end = len(insertion.text) if line_end < 0 else line_end + 1
        return python_parses(insertion.text[start:end])

    def inside(self) -> str:
        """What the place is in: "comment", "string" or "code"."""
        at = len(self._before)
        node = self._tree.root_node.descendant_for_byte_range(max(0, at - 1), at)
        while node is not None:
            if node.type in _COMMENTS and node.start_byte < at:
                return "code" if self._before.endswith(b"*/") else "comment"
            if node.type in _STRINGS and node.start_byte < at < node.end_byte:
                return "string"
            node = node.parent
        return "code"

    def scope_end(self, insertion: Insertion) -> int | None:
        """Bytes of the inserted text that belong to the innermost scope it began in.

        None where that scope, or the file, goes on after it.
        """
        start, end = insertion.start, insertion.end
        node = insertion.tree.root_node.descendant_for_byte_range(start, start)
        while node is not None:
            is_scope = node.type in self._language.scopes
            if is_scope and node.start_byte < start < node.end_byte:
                return node.end_byte - start if node.end_byte < end else None
            node = node.parent
        return self._first_statement(insertion)

    def _first_statement(self, insertion: Insertion) -> int | None:
        """At the top of a file: the end of the first definition that lies in what was inserted."""
        for node in insertion.tree.root_node.children:
            inner = node.children[-1] if node.type == "decorated_definition" else node
            is_whole = node.start_byte >= insertion.start and node.end_byte < insertion.end
            if is_whole and inner.type in self._language.definitions | self._language.scopes:
                return node.end_byte - insertion.start
        return None


def count_errors(tree: tree_sitter.Tree) -> int:
    """Nodes that stand for an error, or for something that is missing."""
    if not tree.root_node.has_error:
        return 0
    found, todo = 0, [tree.root_node]
    while todo:
        node = todo.pop()
        found += node.is_error or node.is_missing
        todo += [child for child in node.children if child.has_error or child.is_missing]
    return max(1, found)


def python_parses(text: bytes) -> bool:
    """Whether Python's own parser takes it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(text.decode("utf-8", "replace"))  # as text, whatever a coding line says
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _common(one: bytes, other: bytes) -> int:
    """How many bytes two texts begin with together."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _point(text: bytes) -> tuple[int, int]:
    """Row and column, in bytes, of a text's end."""
    return text.count(b"\n"), len(text) - (text.rfind(b"\n") + 1)
