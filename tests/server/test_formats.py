"""Replies that follow a format, judged by the library of that format."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from harness import Running

pytest.importorskip("llguidance")

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "n": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["name", "n"],
    "additionalProperties": False,
}


def ask(live: Running, wanted: Any, **more: Any) -> Any:
    body = {"prompt": "x = ", "max_tokens": 120, "temperature": 1.0, "response_format": wanted}
    return live.post("/v1/completions", body | more)


@pytest.mark.parametrize("seed", range(3))
def test_a_schema_is_followed_whatever_is_drawn(live: Running, seed: int) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}
    for choice in ask(live, wanted, seed=seed, n=3).json["choices"]:
        if choice["finish_reason"] == "stop":
            found = json.loads(choice["text"])
            assert found.keys() == {"name", "n"}
            assert len(found["name"]) <= 8
            assert 0 <= found["n"] <= 99


def test_expressions_and_grammars(live: Running) -> None:
    wanted: Any = {"type": "regex", "regex": "[ab]{3,5}!"}
    for seed in range(5):
        text = ask(live, wanted, seed=seed).json["choices"][0]["text"]
        assert re.fullmatch("[ab]{3,5}!", text)
    wanted = {"type": "grammar", "grammar": 'start: "yes" | "no"'}
    assert ask(live, wanted).json["choices"][0]["text"] in ("yes", "no")


def test_chat_and_ollama(live: Running) -> None:
    messages = [{"role": "user", "content": "hi"}]
    wanted = {"type": "regex", "regex": "[0-9]{4}"}
    body = {"messages": messages, "response_format": wanted, "max_tokens": 20}
    choice = live.post("/v1/chat/completions", body).json["choices"][0]
    assert re.fullmatch("[0-9]{4}", choice["message"]["content"])
    schema = {"type": "integer", "minimum": 10, "maximum": 20}
    answer = live.post("/api/generate", {"prompt": "x", "format": schema, "stream": False}).json
    assert 10 <= int(answer["response"]) <= 20
    assert live.post("/api/generate", {"prompt": "x", "format": "xml"}).status == 400


@pytest.mark.parametrize(
    "wanted",
    [
        {"type": "regex", "regex": "("},
        {"type": "regex"},
        {"type": "json_schema", "json_schema": {"schema": {"type": "nonsense"}}},
        {"type": "grammar", "grammar": "not a grammar"},
        {"type": "json_schema"},
        {"type": "json_schema", "json_schema": {"schema": {"description": "x" * 9000}}},
        {"type": "xml"},
    ],
)
def test_what_is_no_format_is_refused(live: Running, wanted: Any) -> None:
    answer = ask(live, wanted)
    assert answer.status == 400, answer.content


def test_others_are_not_touched(live: Running) -> None:
    free = {"prompt": "def f(", "max_tokens": 10, "temperature": 0}
    alone = live.post("/v1/completions", free).json["choices"][0]["text"]
    ask(live, {"type": "regex", "regex": "a*"})
    assert live.post("/v1/completions", free).json["choices"][0]["text"] == alone
