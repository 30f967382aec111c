"""Between an editor's documents and positions and plain text before and after a cursor."""

from __future__ import annotations

from dataclasses import dataclass

from lsprotocol import types
from pygls.workspace import TextDocument


@dataclass(frozen=True, kw_only=True)
class Cursor:
    """A position in a document, with `\\n` line ends in its texts.

    `rest` is what stands right of it on its line, `eol` the document's own line end.
    """

    prefix: str
    suffix: str
    rest: str
    eol: str
    at: types.Position
    line_end: types.Position


def cursor_at(document: TextDocument, position: types.Position) -> Cursor:
    """The text around a position that the client gave in its own units."""
    offset = document.offset_at_position(position)
    source = document.source
    crlf = source.count("\r\n")
    suffix = _unix(source[offset:])
    rest = suffix.partition("\n")[0]
    # Where a client points beyond its line, what it means is the line's end.
    at = document.client_position_at_offset(offset)
    units = document.position_codec.client_num_units(rest)
    return Cursor(
        prefix=_unix(source[:offset]),
        suffix=suffix,
        rest=rest,
        eol="\r\n" if crlf and crlf * 2 > source.count("\n") else "\n",
        at=at,
        line_end=types.Position(line=at.line, character=at.character + units),
    )


def inline_item(
    text: str, cursor: Cursor, command: types.Command | None
) -> types.InlineCompletionItem:
    """A suggestion as ghost text.

    Where something stands right of the cursor the item replaces it by itself: editors that draw
    the text over the line then show what will be there.
    """
    return types.InlineCompletionItem(
        insert_text=_own(text + cursor.rest, cursor),
        range=types.Range(start=cursor.at, end=cursor.line_end),
        command=command,
    )


def selected_item(
    text: str, cursor: Cursor, selected: types.SelectedCompletionInfo, command: types.Command | None
) -> types.InlineCompletionItem:
    """A suggestion that goes on from what is selected in the list of completions."""
    return types.InlineCompletionItem(
        insert_text=_own(selected.text + text, cursor), range=selected.range, command=command
    )


def completion_item(text: str, cursor: Cursor, number: int) -> types.CompletionItem:
    """A suggestion as an ordinary completion of the word that it goes on from."""
    line = cursor.prefix[cursor.prefix.rfind("\n") + 1 :]
    word = _word(line)
    label = (word + text).strip().partition("\n")[0]
    if len(label) > 60:
        label = label[:59] + "…"
    start = types.Position(line=cursor.at.line, character=cursor.at.character - len(word))
    return types.CompletionItem(
        label=label,
        kind=types.CompletionItemKind.Text,
        detail="codellama",
        documentation=word + text,
        sort_text=f"{number:04}",
        filter_text=word + text.partition("\n")[0],
        insert_text_format=types.InsertTextFormat.PlainText,
        text_edit=types.TextEdit(
            range=types.Range(start=start, end=cursor.at), new_text=_own(word + text, cursor)
        ),
    )


def _word(line: str) -> str:
    """The ASCII word at a line's end: there, characters are as long in every encoding."""
    n = len(line)
    while n and (line[n - 1] == "_" or (line[n - 1].isascii() and line[n - 1].isalnum())):
        n -= 1
    return line[n:]


def _unix(text: str) -> str:
    return text.replace("\r\n", "\n")


def _own(text: str, cursor: Cursor) -> str:
    return text if cursor.eol == "\n" else text.replace("\n", cursor.eol)
