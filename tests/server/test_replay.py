"""Replies repeated bit for bit from their bundles, alone and in a crowd."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from harness import Running
from streams import together

import codellama

ASKED = {"prompt": "def f(x):\n", "max_tokens": 20, "temperature": 1.0, "bundle": True,
         "frequency_penalty": 0.5, "logit_bias": {"50": 2}, "stop": ["zzz"],
         "ignore_eos": True}  # fmt: skip


def bundle(live: Running, **more: Any) -> Any:
    return live.post("/v1/completions", ASKED | more).json["choices"][0]["bundle"]


def test_a_bundle_made_in_a_crowd_is_repeated_alone_and_in_a_crowd(live: Running) -> None:
    bodies = [ASKED | {"prompt": f"def f{i}(x):\n"} for i in range(12)]
    made = [json.loads(one.body)["choices"][0]["bundle"] for one in together(live.port, bodies)]
    for one in made:
        again = live.post("/v1/replay", one).json
        assert again["equal"] is True
        assert again["changed"] == []
        assert again["token_ids"] == one["token_ids"]
    crowd = together(live.port, made, path="/v1/replay")
    assert all(json.loads(one.body)["equal"] for one in crowd)


def test_several_replies_and_chat(live: Running) -> None:
    choices = live.post("/v1/completions", ASKED | {"n": 3, "suffix": "\n"}).json["choices"]
    assert len({choice["bundle"]["seed"] for choice in choices}) == 3
    for choice in choices:
        assert live.post("/v1/replay", choice["bundle"]).json["text"] == choice["text"]
    messages = [{"role": "user", "content": "hi"}]
    asked = {"messages": messages, "max_tokens": 9, "bundle": True}
    choice = live.post("/v1/chat/completions", asked).json["choices"][0]
    assert live.post("/v1/replay", choice["bundle"]).json["equal"] is True


def test_what_differs_is_said(live: Running) -> None:
    made = bundle(live)
    ids = list(made["token_ids"])
    ids[4] += 1
    again = live.post("/v1/replay", made | {"token_ids": ids}).json
    assert (again["equal"], again["first_difference"]) == (False, 4)
    again = live.post("/v1/replay", made | {"token_ids": made["token_ids"][:3]}).json
    assert (again["equal"], again["first_difference"]) == (False, 3)
    again = live.post("/v1/replay", made | {"weights_sha256": "0", "version": "x"}).json
    assert again["changed"] == ["version", "weights_sha256"]


def test_a_bundle_names_the_weights(live: Running) -> None:
    file = Path(codellama.__file__).parent / "nano" / "model.safetensors"
    inner = hashlib.sha256(file.read_bytes()).digest()
    assert bundle(live)["weights_sha256"] == hashlib.sha256(inner).hexdigest()


def test_what_is_no_bundle_is_refused(live: Running) -> None:
    made = bundle(live)
    for field, value in (
        ("format", 2),
        ("sampling", {"temperature": "hot"}),
        ("sampling", {"colour": 1}),
        ("sampling", {"logit_bias": {"a": 1}}),
        ("sampling", {"stop": 5}),
        ("prompt_ids", [10**6]),
        ("seed", -1),
    ):
        assert live.post("/v1/replay", made | {field: value}).status == 400, field
    for more in ({"stream": True}, {"best_of": 2}, {"deadline_ms": 5},
                 {"response_format": {"type": "json_object"}}):  # fmt: skip
        assert live.post("/v1/completions", ASKED | more).status == 400
