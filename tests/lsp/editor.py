"""An editor's side of the protocol, over the language server as a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from typing import Any

from lsprotocol import types
from pytest_lsp import ClientServerConfig, LanguageClient

INVOKED = types.InlineCompletionTriggerKind.Invoked
AUTOMATIC = types.InlineCompletionTriggerKind.Automatic
COMMAND = [sys.executable, "-m", "codellama", "lsp"]


def inline_capabilities(*encodings: str) -> types.ClientCapabilities:
    """Those of an editor with ghost text."""
    return types.ClientCapabilities(
        text_document=types.TextDocumentClientCapabilities(
            inline_completion=types.InlineCompletionClientCapabilities()
        ),
        general=types.GeneralClientCapabilities(
            position_encodings=[types.PositionEncodingKind(name) for name in encodings] or None
        ),
    )


class Editor:
    """One session. Documents are kept here, and every change is sent as the change it is."""

    def __init__(self, client: LanguageClient, capabilities: types.ServerCapabilities) -> None:
        self.client = client
        self.capabilities = capabilities
        self.uri = "file:///project/main.py"
        self.texts: dict[str, str] = {}
        self._versions: dict[str, int] = {}

    def open(self, uri: str, text: str, language: str = "python") -> None:
        self.texts[uri], self._versions[uri] = text, 1
        self.client.text_document_did_open(
            types.DidOpenTextDocumentParams(
                types.TextDocumentItem(uri=uri, language_id=language, version=1, text=text)
            )
        )

    def position(self, uri: str, offset: int) -> types.Position:
        """In UTF-16 units."""
        before = self.texts[uri][:offset]
        line = before[before.rfind("\n") + 1 :]
        return types.Position(line=before.count("\n"), character=len(line.encode("utf-16-le")) // 2)

    def type(self, uri: str, offset: int, text: str, *, over: int = 0) -> int:
        """Puts `text` in place of `over` characters; returns where the cursor is then."""
        self._versions[uri] += 1
        where = types.Range(self.position(uri, offset), self.position(uri, offset + over))
        self.texts[uri] = self.texts[uri][:offset] + text + self.texts[uri][offset + over :]
        self.client.text_document_did_change(
            types.DidChangeTextDocumentParams(
                text_document=types.VersionedTextDocumentIdentifier(
                    uri=uri, version=self._versions[uri]
                ),
                content_changes=[types.TextDocumentContentChangePartial(range=where, text=text)],
            )
        )
        return offset + len(text)

    def params(
        self, uri: str, offset: int, kind: Any = AUTOMATIC, selected: Any = None
    ) -> types.InlineCompletionParams:
        return types.InlineCompletionParams(
            context=types.InlineCompletionContext(
                trigger_kind=kind, selected_completion_info=selected
            ),
            text_document=types.TextDocumentIdentifier(uri=uri),
            position=self.position(uri, offset),
        )

    async def items(
        self, uri: str, offset: int, kind: Any = INVOKED, selected: Any = None
    ) -> list[types.InlineCompletionItem]:
        """Inline completions, each checked by the rule by which VS Code shows or drops them."""
        found = await self.client.text_document_inline_completion_async(
            self.params(uri, offset, kind, selected)
        )
        items = [] if found is None else list(getattr(found, "items", found))
        for item in items:
            check_shown(self, uri, offset, item)
        return items

    def accept(self, uri: str, item: types.InlineCompletionItem) -> None:
        """Takes an item as an editor does: its text goes in place of its range."""
        assert item.range is not None
        assert isinstance(item.insert_text, str)
        start, end = self.offset(uri, item.range.start), self.offset(uri, item.range.end)
        self.type(uri, start, item.insert_text, over=end - start)

    def offset(self, uri: str, position: types.Position) -> int:
        lines = self.texts[uri].split("\n")
        line = lines[position.line].encode("utf-16-le")[: 2 * position.character]
        return sum(len(one) + 1 for one in lines[: position.line]) + len(line.decode("utf-16-le"))

    async def status(self) -> dict[str, Any]:
        found = await self.client.workspace_execute_command_async(
            types.ExecuteCommandParams(command="codellama.status")
        )
        return found if isinstance(found, dict) else vars(found)


def check_shown(editor: Editor, uri: str, offset: int, item: types.InlineCompletionItem) -> None:
    """The range is on one line; what it holds left of the cursor begins the new text, and what it
    holds right of the cursor is a subsequence of what follows."""
    assert item.range is not None
    assert item.range.start.line == item.range.end.line
    start, end = (editor.offset(uri, at) for at in (item.range.start, item.range.end))
    text = editor.texts[uri]
    left, right = text[start:offset], text[offset:end]
    assert isinstance(item.insert_text, str)
    new = item.insert_text
    assert new.lower().startswith(left.lower()) or start > offset
    rest = iter(new[len(left) :].lower())
    assert all(char in rest for char in right.lower()), (right, new)


@contextlib.asynccontextmanager
async def editing(
    *flags: str,
    capabilities: types.ClientCapabilities | None = None,
    options: Any = None,
    root: str | None = None,
    env: dict[str, str] | None = None,
) -> AsyncIterator[Editor]:
    """A session with `codellama lsp`, which has ended when the block has."""
    config = ClientServerConfig(
        server_command=[*COMMAND, *flags], server_env={**os.environ, **(env or {})}
    )
    client = await config.start()
    assert isinstance(client, LanguageClient)
    try:
        found = await client.initialize_session(
            types.InitializeParams(
                capabilities=inline_capabilities() if capabilities is None else capabilities,
                initialization_options=options,
                root_uri=root,
            )
        )
        yield Editor(client, found.capabilities)
        await client.shutdown_session()
        assert client._server is not None
        assert client._server.returncode == 0
    except BaseException:
        if client._server is not None and client._server.returncode is None:
            client._server.kill()
        raise
    finally:
        await client.stop()


def run(work: Any, seconds: float = 60) -> Any:
    """Runs an asynchronous test, which may not hang."""
    return asyncio.run(limited(work, seconds))


async def limited(work: Any, seconds: float = 60) -> Any:
    return await asyncio.wait_for(work, seconds)
