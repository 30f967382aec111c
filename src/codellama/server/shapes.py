"""Completions as OpenAI's clients read them: whole, and as server-sent events.

Events are put together from strings that stay the same for a whole reply; nothing is validated or
built twice per token.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from json.encoder import encode_basestring
from typing import Any, Protocol

from codellama.engine.completion import Completion, Piece, TokenLogprob
from codellama.server.generation import Generation
from codellama.server.refusals import encode
from codellama.text.statements import complete_part
from codellama.text.tokenizer import Tokenizer

quoted: Callable[[str], str] = encode_basestring  # JSON of a text, by the encoder in C
DONE = b"data: [DONE]\n\n"


def by_deadline(generation: Generation, one: Completion) -> tuple[str, dict[str, Any]]:
    """A reply's text, and the mark of one that a deadline ended: then as much as is complete."""
    if not generation.is_late or one.finish_reason != "abort":
        return one.text, {}
    part = complete_part(one.text)
    return part or one.text, {"deadline": True, "complete": bool(part)}


def new_id(prefix: str) -> str:
    return prefix + os.urandom(12).hex()


def event(value: Any) -> bytes:
    """One server-sent event."""
    return b"data: " + encode(value) + b"\n\n"


def usage(
    completions: Sequence[Completion], n: int, n_prompts: int | None = None
) -> dict[str, Any]:
    """Token counts of all replies; a prompt counts once, however many replies it has."""
    firsts = completions[::n]
    prompt = sum(one.prompt_tokens for one in firsts) if n_prompts is None else n_prompts
    return counts(
        prompt,
        sum(len(one.token_ids) for one in completions),
        sum(one.cached_tokens for one in firsts),
    )


def counts(n_prompt: int, n_reply: int, n_cached: int = 0) -> dict[str, Any]:
    return {
        "prompt_tokens": n_prompt,
        "completion_tokens": n_reply,
        "total_tokens": n_prompt + n_reply,
        "prompt_tokens_details": {"cached_tokens": n_cached},
    }


def timings(completion: Completion) -> dict[str, Any]:
    """Where a reply's time went, under llama.cpp's names and with the wait in front."""
    t = completion.timings
    computed = t.prompt_tokens - t.cached_tokens
    prompt_ms, predicted_ms = 1000 * t.prefill_s, 1000 * t.decode_s
    return {
        "queue_ms": round(1000 * t.queue_s, 3),
        "cache_n": t.cached_tokens,
        "prompt_n": computed,
        "prompt_ms": round(prompt_ms, 3),
        "prompt_per_token_ms": round(prompt_ms / max(1, computed), 3),
        "prompt_per_second": round(t.prompt_tokens_per_s or 0, 3),
        "predicted_n": t.completion_tokens,
        "predicted_ms": round(predicted_ms, 3),
        "predicted_per_token_ms": round(predicted_ms / max(1, t.completion_tokens - 1), 3),
        "predicted_per_second": round(t.tokens_per_s or 0, 3),
    }


def token_text(tokenizer: Tokenizer, token_id: int) -> str:
    """A token for people: its text, `\\xNN` for bytes that are no text, its name for control."""
    raw = tokenizer.token_bytes(token_id)
    if not raw:
        return tokenizer.piece(token_id)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return "".join(f"\\x{byte:02x}" for byte in raw)


def _exact(entry: TokenLogprob) -> float:
    """The token's log-probability, from the same array as the alternatives where it is there."""
    return dict(entry.top).get(entry.token_id, entry.logprob)


def legacy_logprobs(
    tokenizer: Tokenizer,
    entries: Iterable[tuple[int, TokenLogprob | None]],
    offset: int = 0,
    *,
    with_ids: bool = False,
) -> dict[str, Any]:
    """OpenAI's four parallel arrays; `offset` is where the first token's text begins.

    `with_ids` adds `content`, the same in the form that chat has, where tokens have their ids.
    """
    if with_ids:
        entries = list(entries)
        content = chat_logprobs(tokenizer, (entry for _, entry in entries if entry is not None))
        return legacy_logprobs(tokenizer, entries, offset) | content
    tokens: list[str] = []
    own: list[float | None] = []
    tops: list[dict[str, float] | None] = []
    offsets: list[int] = []
    for token_id, entry in entries:
        n_begun = 0 if entry is None else entry.n_begun
        text = token_text(tokenizer, token_id)[n_begun:]
        tokens.append(text)
        offsets.append(offset)
        offset += len(text)
        if entry is None:
            own.append(None)
            tops.append(None)
            continue
        own.append(_exact(entry))
        top: dict[str, float] = {}
        for other, logprob in (*entry.top, (token_id, _exact(entry))):
            name = token_text(tokenizer, other)[n_begun:]
            top[name] = max(logprob, top.get(name, logprob))
        tops.append(top)
    return {
        "tokens": tokens,
        "token_logprobs": own,
        "top_logprobs": tops,
        "text_offset": offsets,
    }


