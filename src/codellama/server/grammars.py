"""Replies that follow a JSON schema, a regular expression or a grammar, by llguidance."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codellama.engine.constraint import Constraint
from codellama.engine.prompts import Prompt
from codellama.errors import MissingExtra, RequestError
from codellama.server.refusals import Refusal
from codellama.server.schema import ResponseFormat
from codellama.server.served import Served
from codellama.server.web import Call
from codellama.text.tokenizer import Tokenizer

MAX_BYTES = 8192
_COMPILE_S = 1.0

MakeConstraint = Callable[[], Constraint]


class _Vocabulary:
    """A tokenizer as llguidance wants it."""

    def __init__(self, tokenizer: Tokenizer, stop_id: int) -> None:
        self._tokenizer = tokenizer
        self.eos_token_id = stop_id
        self.bos_token_id = tokenizer.bos_id
        raw = [tokenizer.token_bytes(i) for i in range(tokenizer.n_vocab)]
        self.special_token_ids = [i for i, one in enumerate(raw) if not one]
        self.tokens = [one or tokenizer.piece(i).encode() for i, one in enumerate(raw)]

    def __call__(self, text: bytes) -> list[int]:
        return self._tokenizer.encode_bare(text.decode())


class _Matcher:
    """A constraint over one of llguidance's matchers."""

    def __init__(self, matcher: Any, n_ids: int) -> None:
        self._matcher = matcher
        self._n_ids = n_ids
        self._n_taken = 0
        self._mask = np.zeros((n_ids + 31) // 32, np.int32)

    def allowed(self, generated: Sequence[int]) -> NDArray[np.bool_]:
        for token in generated[self._n_taken :]:
            self._matcher.consume_token(token)
            self._n_taken += 1
        self._matcher.unsafe_compute_mask_ptr(self._mask.ctypes.data, self._mask.nbytes)
        if self._matcher.is_error():
            raise RequestError(f"the format cannot be followed: {self._matcher.get_error()[:200]}")
        bits = np.unpackbits(self._mask.view(np.uint8), bitorder="little")
        return bits[: self._n_ids].astype(np.bool_)


async def constraint(
    call: Call, served: Served, wanted: ResponseFormat | None, prompts: Sequence[Prompt]
) -> MakeConstraint | None:
    """Makes a constraint for each reply; None where the reply may be any text.

    Raises:
        Refusal: the format is no format, too large, or takes too long to compile.
    """
    if wanted is None or wanted.type == "text":
        return None
    if not served.service.engine.can_constrain:
        raise _refused("this server's engine cannot follow a format; codellama's own can")
    kind, text = _source(wanted)
    if len(text.encode()) > MAX_BYTES:
        raise _refused(f"the format may have {MAX_BYTES} bytes")
    stop_id = min(prompts[0].stop_ids)
    work = asyncio.get_running_loop().run_in_executor(
        call.state.workers, _compiled, served, stop_id, kind, text
    )
    try:
        async with asyncio.timeout(_COMPILE_S):
            return await work
    except TimeoutError:
        raise _refused(f"the format took more than {_COMPILE_S:g} s to compile") from None


def _source(wanted: ResponseFormat) -> tuple[str, str]:
    """The kind of grammar and its text."""
    if wanted.type == "json_object":
        return "json", '{"type":"object"}'
    if wanted.type == "json_schema":
        if wanted.json_schema is None:
            raise _refused("`json_schema` is missing")
        return "json", json.dumps(wanted.json_schema.get("schema", wanted.json_schema))
    text = wanted.regex if wanted.type == "regex" else wanted.grammar
    if text is None:
        raise _refused(f"`{wanted.type}` is missing")
    return ("regex" if wanted.type == "regex" else "grammar"), text


def _compiled(served: Served, stop_id: int, kind: str, text: str) -> MakeConstraint:
    try:
        library: Any = import_module("llguidance")
    except ModuleNotFoundError as error:
        raise MissingExtra("constraining replies", "constrain") from error
    vocabularies = served.vocabularies
    if stop_id not in vocabularies:
        raw = _Vocabulary(served.model.tokenizer, stop_id)
        vocabularies[stop_id] = library.LLTokenizer(library.TokenizerWrapper(raw))
    tokenizer = vocabularies[stop_id]
    try:
        grammar = library.grammar_from(kind, text)
    except ValueError as error:
        raise _refused(f"the format cannot be used: {str(error)[:200]}") from None
    matcher = library.LLMatcher(tokenizer, grammar, log_level=0)
    if matcher.is_error():
        raise _refused(f"the format cannot be used: {matcher.get_error()[:200]}")
    n_ids = served.model.tokenizer.n_vocab
    return lambda: _Matcher(matcher.deep_copy(), n_ids)


def _refused(message: str) -> Refusal:
    return Refusal(400, message, code="invalid_format", param="response_format")
