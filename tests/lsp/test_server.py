"""The language server as an editor meets it: a real client, a process, a server over HTTP."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tree_sitter", reason="the extra `lsp` is not installed")
pytest.importorskip("pytest_lsp", reason="pytest-lsp is not installed")

from editor import (
    AUTOMATIC,
    COMMAND,
    INVOKED,
    Editor,
    editing,
    inline_capabilities,
    limited,
    run,
)
from editor_fills import TOLD, fills
from harness import Running, running, scripted, until
from lsprotocol import types
from pygls.exceptions import JsonRpcException

from fakes import ScriptedModel

URI = "file:///project/main.py"
HEAD = "def area(r):\n    "
TAIL = "\n\n\nprint(area(2))\n"


def reply(prefix: str, suffix: str) -> str | None:
    """The fills of the scripted model."""
    if prefix.endswith("SLOW"):
        return "x" * 400
    if prefix.endswith("def area(r):\n"):
        return "    return 3.14 * r * r\n\n\ndef other():\n"
    if prefix.endswith("return 3.14"):
        return " / r"
    if prefix.endswith("😀'"):
        return ", 1)"
    if prefix.endswith("os.path"):
        return ".join(r)"
    return ""


@pytest.fixture(scope="module")
def served() -> Iterator[Running]:
    slow = [0.0]

    def script(tokens: tuple[int, ...]) -> int | None:
        return fill(tokens)

    def wait() -> None:
        time.sleep(slow[0])

    fill = fills(reply, wait=wait)
    model = scripted(ScriptedModel(n_blocks=1024, script=script), max_seq_len=2048, step_tokens=256)
    with running(("codellama-test", model), settings=TOLD) as found:
        found.slow = slow  # type: ignore[attr-defined]
        yield found


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    """One loop for all tests, since a process per test takes long to start."""
    with asyncio.Runner() as found:
        yield found


@pytest.fixture(scope="module")
def shared(served: Running, runner: asyncio.Runner) -> Iterator[Editor]:
    """A session for tests that leave its settings alone, each with documents of its own."""
    session = editing("--url", served.url)
    editor = runner.run(session.__aenter__())

    async def warm() -> None:
        editor.open("file:///warm.py", "x = 1\n")
        await editor.items("file:///warm.py", 5)

    runner.run(warm())
    yield editor
    runner.run(session.__aexit__(None, None, None))


@pytest.fixture
def editor(shared: Editor, request: pytest.FixtureRequest) -> Editor:
    shared.uri = f"file:///project/{request.node.name}.py"
    return shared


@pytest.fixture
def slowly(served: Running) -> Iterator[Running]:
    served.slow[0] = 0.01  # type: ignore[attr-defined]
    yield served
    served.slow[0] = 0.0  # type: ignore[attr-defined]


def test_typing_shows_a_suggestion_and_accepting_it_leaves_the_file_whole(
    editor: Editor, runner: asyncio.Runner
) -> None:
    async def work() -> None:
        assert editor.capabilities.inline_completion_provider
        editor.open(editor.uri, HEAD + TAIL)
        [item] = await editor.items(editor.uri, len(HEAD), AUTOMATIC)
        assert item.insert_text == "return 3.14 * r * r"
        asked = (await editor.status())["asked"]
        at = len(HEAD)
        for key in "return":  # typing along is served without the model
            at = editor.type(editor.uri, at, key)
            [item] = await editor.items(editor.uri, at, AUTOMATIC)
        assert item.insert_text == " 3.14 * r * r"
        assert (await editor.status())["asked"] == asked
        editor.accept(editor.uri, item)
        assert editor.texts[editor.uri] == HEAD + "return 3.14 * r * r" + TAIL
        assert item.command is not None
        await editor.client.workspace_execute_command_async(
            types.ExecuteCommandParams(item.command.command, item.command.arguments)
        )
        assert (await editor.status())["accepted"] == 1

    runner.run(limited(work()))


def test_a_cancelled_request_ends_the_work_of_the_model(
    editor: Editor, runner: asyncio.Runner, slowly: Running
) -> None:
    async def work() -> None:
        editor.open(editor.uri, "x = SLOW\n")
        before = slowly.served.service.counters.aborts
        future = editor.client.protocol.send_request_async(
            types.TEXT_DOCUMENT_INLINE_COMPLETION,
            editor.params(editor.uri, 8, INVOKED),
            msg_id="one",
        )
        asked = asyncio.ensure_future(future)
        await asyncio.to_thread(until, lambda: slowly.served.service.n_running)
        editor.client.cancel_request(types.CancelParams(id="one"))
        with pytest.raises(JsonRpcException, match="cancel"):
            await asked
        await asyncio.to_thread(until, lambda: not slowly.served.service.n_running)
        assert slowly.served.service.counters.aborts == before + 3  # candidates

    runner.run(limited(work()))


def test_a_newer_request_supersedes_the_older_one(
    editor: Editor, runner: asyncio.Runner, slowly: Running
) -> None:
    """An editor that moves on without a word gets nothing for where it was."""

    async def work() -> None:
        editor.open(editor.uri, "x = SLOW\n" + HEAD + TAIL)
        older = asyncio.ensure_future(editor.items(editor.uri, 8, INVOKED))
        await asyncio.to_thread(until, lambda: slowly.served.service.n_running)
        newer = await editor.items(editor.uri, 9 + len(HEAD), AUTOMATIC)
        assert await older == []
        assert newer[0].insert_text == "return 3.14 * r * r"
        await asyncio.to_thread(until, lambda: not slowly.served.service.n_running)

    runner.run(limited(work()))


def test_two_documents_do_not_get_in_each_others_way(
    editor: Editor, runner: asyncio.Runner, slowly: Running
) -> None:
    async def work() -> None:
        for name in ("a", "b"):
            editor.open(f"file:///{name}.py", HEAD + TAIL)
        found = await asyncio.gather(
            *(editor.items(f"file:///{name}.py", len(HEAD), AUTOMATIC) for name in ("a", "b"))
        )
        assert [items[0].insert_text for items in found] == ["return 3.14 * r * r"] * 2

    runner.run(limited(work()))


def test_positions_are_counted_in_utf_16(editor: Editor, runner: asyncio.Runner) -> None:
    async def work() -> None:
        text = "print('é😀')\n"
        editor.open(editor.uri, text)
        at = text.index(")")
        assert editor.position(editor.uri, at).character == at + 1
        [item] = await editor.items(editor.uri, at)
        editor.accept(editor.uri, item)
        assert editor.texts[editor.uri] == "print('é😀', 1)\n"  # the bracket stood there

    runner.run(limited(work()))


def test_other_encodings_are_negotiated(served: Running) -> None:
    encoding = "utf-8"

    async def work() -> None:
        capabilities = inline_capabilities(encoding)
        async with editing("--url", served.url, capabilities=capabilities) as editor:
            assert editor.capabilities.position_encoding == encoding
            editor.open(URI, "print('é😀')\n")
            character = len("print('é😀'".encode())
            params = editor.params(URI, 0, INVOKED)
            params.position = types.Position(0, character)
            found = await editor.client.text_document_inline_completion_async(params)
            assert isinstance(found, types.InlineCompletionList)
            [item] = found.items
            assert item.insert_text == ", 1)"
            assert item.range == types.Range(
                types.Position(0, character), types.Position(0, character + 1)
            )

    run(work())


def test_what_stands_right_of_the_cursor_is_in_the_text(
    editor: Editor, runner: asyncio.Runner
) -> None:
    """So that editors that draw over the line show what will be there."""

    async def work() -> None:
        text = "print(os.path)\n"
        editor.open(editor.uri, text)
        [item] = await editor.items(editor.uri, text.index(")"))
        assert item.insert_text == ".join(r))"
        editor.accept(editor.uri, item)
        assert editor.texts[editor.uri] == "print(os.path.join(r))\n"

    runner.run(limited(work()))


def test_a_selected_completion_is_gone_on_from(editor: Editor, runner: asyncio.Runner) -> None:
    async def work() -> None:
        editor.open(editor.uri, "x = os.pa\n")
        selected = types.SelectedCompletionInfo(
            range=types.Range(types.Position(0, 7), types.Position(0, 9)), text="path"
        )
        [item] = await editor.items(editor.uri, 9, AUTOMATIC, selected)
        assert item.insert_text == "path.join(r)"
        assert item.range == selected.range

    runner.run(limited(work()))


def test_older_editors_get_ordinary_completions(served: Running) -> None:
    async def work() -> None:
        async with editing("--url", served.url, capabilities=types.ClientCapabilities()) as editor:
            assert editor.capabilities.completion_provider is not None
            editor.open(URI, HEAD + "return 3.14" + TAIL)
            at = len(HEAD + "return 3.14")
            found = await editor.client.text_document_completion_async(
                types.CompletionParams(
                    text_document=types.TextDocumentIdentifier(uri=URI),
                    position=editor.position(URI, at),
                )
            )
            assert isinstance(found, types.CompletionList)
            assert found.is_incomplete
            [item] = found.items
            edit = item.text_edit
            assert isinstance(edit, types.TextEdit)
            assert edit.new_text == "14 / r"
            assert edit.range.end.character == at - len("def area(r):\n")
            assert item.filter_text is not None
            assert item.filter_text.startswith("14")

    run(work())


def test_an_editor_with_ghost_text_gets_no_second_helping(
    editor: Editor, runner: asyncio.Runner
) -> None:
    async def work() -> Any:
        editor.open(editor.uri, HEAD + TAIL)
        return await editor.client.text_document_completion_async(
            types.CompletionParams(
                types.TextDocumentIdentifier(editor.uri), editor.position(editor.uri, len(HEAD))
            )
        )

    assert runner.run(limited(work())) is None


def test_settings_turn_it_off(served: Running) -> None:
    async def work() -> None:
        async with editing("--url", served.url, options={"off_for": ["python"]}) as editor:
            editor.open(URI, HEAD + TAIL)
            assert await editor.items(URI, len(HEAD)) == []
            editor.client.workspace_did_change_configuration(
                types.DidChangeConfigurationParams({"codellama": {"off_for": []}})
            )
            assert len(await editor.items(URI, len(HEAD))) == 1
            await editor.client.workspace_execute_command_async(
                types.ExecuteCommandParams("codellama.toggle")
            )
            assert await editor.items(URI, len(HEAD)) == []

    run(work())


def test_windows_line_ends_stay(editor: Editor, runner: asyncio.Runner) -> None:
    async def work() -> None:
        editor.open(editor.uri, (HEAD + TAIL).replace("\n", "\r\n"))
        params = editor.params(editor.uri, 0, INVOKED)
        params.position = types.Position(1, 4)
        found = await editor.client.text_document_inline_completion_async(params)
        assert isinstance(found, types.InlineCompletionList)
        assert found.items[0].insert_text == "return 3.14 * r * r"

    runner.run(limited(work()))


def test_what_is_wrong_is_said_once() -> None:
    async def work() -> list[str]:
        async with editing("--url", "http://127.0.0.1:9", options={"debounce": 1}) as editor:
            editor.open(editor.uri, HEAD + TAIL)
            for _ in range(2):
                assert await editor.items(editor.uri, len(HEAD)) == []
            return [message.message for message in editor.client.messages]

    setting, server = run(work())
    assert "there is no setting `debounce` (did you mean `debounce_ms`?)" in setting
    assert "http://127.0.0.1:9 cannot be reached" in server


def test_it_starts_a_server_of_its_own_and_ends_it(tmp_path: Path) -> None:
    async def work() -> tuple[str, list[int]]:
        async with editing("--model", "nano", root=tmp_path.as_uri()) as editor:
            editor.open(URI, "import os\n\n\n" + HEAD + TAIL)
            for _ in range(3):
                await editor.items(URI, len("import os\n\n\n" + HEAD))
            status = await editor.status()
            assert status["asked"] >= 1
            assert editor.client._server is not None
            return status["url"], children(editor.client._server.pid)

    url, started = run(work(), 120)
    assert url.startswith("http://127.0.0.1:")
    assert started
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in started))


def test_its_server_ends_even_where_it_is_killed() -> None:
    process = subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert process.stdin is not None
    hello = {"id": 1, "method": "initialize", "params": {"capabilities": {}, "processId": None,
             "rootUri": None}}  # fmt: skip
    for message in (hello, {"method": "initialized", "params": {}}):
        data = json.dumps({"jsonrpc": "2.0", **message}).encode()
        process.stdin.write(b"Content-Length: %d\r\n\r\n%s" % (len(data), data))
        process.stdin.flush()
    until(lambda: children(process.pid), 60)
    started = children(process.pid)
    process.kill()
    process.wait()
    process.stdin.close()
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in started))


def children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]