def chat_logprobs(tokenizer: Tokenizer, entries: Iterable[TokenLogprob]) -> dict[str, Any]:
    """One object for each token, with its alternatives; `id` is llama.cpp's addition."""

    def named(token_id: int, logprob: float, n_begun: int) -> dict[str, Any]:
        raw = tokenizer.token_bytes(token_id)
        return {
            "id": token_id,
            "token": token_text(tokenizer, token_id)[n_begun:],
            "logprob": logprob,
            "bytes": list(raw.decode(errors="replace")[n_begun:].encode() if n_begun else raw),
        }

    return {
        "content": [
            named(entry.token_id, _exact(entry), entry.n_begun)
            | {"top_logprobs": [named(*pair, entry.n_begun) for pair in entry.top]}
            for entry in entries
        ]
    }


class Chunks(Protocol):
    """The events of one kind of stream."""

    def open(self, index: int) -> str:
        """The event before a reply's first text, if there is one."""
        ...

    def chunk(self, index: int, text: str, logprobs: str, tail: str) -> str: ...

    def last(self, index: int, text: str, logprobs: str, reason: str, tail: str) -> str: ...

    def usage(self, counts: dict[str, Any], timings: dict[str, Any]) -> str: ...


class _Head:
    """What every chunk of one answer begins with."""

    def __init__(self, kind: str, prefix: str, model: str, fingerprint: str) -> None:
        self.id = new_id(prefix)
        self.created = int(time.time())
        self._head = (
            f'data: {{"id":"{self.id}","object":"{kind}","created":{self.created},'
            f'"model":{quoted(model)},"system_fingerprint":{quoted(fingerprint)},"choices":['
        )

    def usage(self, counts: dict[str, Any], timings: dict[str, Any]) -> str:
        shown = f'"usage":{encode(counts).decode()},"timings":{encode(timings).decode()}'
        return f"{self._head}],{shown}}}\n\n"


class CompletionChunks(_Head):
    def __init__(self, model: str, fingerprint: str) -> None:
        super().__init__("text_completion", "cmpl-", model, fingerprint)

    def open(self, index: int) -> str:
        return ""

    def chunk(self, index: int, text: str, logprobs: str, tail: str) -> str:
        return (
            f'{self._head}{{"index":{index},"text":{quoted(text)},"logprobs":{logprobs},'
            f'"finish_reason":null}}]{tail}}}\n\n'
        )

    def last(self, index: int, text: str, logprobs: str, reason: str, tail: str) -> str:
        return (
            f'{self._head}{{"index":{index},"text":{quoted(text)},"logprobs":{logprobs},'
            f'"finish_reason":"{reason}"}}]{tail}}}\n\n'
        )


class ChatChunks(_Head):
    def __init__(self, model: str, fingerprint: str) -> None:
        super().__init__("chat.completion.chunk", "chatcmpl-", model, fingerprint)

    def open(self, index: int) -> str:
        return (
            f'{self._head}{{"index":{index},"delta":{{"role":"assistant","content":""}},'
            f'"logprobs":null,"finish_reason":null}}]}}\n\n'
        )

    def chunk(self, index: int, text: str, logprobs: str, tail: str) -> str:
        return (
            f'{self._head}{{"index":{index},"delta":{{"content":{quoted(text)}}},'
            f'"logprobs":{logprobs},"finish_reason":null}}]{tail}}}\n\n'
        )

    def last(self, index: int, text: str, logprobs: str, reason: str, tail: str) -> str:
        before = self.chunk(index, text, logprobs, "") if text or logprobs != "null" else ""
        return (
            f'{before}{self._head}{{"index":{index},"delta":{{"content":""}},"logprobs":null,'
            f'"finish_reason":"{reason}"}}]{tail}}}\n\n'
        )


class Held:
    """Tokens whose text is not certain yet, kept for the chunk that shows it."""

    def __init__(self, n: int) -> None:
        self._logprobs: list[list[TokenLogprob]] = [[] for _ in range(n)]
        self.n_tokens = [0] * n

    def take(self, index: int, piece: Piece) -> list[TokenLogprob] | None:
        """The entries to show with this piece's text; None where it shows nothing."""
        self.n_tokens[index] += len(piece.token_ids)
        self._logprobs[index] += piece.logprobs or ()
        if not piece.text and piece.finish_reason is None:
            return None
        found, self._logprobs[index] = self._logprobs[index], []
        return found
