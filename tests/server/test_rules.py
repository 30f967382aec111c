"""The rules that follow from what real clients send and read: one test for each."""

from __future__ import annotations

import json
import re
import socket

import pytest
from harness import NANO_CONTEXT, Running, running, scripted, until

from codellama.server.settings import Settings
from fakes import ByteTokenizer, ScriptedModel, recite

GREEDY = {"temperature": 0, "max_tokens": 6}
FIM = {"input_prefix": "def f(x):\n", "prompt": "    return ", "input_suffix": "\n", "n_predict": 6}


def test_rule_01_json_is_compact_and_on_one_line(live: Running) -> None:
    for path, body in (
        ("/infill", FIM),
        ("/v1/completions", {"prompt": "def"}),
        ("/api/generate", {"prompt": "def", "stream": False, "raw": True}),
    ):
        content = live.post(path, body).content
        assert b"\n" not in content.rstrip(b"\n")
        assert (
            json.dumps(json.loads(content), separators=(",", ":"), ensure_ascii=False).encode()
            == content
        )
    assert re.search(rb'"content"\s*:"', live.post("/infill", FIM).content)


def test_rule_02_an_empty_bearer_is_no_key(live: Running) -> None:
    assert live.get("/v1/models", headers={"Authorization": "Bearer "}).status == 200
    with running(scripted(), keys=("k" * 32,)) as server:
        assert server.get("/v1/models", headers={"Authorization": "Bearer "}).status == 401


def test_rule_03_model_names(live: Running) -> None:
    for name in ("", None, "codellama-nano", "gpt-4", "codellama:nano"):
        answer = live.post("/v1/completions", {"model": name, "prompt": "x", **GREEDY})
        assert answer.json["model"] == "codellama-nano"
    with running(("a", scripted()), ("b", scripted())) as server:
        assert server.post("/v1/completions", {"model": "b", "prompt": "x"}).json["model"] == "b"
        assert server.post("/v1/completions", {"prompt": "x"}).json["model"] == "a"
        assert server.post("/v1/completions", {"model": "c", "prompt": "x"}).status == 404
    with running(("a", scripted()), settings=Settings(strict_models=True)) as server:
        assert server.post("/v1/completions", {"model": "c", "prompt": "x"}).status == 404


def test_rule_04_unknown_fields_are_ignored_and_listed_once(
    live: Running, caplog: pytest.LogCaptureFixture
) -> None:
    strange = {"id_slot": 0, "t_max_prompt_ms": 5, "tools": [], "format": "", "zebra": {"a": 1}}
    with caplog.at_level("INFO", "codellama.server"):
        for _ in range(2):
            assert live.post("/v1/completions", {"prompt": "x", **GREEDY, **strange}).status == 200
    assert sum("zebra" in r.getMessage() for r in caplog.records) == 1
    assert live.post("/infill", FIM | {"zebra": 1}).status == 200
    assert live.post("/api/generate", {"prompt": "x", "stream": False, **strange}).status == 200
    assert live.post("/generate", {"inputs": "x", "zebra": 1}).status == 200
    assert live.post("/v1/completions", {"segments": {"prefix": "x"}, "zebra": 1}).status == 200


def test_rule_05_null_is_absent(live: Running) -> None:
    fields = ("max_tokens", "temperature", "top_p", "n", "best_of", "stop", "seed", "logprobs",
              "suffix", "stream", "stream_options", "logit_bias", "echo", "user")  # fmt: skip
    answer = live.post("/v1/completions", {"prompt": "x", **dict.fromkeys(fields)})
    assert answer.status == 200
    assert answer.json["choices"][0]["logprobs"] is None
    assert live.post("/api/generate", {"prompt": "x", "suffix": None, "options": None,
                                       "stream": False}).status == 200  # fmt: skip
    assert live.post("/v1/completions", {"prompt": None}).status == 400


def test_rule_06_api_needs_no_content_type(live: Running) -> None:
    body = {"prompt": "x", "stream": False, "options": {"num_predict": 2}}
    assert live.post("/api/generate", body).status == 200
    messages = [{"role": "user", "content": "hi"}]
    assert live.post("/api/chat", {"messages": messages, "stream": False,
                                   "options": {"num_predict": 2}}).status == 200  # fmt: skip


