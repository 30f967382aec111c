"""Pieces of other places that tell something about the text at the cursor, most important first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from codellama.lsp.context import Piece
from codellama.lsp.edits import RecentEdits
from codellama.lsp.languages import Language, find_language
from codellama.lsp.repository import Repository
from codellama.lsp.symbols import imported_names, symbols, words

_NEAR_LINES = 12  # above the cursor, whose names are looked up; half as many below it
_DEFINITIONS = 8
_REGIONS = 3
_IMPORT_CHARS = 800


@dataclass(frozen=True, kw_only=True)
class OpenFile:
    """A file that the editor has open: its path as shown, and its text."""

    path: Path
    text: str


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """Where a cursor is, and what else there is to look at.

    `shown_chars` is about how much of the file before and after the cursor the model sees anyway.
    """

    document: str
    path: Path
    language: Language | None
    prefix: str
    suffix: str
    shown_chars: int
    others: Mapping[str, OpenFile] = field(default_factory=dict)
    edits: RecentEdits | None = None
    repository: Repository | None = None
    wants_definitions: bool = True


def gather(around: Surroundings) -> list[Piece]:
    """Import lines and definitions that are out of sight, and regions that were edited lately."""
    found: list[Piece] = []
    if around.language is not None and around.wants_definitions:
        found += _from_language(around, around.language)
    found += _edited(around)
    return found


def _visible(around: Surroundings) -> str:
    return around.prefix[-around.shown_chars :] + around.suffix[: around.shown_chars // 4]


def _from_language(around: Surroundings, language: Language) -> list[Piece]:
    visible = _visible(around)
    own = symbols(language, around.prefix + around.suffix)
    found: list[Piece] = []
    hidden = [line for line in own.imports if line not in visible]
    if hidden:
        found.append(Piece(name=around.path.name, text="\n".join(hidden)[:_IMPORT_CHARS]))
    near = "\n".join(around.prefix.split("\n")[-_NEAR_LINES:])
    near_names = words(near) + words("\n".join(around.suffix.split("\n")[: _NEAR_LINES // 2]))
    imported = imported_names(own.imports)
    n = 0
    for name in dict.fromkeys(near_names):
        if n == _DEFINITIONS:
            break
        piece = _definition(name, around, language, own.definitions, imported)
        if piece is not None and piece.text not in visible:
            found.append(piece)
            n += 1
    return found


def _definition(
    name: str,
    around: Surroundings,
    language: Language,
    own: Mapping[str, str],
    imported: frozenset[str],
) -> Piece | None:
    """A name's definition: in this file, in one that is open, or in the repository."""
    if name in own:
        return Piece(name=around.path.name, text=own[name])
    for document, file in around.others.items():
        other = find_language("", file.path.name)
        if document != around.document and other is not None and other.name == language.name:
            text = symbols(other, file.text).definitions.get(name)
            if text is not None:
                return Piece(name=file.path.name, text=text)
    if around.repository is None:
        return None
    found = around.repository.find(name, near=around.path, imported=imported)
    # A name that many files define says nothing about which is meant, unless one is imported.
    if not found or (len(found) > 3 and name not in imported):
        return None
    return Piece(name=found[0].path, text=found[0].text)


def _edited(around: Surroundings) -> list[Piece]:
    if around.edits is None:
        return []
    visible = _visible(around)
    found: list[Piece] = []
    for region in around.edits.latest():
        file = around.others.get(region.document)
        if file is None or len(found) == _REGIONS:
            continue
        text = "\n".join(file.text.split("\n")[region.first : region.last + 1]).strip("\n")
        is_own = region.document == around.document
        if text.strip() and not (is_own and (text in visible or _overlaps(text, visible))):
            found.append(Piece(name=file.path.name, text=text))
    return found


def _overlaps(text: str, visible: str) -> bool:
    """Whether half of a region's lines can be seen already."""
    lines = [line for line in text.split("\n") if line.strip()]
    return 2 * sum(line in visible for line in lines) >= len(lines)
