"""The language server: LSP on one side, suggestions on the other."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from functools import partial
from pathlib import Path
from typing import Any

from lsprotocol import types
from pygls.lsp.server import LanguageServer
from pygls.uris import to_fs_path
from pygls.workspace import TextDocument

from codellama.errors import CodeLlamaError, EngineFailed
from codellama.lsp.connection import Connection
from codellama.lsp.documents import (
    Cursor,
    completion_item,
    cursor_at,
    inline_item,
    selected_item,
)
from codellama.lsp.edits import RecentEdits
from codellama.lsp.gather import OpenFile, Surroundings, gather
from codellama.lsp.languages import find_language
from codellama.lsp.repository import Repository
from codellama.lsp.settings import Settings
from codellama.lsp.suggest import Request, Suggester
from codellama.lsp.turns import Turns

log = logging.getLogger("codellama.lsp")

ACCEPTED = "codellama.accepted"
STATUS = "codellama.status"
TOGGLE = "codellama.toggle"
_CHARS_PER_TOKEN = 3  # about; for telling what of the file is in sight
_AUTOMATIC = types.InlineCompletionTriggerKind.Automatic


class Server(LanguageServer):
    """What the handlers share. `key` is presented to a server at a URL."""

    def __init__(self, settings: Settings, key: str | None, version: str) -> None:
        super().__init__("codellama", version)
        self.settings = settings
        self.connection = Connection(key)
        self.turns = Turns()
        self.edits = RecentEdits()
        self.files: Repository | None = None
        self.suggester: Suggester | None = None
        self.has_inline = False
        self.counts = {"requests": 0, "shown": 0, "accepted": 0}
        self._complaint = ""
        self._starting: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """Connects to a server, or starts one, unless that is under way already."""
        if self._starting is None:
            self._starting = asyncio.ensure_future(self._begin())
        await asyncio.shield(self._starting)

    async def _begin(self) -> None:
        try:
            self.suggester = await self.connection.open(self.settings)
            self._complaint = ""
        except CodeLlamaError as error:
            self._starting = None  # the next request tries again
            self.complain(error)

    async def change(self, settings: Settings) -> None:
        """Takes other settings; what depends on them begins anew."""
        if settings == self.settings:
            return
        self.settings = settings
        await self.end()
        await self.begin()

    async def end(self) -> None:
        """Lets go of the server, and ends it where it is ours."""
        if self._starting is not None:
            self._starting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._starting
            self._starting = None
        self.suggester = None
        await self.connection.close()

    def complain(self, error: CodeLlamaError) -> None:
        """Says what is wrong in the editor's log, and once where the user sees it."""
        text = f"codellama: {error}" + (f" ({error.hint})" if error.hint else "")
        kind = types.MessageType.Error
        self.window_log_message(types.LogMessageParams(type=kind, message=text))
        if text != self._complaint:
            self._complaint = text
            self.window_show_message(types.ShowMessageParams(type=kind, message=text))

    def surroundings(self, document: TextDocument, cursor: Cursor) -> Surroundings:
        settings = self.settings
        path = Path(document.path or document.uri)
        others = {
            uri: OpenFile(path=Path(other.path or uri), text=other.source)
            for uri, other in self.workspace.text_documents.items()
        }
        return Surroundings(
            document=document.uri,
            path=path,
            language=find_language(document.language_id or "", path.name),
            prefix=cursor.prefix,
            suffix=cursor.suffix,
            shown_chars=_CHARS_PER_TOKEN * settings.context_tokens,
            others=others,
            edits=self.edits if settings.recent_edits else None,
            repository=self.files if settings.repository else None,
            wants_definitions=settings.definitions,
        )

    async def suggest(
        self, document: TextDocument, cursor: Cursor, *, n: int, waits: bool
    ) -> tuple[str, ...]:
        """Suggestions at a cursor; none when a newer request for the document has come."""
        if not self.settings.is_on or (document.language_id or "") in self.settings.off_for:
            return ()
        if self.suggester is None:
            if waits and self._starting is not None and not self._starting.done():
                return ()  # typing does not wait for a model to load
            await self.begin()
            if self.suggester is None:
                return ()
        self.counts["requests"] += 1
        around = self.surroundings(document, cursor)
        request = Request(
            document=document.uri,
            language=around.language,
            prefix=cursor.prefix,
            suffix=cursor.suffix,
            n=n,
            gather=partial(gather, around),
            wait_s=self.settings.debounce_ms / 1000 if waits else 0.0,
        )
        try:
            found = await self.turns.run(document.uri, self.suggester.suggest(request))
        except EngineFailed as error:
            self.complain(error)
            if not self.connection.is_alive:
                await self.end()
            return ()
        self.counts["shown"] += len(found or ())
        return found or ()


