"""From a key to the ghost text: a real client types into a real file, key by key.

Lines of a file of the standard library are taken out and typed again, each key as a change of the
document and a request for an inline completion. Timed is from before the change is sent to the
answer. Answers with text and without are told apart, and those from memory from those of the model.

    python benchmarks/ghost_text.py [--keys 400] [--seed 1] [--model nano] [--pause-ms 60]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import time
from pathlib import Path

from lsprotocol import types
from pygls.lsp.client import LanguageClient
from suggestions import standard_library

URI = "file:///typed/main.py"


class Typist:
    """A document, and a client that changes it and asks for suggestions."""

    def __init__(self, client: LanguageClient, text: str) -> None:
        self._client = client
        self._text = text
        self._version = 1
        client.text_document_did_open(
            types.DidOpenTextDocumentParams(
                types.TextDocumentItem(uri=URI, language_id="python", version=1, text=text)
            )
        )

    def _position(self, at: int) -> types.Position:
        before = self._text[:at]
        return types.Position(before.count("\n"), at - before.rfind("\n") - 1)

    async def key(self, at: int, char: str) -> tuple[float, bool]:
        """Types one character; returns milliseconds to the answer, and whether it has a text."""
        start = time.perf_counter()
        self._version += 1
        here = self._position(at)
        self._client.text_document_did_change(
            types.DidChangeTextDocumentParams(
                text_document=types.VersionedTextDocumentIdentifier(uri=URI, version=self._version),
                content_changes=[
                    types.TextDocumentContentChangePartial(range=types.Range(here, here), text=char)
                ],
            )
        )
        self._text = self._text[:at] + char + self._text[at:]
        found = await self._client.text_document_inline_completion_async(
            types.InlineCompletionParams(
                context=types.InlineCompletionContext(types.InlineCompletionTriggerKind.Automatic),
                text_document=types.TextDocumentIdentifier(URI),
                position=self._position(at + 1),
            )
        )
        return 1000 * (time.perf_counter() - start), bool(found)


async def status(client: LanguageClient) -> dict[str, int]:
    found = await client.workspace_execute_command_async(
        types.ExecuteCommandParams(command="codellama.status")
    )
    return found if isinstance(found, dict) else vars(found)


def holes(chance: random.Random, n_keys: int) -> list[tuple[str, str, str]]:
    """What stands before and after some lines of a file, and the lines to be typed."""
    files = [path for path in standard_library() if 15_000 < path.stat().st_size < 40_000]
    found, left = [], n_keys
    while left > 0:
        text = chance.choice(files).read_text("utf-8", "replace")
        lines = text.split("\n")
        at = chance.randrange(20, len(lines) - 20)
        typed = "\n".join(lines[at : at + 3])[: min(left, 120)]
        if typed.strip():
            found.append(("\n".join(lines[:at]) + "\n", "\n" + "\n".join(lines[at + 3 :]), typed))
            left -= len(typed)
    return found


async def main(args: argparse.Namespace) -> None:
    client = LanguageClient("keystrokes", "1")
    command = [sys.executable, "-m", "codellama", "lsp", "--model", args.model]
    if args.url:
        command += ["--url", args.url]
    await client.start_io(*command)
    await client.initialize_async(
        types.InitializeParams(
            capabilities=types.ClientCapabilities(
                text_document=types.TextDocumentClientCapabilities(
                    inline_completion=types.InlineCompletionClientCapabilities()
                )
            )
        )
    )
    client.initialized(types.InitializedParams())
    while not (await status(client))["url"]:
        await asyncio.sleep(0.1)
    kinds: dict[str, list[float]] = {"model": [], "memory": [], "nothing": []}
    chance = random.Random(args.seed)
    for prefix, suffix, typed in holes(chance, args.keys):
        typist = Typist(client, prefix + suffix)
        at = len(prefix)
        for char in typed:
            asked = (await status(client))["asked"]
            ms, has_text = await typist.key(at, char)
            at += 1
            was_asked = (await status(client))["asked"] > asked
            kind = "nothing" if not has_text else "model" if was_asked else "memory"
            kinds[kind].append(ms)
            await asyncio.sleep(args.pause_ms / 1000)
        client.text_document_did_close(
            types.DidCloseTextDocumentParams(types.TextDocumentIdentifier(URI))
        )
    await client.shutdown_async(None)
    client.exit(None)
    await client.stop()
    for kind, times in {**kinds, "ghost text": kinds["model"] + kinds["memory"]}.items():
        if len(times) > 1:
            p95 = statistics.quantiles(times, n=20)[-1]
            print(f"{kind:<10} {len(times):5} keys   median {statistics.median(times):6.1f} ms"
                  f"   p95 {p95:6.1f} ms   most {max(times):6.1f} ms")  # fmt: skip
    if args.json:
        args.json.write_text(json.dumps(kinds))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--keys", type=int, default=400)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--url", help="a running server (default: one is started)")
    parser.add_argument("--pause-ms", type=float, default=60)
    parser.add_argument("--json", type=Path)
    asyncio.run(main(parser.parse_args()))
