"""Suggestions that were made, found again when the user types what they say."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

_CLOSERS = frozenset(")]}'\"`>")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Texts that were suggested between a prefix and a suffix, best first."""

    prefix: str
    suffix: str
    texts: tuple[str, ...]
    is_complete: bool  # as many as a user who asks for all of them gets
    is_same_suffix: bool = True  # False where the editor has closed brackets since


class SuggestionCache:
    """The latest suggestions of each document, by exactly what stood around the cursor.

    A prefix that has grown by the beginning of a suggestion finds its rest, so that typing along
    needs no model. Brackets and quotes that an editor closes by itself may have come before the
    suffix meanwhile. Nothing is served for a place whose text differs in any other way.
    """

    def __init__(self, size: int = 64) -> None:
        self._size = size
        self._entries: OrderedDict[str, list[Entry]] = OrderedDict()

    def put(self, document: str, entry: Entry) -> None:
        found = self._entries.setdefault(document, [])
        found[:] = [
            one for one in found if (one.prefix, one.suffix) != (entry.prefix, entry.suffix)
        ]
        found.append(entry)
        del found[: -self._size]
        self._entries.move_to_end(document)
        while len(self._entries) > self._size:
            self._entries.popitem(last=False)

    def find(self, document: str, prefix: str, suffix: str) -> Entry | None:
        """What was suggested here, less what of it has been typed since; None where nothing fits.

        An entry without texts says that there was nothing to suggest, and holds only for exactly
        the place it was made for.
        """
        for entry in reversed(self._entries.get(document, ())):
            if len(prefix) < len(entry.prefix) or not prefix.startswith(entry.prefix):
                continue
            typed = prefix[len(entry.prefix) :]
            if not _same_after(entry.suffix, suffix, is_typing=bool(typed)):
                continue
            if not typed:
                return entry
            texts = tuple(
                text[len(typed) :]
                for text in entry.texts
                if text.startswith(typed) and text[len(typed) :].strip()
            )
            if texts:
                return Entry(prefix=prefix, suffix=suffix, texts=texts,
                             is_complete=entry.is_complete,
                             is_same_suffix=entry.suffix == suffix)  # fmt: skip
        return None

    def forget(self, document: str) -> None:
        self._entries.pop(document, None)


def _same_after(before: str, now: str, *, is_typing: bool) -> bool:
    if before == now:
        return True
    added = now[: len(now) - len(before)]
    return (
        is_typing
        and 0 < len(added) <= 4
        and now.endswith(before)
        and all(char in _CLOSERS for char in added)
    )