def make_server(settings: Settings, key: str | None, version: str) -> Server:
    """The server with its handlers, to be started on standard input and output."""
    server = Server(settings, key, version)

    @server.feature(types.INITIALIZE)
    def initialize(params: types.InitializeParams) -> None:
        try:
            server.settings = server.settings.changed(params.initialization_options)
        except CodeLlamaError as error:
            server.complain(error)
        text = params.capabilities.text_document
        server.has_inline = text is not None and text.inline_completion is not None

    @server.feature(types.INITIALIZED)
    async def initialized(_: types.InitializedParams) -> None:
        roots = [to_fs_path(uri) for uri in server.workspace.folders]
        if not roots and server.workspace.root_path:
            roots = [server.workspace.root_path]
        server.files = Repository([Path(root) for root in roots if root])
        if server.settings.repository and server.settings.definitions:
            server.files.start()
        await server.begin()

    @server.feature(types.SHUTDOWN)
    async def shutdown(_: Any) -> None:
        if server.files is not None:
            server.files.stop()
        await server.end()

    @server.feature(types.WORKSPACE_DID_CHANGE_CONFIGURATION)
    async def configured(params: types.DidChangeConfigurationParams) -> None:
        found = params.settings
        if isinstance(found, dict):  # some clients send all sections, some only ours
            found = found.get("codellama", found)
        try:
            await server.change(server.settings.changed(found))
        except CodeLlamaError as error:
            server.complain(error)

    @server.feature(types.TEXT_DOCUMENT_DID_CHANGE)
    def changed(params: types.DidChangeTextDocumentParams) -> None:
        uri = params.text_document.uri
        for change in params.content_changes:
            if isinstance(change, types.TextDocumentContentChangePartial):
                start, end = change.range.start.line, change.range.end.line
                server.edits.note(uri, start, end - start, change.text.count("\n"))

    @server.feature(types.TEXT_DOCUMENT_DID_SAVE)
    async def saved(params: types.DidSaveTextDocumentParams) -> None:
        path = to_fs_path(params.text_document.uri)
        if server.files is not None and path is not None:
            await asyncio.to_thread(server.files.refresh, Path(path))

    @server.feature(types.TEXT_DOCUMENT_DID_CLOSE)
    def closed(params: types.DidCloseTextDocumentParams) -> None:
        uri = params.text_document.uri
        server.turns.end(uri)
        server.edits.forget(uri)
        if server.suggester is not None:
            server.suggester.forget(uri)

    @server.feature(types.TEXT_DOCUMENT_INLINE_COMPLETION, types.InlineCompletionOptions())
    async def inline(params: types.InlineCompletionParams) -> types.InlineCompletionList | None:
        document = server.workspace.get_text_document(params.text_document.uri)
        context = params.context
        is_automatic = context.trigger_kind == _AUTOMATIC
        selected = context.selected_completion_info
        cursor = cursor_at(document, params.position)
        if selected is not None:
            cursor = _after_selection(document, selected)
        n = 1 if is_automatic else server.settings.candidates
        texts = await server.suggest(document, cursor, n=n, waits=is_automatic)
        if not texts:
            return None
        command = types.Command(
            title="accepted", command=ACCEPTED, arguments=[params.text_document.uri]
        )
        if selected is not None:
            items = [selected_item(text, cursor, selected, command) for text in texts]
        else:
            items = [inline_item(text, cursor, command) for text in texts]
        return types.InlineCompletionList(items=items)

    @server.feature(types.TEXT_DOCUMENT_COMPLETION)
    async def complete(params: types.CompletionParams) -> types.CompletionList | None:
        mode = server.settings.completion
        if mode == "off" or (mode == "auto" and server.has_inline):
            return None
        document = server.workspace.get_text_document(params.text_document.uri)
        cursor = cursor_at(document, params.position)
        context = params.context
        is_invoked = context is None or context.trigger_kind == types.CompletionTriggerKind.Invoked
        n = server.settings.candidates if is_invoked else 1
        texts = await server.suggest(document, cursor, n=n, waits=not is_invoked)
        items = [completion_item(text, cursor, i) for i, text in enumerate(texts)]
        return types.CompletionList(is_incomplete=True, items=items)

    @server.command(ACCEPTED)
    def accepted(uri: str) -> None:
        server.counts["accepted"] += 1
        log.info("accepted in %s", uri)

    @server.command(STATUS)
    def status() -> dict[str, Any]:
        return {
            **server.counts,
            "asked": 0 if server.suggester is None else server.suggester.n_asked,
            "url": server.connection.url,
            "on": server.settings.is_on,
        }

    @server.command(TOGGLE)
    def toggle() -> bool:
        server.settings = server.settings.changed({"is_on": not server.settings.is_on})
        return server.settings.is_on

    return server


def _after_selection(document: TextDocument, selected: types.SelectedCompletionInfo) -> Cursor:
    """The cursor as it will be when the selected completion has been taken."""
    start = cursor_at(document, selected.range.start)
    end = cursor_at(document, selected.range.end)
    return Cursor(
        prefix=start.prefix + selected.text,
        suffix=end.suffix,
        rest=end.rest,
        eol=end.eol,
        at=start.at,
        line_end=end.line_end,
    )
