"""Ollama's client as it is published, and the bodies that editors were recorded to send."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import ollama
import pytest
from harness import NANO_CONTEXT, Running, running, scripted

from fakes import ByteTokenizer, ScriptedModel, recite


@pytest.fixture
def client(live: Running) -> Iterator[ollama.Client]:
    with ollama.Client(host=live.url) as found:
        yield found


def test_ollama_fills_in_the_middle(client: ollama.Client) -> None:
    prompt = "def remove_non_ascii(s: str) -> str:\n    "
    found = client.generate(
        model="codellama:7b-code",
        prompt=prompt,
        suffix="\n    return result\n",
        options={"num_predict": 16, "temperature": 0, "top_p": 0.9, "stop": ["<EOT>"]},
    )
    assert found.done
    assert found.done_reason in ("stop", "length")
    assert found.eval_count is not None
    parts = list(
        client.generate(
            model="codellama:7b-code", prompt=prompt, suffix="\n    return result\n",
            options={"num_predict": 16, "temperature": 0, "top_p": 0.9}, stream=True,
        )
    )  # fmt: skip
    assert "".join(part.response for part in parts) == found.response
    assert parts[-1].prompt_eval_count == found.prompt_eval_count


def test_ollama_chats_lists_and_shows(client: ollama.Client) -> None:
    messages = [{"role": "user", "content": "Write a function."}]
    options = {"num_predict": 8, "temperature": 0}
    found = client.chat(model="codellama", messages=messages, options=options)
    parts = list(client.chat(model="codellama", messages=messages, options=options, stream=True))
    assert "".join(part.message.content or "" for part in parts) == found.message.content
    assert [model.model for model in client.list().models] == ["codellama-nano"]
    assert [model.model for model in client.ps().models] == ["codellama-nano"]
    shown = client.show("codellama")
    assert ".Suffix" in (shown.template or "")
    assert "insert" in (shown.capabilities or [])
    assert client.pull("codellama-nano").status == "success"


def test_ollama_sees_errors(client: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError, match="embeddings"):
        client.embed(model="codellama", input="x")
    with pytest.raises(ollama.ResponseError, match="images"):
        client.generate(model="codellama", prompt="x", images=["aGk="])
    with pytest.raises(ollama.ResponseError, match="loaded to keep"):
        client.generate(model="codellama", prompt="x " * 3000, raw=True)


def test_ollama_options_that_mean_off(live: Running) -> None:
    body = {"prompt": "x", "template": "{{ .Prompt }}", "stream": False,
            "options": {"top_k": -1, "top_p": -1, "num_predict": 4, "num_ctx": 16384}}  # fmt: skip
    answer = live.post("/api/generate", body)
    assert answer.status == 200
    assert "16384" in answer.headers["x-codellama-note"]
    assert live.post("/api/generate", {"model": "a"}).json["done_reason"] == "load"
    assert live.get("/api/version").json["version"]
    assert live.get("/").content == b"Ollama is running"


VIM_FIELDS = ["content", "timings/prompt_n", "timings/prompt_ms", "timings/prompt_per_token_ms",
              "timings/prompt_per_second", "timings/predicted_n", "timings/predicted_ms",
              "timings/predicted_per_token_ms", "timings/predicted_per_second", "truncated",
              "tokens_cached"]  # fmt: skip
VIM = {
    "id_slot": 0,
    "input_prefix": "import math\n",
    "input_suffix": "\nprint(area(2))\n",
    "input_extra": [{"filename": "a.py", "text": "PI = 3\n", "time": [1, 2]}],
    "prompt": "def area(r): ",
    "n_predict": 128,
    "stop": [],
    "n_indent": 0,
    "top_k": 40,
    "top_p": 0.90,
    "samplers": ["top_k", "top_p", "infill"],
    "stream": False,
    "cache_prompt": True,
    "t_max_prompt_ms": 500,
    "t_max_predict_ms": 1000,
    "response_fields": VIM_FIELDS,
    "model": "",
}


def test_llama_vim(live: Running) -> None:
    answer = live.post("/infill", VIM, headers={"Authorization": "Bearer "})
    assert answer.status == 200
    assert set(answer.json) == set(VIM_FIELDS)
    warm_up: dict[str, Any] = VIM | {
        "input_prefix": "", "input_suffix": "", "prompt": "", "n_predict": 0, "temperature": 0.0,
        "samplers": [], "t_max_prompt_ms": 1, "t_max_predict_ms": 1, "response_fields": [""],
    }  # fmt: skip
    assert live.post("/infill", warm_up).content == b"{}"
    chat = {"messages": [{"role": "user", "content": "x"}], "samplers": [], "n_predict": 0,
            "stream": False, "cache_prompt": True, "response_fields": [""]}  # fmt: skip
    answer = live.post("/v1/chat/completions", chat)
    assert answer.json["choices"][0]["message"]["content"] == ""
    assert answer.json["usage"]["completion_tokens"] == 0


def test_llama_vscode(live: Running) -> None:
    body = {name: VIM[name] for name in VIM if name not in ("stop", "response_fields", "n_indent")}
    body |= {"top_p": 0.99, "t_max_predict_ms": 500, "n_cmpl": 3, "n_predict": 16,
             "lora": [{"id": 0, "scale": 0.5}]}  # fmt: skip
    several = live.post("/infill", body).json
    assert len(several) == 3
    assert all(one["generation_settings"]["n_ctx"] == NANO_CONTEXT for one in several)
    one = live.post("/infill", body | {"n_cmpl": 1}).json
    assert one["timings"]["predicted_n"] <= 16
    assert "tokens_cached" in one
    assert live.get("/props?model=").json["default_generation_settings"]["n_ctx"] == NANO_CONTEXT
    tokens = {"content": "def f", "add_special": False, "parse_special": True}
    found = live.post("/tokenize", tokens).json["tokens"]
    assert live.post("/detokenize", {"tokens": found}).json == {
        "content": "def f",
        "prompt": "def f",
    }
    turns = {"messages": [{"role": "user", "content": "hi"}]}
    assert live.post("/apply-template", turns).json["prompt"] == "<s>[INST] hi [/INST]"


def test_vllm_tokenize_and_info(live: Running) -> None:
    found = live.post("/tokenize", {"prompt": "test", "add_special_tokens": False}).json
    assert found["count"] == len(found["tokens"])
    assert found["max_model_len"] == NANO_CONTEXT
    assert live.get("/tokenizer_info").json["eos_token"] == "</s>"
    assert live.post("/tokenize", {}).status == 400


def test_extra_context_goes_into_the_prefix_under_its_name() -> None:
    model, t = ScriptedModel(n_blocks=64), ByteTokenizer()
    with running(scripted(model)) as server:
        server.post("/infill", VIM | {"n_predict": 1})
        (c_file,) = [{"filename": "a.c", "text": "int x;"}]
        server.post("/infill", VIM | {"n_predict": 1, "input_extra": [c_file]})
        ids = [t.bos_id, t.prefix_id, *t.encode("# a.py\nPI = 3\nimport math\ndef area(r): "),
               t.suffix_id, *t.encode_bare("\nprint(area(2))\n"), t.middle_id]  # fmt: skip
        assert _first_prompt(model) == ids
    bad = VIM | {"input_extra": [{"text": 5}]}
    with running(scripted()) as server:
        assert server.post("/infill", bad).status == 400


def _first_prompt(model: ScriptedModel) -> list[int]:
    ids: list[int] = []
    for batch in model.batches:
        ids += batch.tokens.tolist()
        if len(batch.logit_rows):
            return ids
    raise AssertionError("nothing was drawn")


def test_marks_are_never_shown() -> None:
    """A model that wants to write markers writes the next likeliest token, or ends."""
    t = ByteTokenizer()

    class Marker(ScriptedModel):
        def run(self, batch: Any) -> Any:
            logits = super().run(batch)
            logits[:, [t.prefix_id, t.suffix_id, t.middle_id]] = 90
            return logits

    with running(scripted(Marker(n_blocks=64, script=lambda _: 70))) as server:
        body = {"prompt": "x", "max_tokens": 5, "temperature": 1}
        for more in ({}, {"suffix": "y"}):
            text = server.post("/v1/completions", body | more).json["choices"][0]["text"]
            assert text == "CCCCC"
    with running(scripted(ScriptedModel(n_blocks=64, script=lambda _: t.eot_id))) as server:
        choice = server.post("/v1/completions", body).json["choices"][0]
        assert (choice["text"], choice["finish_reason"]) == ("", "stop")


def test_lines_end_a_llama_reply() -> None:
    reply = "a\n    b\n    c\nd\n"
    t = ByteTokenizer()
    prompt = [t.bos_id, t.prefix_id, *t.encode("x"), t.suffix_id, t.middle_id]
    said = [*t.encode_bare(reply), t.eot_id]

    def script(tokens: tuple[int, ...]) -> int | None:
        return said[len(tokens) - len(prompt)] if len(tokens) < len(prompt) + len(said) else None

    with running(scripted(ScriptedModel(n_blocks=64, script=script))) as server:
        body = {"input_prefix": "x", "input_suffix": "", "n_predict": 100, "temperature": 0}
        assert server.post("/infill", body).json["content"] == reply
        assert server.post("/infill", body).json["stop_type"] == "eos"
        cut = server.post("/infill", body | {"n_indent": 4}).json
        assert cut["content"] == "a\n    b\n    c\n"
        assert cut["stop_type"] == "limit"
        events = server.post("/infill", body | {"n_indent": 4, "stream": True}).content.decode()
        found = [json.loads(line[6:]) for line in events.split("\n\n")[:-1]]
        assert "".join(one["content"] for one in found) == "a\n    b\n    c\n"
        assert [one["stop"] for one in found] == [False] * (len(found) - 1) + [True]
        stopped = server.post("/infill", body | {"stop": ["c"]}).json
        assert (stopped["stop_type"], stopped["stopping_word"]) == ("word", "c")


@pytest.mark.parametrize("more", [{}, {"stop": ["~~"]}, {"n_indent": 4}])
def test_the_events_of_a_llama_stream_hold_every_token(more: dict[str, Any]) -> None:
    """Also those whose text is held back, and those that come with the last event."""
    reply = "(x):\n    return '🦙'\n    # ~"
    model = ScriptedModel(n_blocks=64, script=recite({"def f": reply}))
    body = {"prompt": "def f", "temperature": 0, "n_predict": 99, "stream": True, **more}
    with running(scripted(model)) as server:
        text = server.post("/completion", body).content.decode()
    events = [json.loads(part.removeprefix("data: ")) for part in text.split("\n\n")[:-1]]
    assert "".join(event["content"] for event in events) == reply
    assert [i for event in events for i in event["tokens"]] == ByteTokenizer().encode_bare(reply)
    assert events[-1]["tokens_predicted"] == len(reply.encode())


def test_tabby_plugins(live: Running) -> None:
    body = {"language": "python", "segments": {"prefix": "def f(x):\n    return ", "suffix": "\n"},
            "user": "u"}  # fmt: skip
    found = live.post("/v1/completions", body).json
    assert found["choices"][0].keys() == {"index", "text"}
    for method in ("GET", "POST"):
        health = live.ask(method, "/v1/health").json
        assert health["model"] == "codellama-nano"
        assert health["version"]["git_describe"].startswith("v0.")
    assert live.get("/v1beta/server_setting").json == {"disable_client_side_telemetry": True}
    event = {"type": "view", "completion_id": found["id"], "choice_index": 0}
    assert live.post("/v1/events?select_kind=line", event).status == 200


def test_tgi(live: Running) -> None:
    parameters = {"max_new_tokens": 6, "temperature": 0, "return_full_text": False}
    body = {"inputs": "def f(", "parameters": parameters}
    found = live.post("/generate", body).json
    whole = live.post("/generate", body | {"parameters": parameters | {"return_full_text": True}})
    assert whole.json["generated_text"] == "def f(" + found["generated_text"]
    import json

    text = live.post("/generate_stream", body).content.decode()
    events = [json.loads(part[6:]) for part in text.split("\n\n")[:-1]]
    assert "".join(e["token"]["text"] for e in events) == found["generated_text"]
    assert events[-1]["generated_text"] == found["generated_text"]
    details = live.post("/generate", body | {"parameters": parameters | {"details": True}}).json
    assert len(details["details"]["tokens"]) == details["details"]["generated_tokens"] == 6
    assert live.get("/info").json["max_total_tokens"] == NANO_CONTEXT


@pytest.mark.parametrize("mark", ["infill-text", "infill-text-cut"])
def test_text_prompts_of_editors_become_ids(mark: str) -> None:
    """Whatever stands after the cursor, the ids are those of the structured route."""
    t = ByteTokenizer()
    for first in "\"&'(),./:;<=>[\\`{\r":
        model = ScriptedModel(n_blocks=64)
        prefix, suffix = "def f(", f"{first} rest\n"
        ids = [t.bos_id, t.prefix_id, *t.encode(prefix), t.suffix_id, *t.encode_bare(suffix),
               t.middle_id]  # fmt: skip
        text = f"{prefix} <SUF>{suffix} <MID>"
        text = text if mark.endswith("cut") else f"<PRE> {text}"
        with running(scripted(model)) as server:
            answer = server.post("/v1/completions", {"prompt": text, "max_tokens": 1})
            assert answer.headers["x-codellama-prompt"] == mark
            assert _first_prompt(model) == ids


def test_the_same_text_recited_through_every_route() -> None:
    """One reply, whatever the API that asks for it."""
    model = ScriptedModel(n_blocks=128, script=recite({"def f": "(x): 1"}))
    with running(scripted(model)) as server:
        completion = {"prompt": "def f", "temperature": 0, "max_tokens": 50}
        texts = [
            server.post("/v1/completions", completion).json["choices"][0]["text"],
            server.post("/completion", {"prompt": "def f", "temperature": 0}).json["content"],
            server.post("/api/generate", {"prompt": "def f", "raw": True, "stream": False,
                                          "options": {"temperature": 0}}).json["response"],
            server.post("/generate", {"inputs": "def f",
                                      "parameters": {"temperature": 0}}).json["generated_text"],
        ]  # fmt: skip
        assert texts == ["(x): 1"] * 4