def test_rule_07_stop_is_a_text_or_a_list(live: Running) -> None:
    for stop in ("\n", [], ["\n"], [f"#{i}" for i in range(32)]):
        assert live.post("/v1/completions", {"prompt": "x", "stop": stop}).status == 200
    assert live.post("/v1/completions", {"prompt": "x", "stop": ["a"] * 33}).status == 400


def test_rule_08_events_look_as_line_readers_expect(live: Running) -> None:
    answer = live.post("/v1/completions", {"prompt": "def", "stream": True, **GREEDY})
    text = answer.content.decode()
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert text.endswith("\n\ndata: [DONE]\n\n")
    for part in text.split("\n\n")[:-2]:
        assert part.startswith("data: {")
        assert isinstance(json.loads(part[6:]), dict)


def test_rule_09_there_are_no_comments(live: Running) -> None:
    for path in ("/v1/completions", "/v1/chat/completions", "/v1/fim/completions"):
        body = {"prompt": "x", "messages": [{"role": "user", "content": "x"}], "stream": True}
        lines = live.post(path, body | GREEDY).content.decode().split("\n")
        assert not [line for line in lines if line.startswith(":")]


def test_rule_10_empty_choices_only_with_usage_and_last(live: Running) -> None:
    body = {"prompt": "def", "stream": True, **GREEDY}
    assert all(e["choices"] for e in live.post("/v1/completions", body).events)
    options = {"include_usage": True}
    events = live.post("/v1/completions", body | {"stream_options": options}).events
    assert [bool(e["choices"]) for e in events] == [True] * (len(events) - 1) + [False]
    assert events[-1]["usage"]["completion_tokens"] == 6


def test_rule_11_text_is_always_a_text(live: Running) -> None:
    body = {"prompt": "def", "messages": [{"role": "user", "content": "x"}], "stream": True}
    for e in live.post("/v1/completions", body | GREEDY).events:
        assert isinstance(e["choices"][0]["text"], str)
    for path in ("/v1/chat/completions", "/v1/fim/completions"):
        for e in live.post(path, body | GREEDY).events:
            assert isinstance(e["choices"][0]["delta"]["content"], str)


def test_rule_12_the_end_is_a_normal_chunk(live: Running) -> None:
    body = {"prompt": "def", "messages": [{"role": "user", "content": "x"}], "stream": True}
    for path in ("/v1/completions", "/v1/chat/completions", "/v1/fim/completions"):
        reasons = [e["choices"][0]["finish_reason"] for e in live.post(path, body | GREEDY).events]
        assert reasons == [None] * (len(reasons) - 1) + ["length"]


def test_rule_13_ndjson_has_a_line_for_each_object(live: Running) -> None:
    answer = live.post("/api/generate", {"prompt": "x", "raw": True, "options": {"num_predict": 5}})
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert b"\n\n" not in answer.content
    assert [line["done"] for line in answer.lines] == [False] * (len(answer.lines) - 1) + [True]


@pytest.mark.parametrize("after", [True, False])
def test_rule_14_a_stream_that_fails_says_so(after: bool) -> None:
    letter = 3 + ord("!")
    model = ScriptedModel(n_blocks=64, script=lambda t: 3 + ord("a") if len(t) < 20 else letter,
                          fail_on=letter)  # fmt: skip
    with running(scripted(model), settings=Settings(done_after_error=after)) as server:
        answer = server.post("/v1/completions", {"prompt": "x", "max_tokens": 90, "stream": True})
        assert answer.status == 200
        parts = answer.content.decode().split("\n\n")[:-1]
        if after:
            assert parts.pop() == "data: [DONE]"
        assert json.loads(parts[-1][6:])["error"]["type"] == "server_error"
        assert "error" not in json.loads(parts[0][6:])
        lines = server.post("/api/generate", {"prompt": "x", "raw": True}).lines
        assert isinstance(lines[-1]["error"], str)


