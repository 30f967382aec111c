"""From a cursor in a document to suggestions, with nothing of an editor's protocol in it."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from codellama.lsp.cache import Entry, SuggestionCache
from codellama.lsp.context import Counter, Packed, Piece, RememberedCounter, pack
from codellama.lsp.finish import Place, finish, still_fits
from codellama.lsp.languages import Language
from codellama.lsp.model import Ask, Model
from codellama.lsp.rank import Candidate, following_text, ranked
from codellama.lsp.settings import Settings
from codellama.lsp.shape import Scope, shape_at
from codellama.lsp.spacing import after_space, split_space
from codellama.lsp.syntax import Syntax

_DOCUMENTS = 16  # of which trees and windows are kept
_SAME_LINES = 16  # the cursor may move so far before pieces are gathered anew
_SCORED_CHARS = 800  # of the text before a candidate, when the suffix is scored


@dataclass(frozen=True, kw_only=True)
class Request:
    """Where something is to be suggested. `n` is how many suggestions can be shown."""

    document: str
    language: Language | None
    prefix: str
    suffix: str
    n: int
    gather: Callable[[], list[Piece]] = list
    wait_s: float = 0.0


@dataclass
class _Seen:
    """What is kept of a document from one request to the next."""

    syntax: Syntax | None = None
    packed: Packed | None = None
    pieces: list[Piece] = dataclasses.field(default_factory=list)
    line: int = -1


class Suggester:
    """Makes suggestions; `budget` is the tokens of a prompt, marks included."""

    def __init__(self, model: Model, counter: Counter, settings: Settings, budget: int) -> None:
        self._model = model
        self._counter = RememberedCounter(counter)
        self._settings = settings
        self._budget = budget
        self._seen: OrderedDict[str, _Seen] = OrderedDict()
        self.cache = SuggestionCache()
        self.n_asked = 0  # requests that the model was asked for

    async def suggest(self, request: Request) -> tuple[str, ...]:
        """Texts to show at the cursor, best first.

        What was suggested before and is being typed is served at once. Otherwise `wait_s` passes,
        in which newer requests may cancel this one, and then the model is asked.

        Raises:
            EngineFailed: the model's server failed.
        """
        seen = self._of(request.document)
        place = self._place(request, seen)
        known = self.cache.find(request.document, request.prefix, request.suffix)
        if known is not None and (known.is_complete or request.n == 1):
            is_same = known.is_same_suffix
            texts = _distinct(
                still_fits(text, place, is_same_suffix=is_same) for text in known.texts
            )
            if texts or not known.texts:
                return texts[: request.n]
        if request.wait_s:
            await asyncio.sleep(request.wait_s)
        packed = await asyncio.to_thread(self._pack, request, seen)
        candidates = await self._candidates(request, place, packed)
        texts = tuple(one.text for one in candidates)
        self.cache.put(
            request.document,
            Entry(prefix=request.prefix, suffix=request.suffix, texts=texts,
                  is_complete=request.n > 1),
        )  # fmt: skip
        return texts[: request.n]

    def forget(self, document: str) -> None:
        """Drops what is kept of a document that was closed."""
        self._seen.pop(document, None)
        self.cache.forget(document)

    def _of(self, document: str) -> _Seen:
        found = self._seen.setdefault(document, _Seen())
        self._seen.move_to_end(document)
        while len(self._seen) > _DOCUMENTS:
            self._seen.popitem(last=False)
        return found

    def _place(self, request: Request, seen: _Seen) -> Place:
        syntax = None
        if request.language is not None:
            syntax = Syntax(request.language, request.prefix, request.suffix, seen.syntax)
        seen.syntax = syntax
        inside = "code" if syntax is None else syntax.inside()
        settings = self._settings
        shape = shape_at(
            request.prefix, request.suffix, inside,
            max_lines=settings.max_lines, max_tokens=settings.max_tokens,
        )  # fmt: skip
        return Place(
            prefix=request.prefix, suffix=request.suffix, shape=shape, syntax=syntax, inside=inside
        )

    def _pack(self, request: Request, seen: _Seen) -> Packed:
        line = request.prefix.count("\n")
        if seen.packed is None or abs(line - seen.line) > _SAME_LINES:
            seen.pieces, seen.line = request.gather(), line
        comment = "#" if request.language is None else request.language.comment
        shown, _ = split_space(request.prefix)
        seen.packed = pack(
            shown, request.suffix, seen.pieces, self._counter,
            budget=self._budget, comment=comment, previous=seen.packed,
        )  # fmt: skip
        return seen.packed

    async def _candidates(self, request: Request, place: Place, packed: Packed) -> list[Candidate]:
        scope = Scope(request.prefix, place.shape)
        _, space = split_space(request.prefix)
        is_indent = request.prefix.endswith("\n" + space) or request.prefix == space
        self.n_asked += 1

        def at_cursor(text: str) -> str | None:
            return after_space(text, space, is_indent=is_indent)

        def is_over(text: str) -> bool:
            if not text.strip():
                return scope.is_over(text)
            here = at_cursor(text)
            return here is None or scope.is_over(here)

        raw = await self._model.fill(
            Ask(
                prefix=packed.prefix,
                suffix=packed.suffix,
                n=request.n,
                max_tokens=place.shape.max_tokens,
                temperature=self._settings.temperature if request.n > 1 else 0.0,
                stop=("\n",) if place.shape.is_single_line else (),
                is_over=is_over,
            )
        )
        found: list[Candidate] = []
        for one in raw:
            here = at_cursor(one.text)
            text = None if here is None else finish(here, place, is_whole=one.is_whole)
            if text is not None:
                found.append(dataclasses.replace(one, text=text))
        after = following_text(request.suffix)
        if self._settings.rank and len({one.text for one in found}) > 1 and after:
            before = request.prefix[-_SCORED_CHARS:]
            scores = await self._model.follows([before + one.text for one in found], after)
            found = [
                dataclasses.replace(one, follows=score)
                for one, score in zip(found, scores, strict=True)
            ]
        return ranked(found)


def _distinct(texts: Iterable[str | None]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text for text in texts if text))