def test_rule_15_errors_before_the_first_byte_have_the_shape_of_their_api(live: Running) -> None:
    for path in ("/v1/completions", "/infill", "/v1/fim/completions", "/completion"):
        answer = live.post(path, {"prompt": 5, "input_prefix": 5})
        assert answer.status == 400
        assert answer.json["error"].keys() == {"message", "type", "param", "code"}
    for path in ("/api/generate", "/api/chat"):
        answer = live.post(path, {"prompt": 5, "messages": 5})
        assert answer.status == 400
        assert isinstance(answer.json["error"], str)
    answer = live.post("/generate", {"inputs": 5})
    assert answer.status == 400
    assert answer.json.keys() == {"error", "error_type"}


@pytest.mark.parametrize("stream", [True, False])
def test_rule_16_leaving_cancels(stream: bool) -> None:
    with running(scripted(ScriptedModel(n_blocks=512, script=lambda t: 70))) as server:
        body = json.dumps({"prompt": "x", "max_tokens": 500, "stream": stream}).encode()
        with socket.create_connection(("127.0.0.1", server.port)) as leaving:
            head = f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n"
            leaving.sendall(head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            until(lambda: server.served.service.n_running)
        service = server.served.service
        until(lambda: not service.n_live)
        assert service.counters.aborts == 1
        assert service.engine.pool.n_free == service.engine.pool.n_blocks


def test_rule_17_health_needs_no_key_and_waits_for_the_model() -> None:
    with running(scripted(), keys=("k" * 32,)) as server:
        assert server.get("/health").status == 200
    with running(keys=("k" * 32,)) as server:
        assert server.get("/health").status == 503


def test_rule_18_models_say_what_clients_look_for(live: Running) -> None:
    found = live.get("/v1/models").json
    assert found["object"] == "list"
    (entry,) = found["data"]
    assert {"id", "object", "created", "owned_by", "root", "max_model_len", "meta"} <= entry.keys()
    assert entry["meta"]["n_ctx_train"] == entry["max_model_len"] == NANO_CONTEXT
    assert live.get("/v1/models/codellama-nano").json == entry
    assert live.get("/v1/models/none/such").status == 404


def test_rule_19_usage_has_all_three_counts(live: Running) -> None:
    messages = [{"role": "user", "content": "x"}]
    for path, body in (
        ("/v1/completions", {"prompt": "def f"}),
        ("/v1/chat/completions", {"messages": messages}),
        ("/v1/fim/completions", {"prompt": "def f"}),
    ):
        answer = live.post(path, body | GREEDY).json
        usage = answer["usage"]
        assert usage["prompt_tokens"] > 0
        assert 0 < usage["completion_tokens"] <= 6
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
        assert {"id", "object", "created", "model"} <= answer.keys()


def test_rule_20_refusals_say_whether_to_come_again(live: Running) -> None:
    assert live.post("/v1/completions", {"prompt": 5}).headers["x-should-retry"] == "false"
    with running() as server:
        answer = server.post("/v1/completions", {"prompt": "x"})
        assert answer.status == 503
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert "x-should-retry" not in answer.headers


def test_rule_21_text_is_cut_between_characters_and_stops_never_show() -> None:
    reply = "añb😀c STOP d"
    model = ScriptedModel(n_blocks=64, script=recite({"x": reply}))
    with running(scripted(model)) as server:
        for stop, shown in (("STOP", "añb😀c "), ("😀c", "añb"), ("nope", reply)):
            body = {"prompt": "x", "max_tokens": 100, "stop": [stop], "temperature": 0}
            events = server.post("/v1/completions", body | {"stream": True}).events
            texts = [e["choices"][0]["text"] for e in events]
            assert "".join(texts) == shown
            assert not any("\ufffd" in text for text in texts)
            assert server.post("/v1/completions", body).json["choices"][0]["text"] == shown


def test_rule_22_line_ends_stay_as_they_are() -> None:
    tokenizer = ByteTokenizer()
    model = ScriptedModel(n_blocks=64)
    with running(scripted(model)) as server:
        prefix, suffix = "def f():\r\n\treturn ", "\r\n# end\r\n"
        server.post("/v1/completions", {"prompt": prefix, "suffix": suffix, "max_tokens": 1})
        first = model.batches[0].tokens.tolist()
        t = tokenizer
        assert first == [t.bos_id, t.prefix_id, *t.encode(prefix), t.suffix_id,
                         *t.encode_bare(suffix), t.middle_id]  # fmt: skip
