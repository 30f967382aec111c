"""A cache that follows the cursor: what a key press costs, and what it may not change."""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import Answer, Running, nano, running, scripted

from codellama import LLM, SamplingParams
from codellama.engine.prompts import Prompt
from codellama.server.holes import hole
from codellama.server.settings import Settings
from fakes import ScriptedModel

# 500 lines that somebody wrote, and 500 characters that somebody wrote elsewhere.
LINES = Path(sysconfig.get_path("stdlib"), "argparse.py").read_text().splitlines(True)[600:1100]
TYPED = Path(sysconfig.get_path("stdlib"), "shutil.py").read_text()[20000:20500]
BEFORE, AFTER = "".join(LINES[:250]), "".join(LINES[250:])
SMALL = "".join(LINES[:40]), "".join(LINES[40:60])


def order(answer: Answer) -> str:
    return answer.headers["x-codellama-order"]


@pytest.fixture(scope="module")
def wide() -> Iterator[Running]:
    """nano's tokens with room for the whole file, over a model that costs nothing."""
    tokenizer = nano().tokenizer
    model = scripted(
        ScriptedModel(n_blocks=2048, vocab_size=tokenizer.n_vocab),
        tokenizer=tokenizer, max_seq_len=16384, step_tokens=2048,
    )  # fmt: skip
    with running(model) as found:
        yield found


def computed(server: Running, path: str, body: Any) -> tuple[int, str]:
    """How many tokens of a prompt were not in the cache, and in which order it was told."""
    answer = server.post(path, body)
    assert answer.status == 200, answer.content
    return answer.json["timings"]["prompt_n"], order(answer)


def test_typing_500_characters_into_500_lines(wide: Running) -> None:
    n_file = len(nano().tokenizer.encode(BEFORE + AFTER))
    costs = [
        computed(wide, "/v1/completions", {
            "prompt": BEFORE + TYPED[:n], "suffix": AFTER, "max_tokens": 1, "temperature": 0,
        })
        for n in range(501)
    ]  # fmt: skip
    assert n_file > 4000
    assert {told for _, told in costs} == {"spm"}
    each = [n for n, _ in costs]
    assert each[0] > 0.95 * n_file
    assert max(each[1:]) <= 16 + 16, "the last block, and what was typed or taken back"
    assert sum(each[1:]) / 500 < 0.01 * n_file
    assert sum(each) / 501 < 0.15 * n_file


def test_typing_where_the_context_is_too_small_for_the_file() -> None:
    """nano sees a window of the file, whose ends stay where they are for a while."""
    n_file = len(nano().tokenizer.encode(BEFORE + AFTER))
    with running(("codellama-nano", nano())) as server:
        body = {"input_suffix": AFTER, "n_predict": 2, "temperature": 0}
        costs = []
        for n in range(0, 501, 4):
            answer = server.post("/infill", body | {"input_prefix": BEFORE + TYPED[:n]})
            assert answer.json["truncated"] is True
            costs.append(answer.json["timings"]["prompt_n"])
    whole = [n for n in costs if n > 500]
    assert len(whole) <= 4, "the window moved at nearly every key press"
    assert sum(costs) / len(costs) < 0.15 * n_file
    assert max(n for n in costs if n <= 500) <= 48


def test_a_change_behind_the_cursor_takes_what_the_cache_has(wide: Running) -> None:
    """With nearly all of a long prefix cached and a short suffix, prefix-first costs less."""
    body = {"prompt": BEFORE, "suffix": "\n" + "".join(LINES[250:256]), "max_tokens": 1}
    assert computed(wide, "/v1/completions", body | {"order": "psm"})[1] == "psm"
    cost, told = computed(wide, "/v1/completions", body | {"suffix": "\n" + "x = 1\n" * 12})
    assert told == "psm"
    assert cost < 100
    seeded = body | {"suffix": "\n" + "x = 1\n" * 12, "seed": 3}
    assert computed(wide, "/v1/completions", seeded)[1] == "spm", "whatever the cache holds"


def test_a_short_suffix_keeps_the_references_order(live: Running) -> None:
    for suffix in ("", ")\n"):
        answer = live.post("/v1/completions", {"prompt": SMALL[0], "suffix": suffix})
        assert order(answer) == "psm"


def test_who_asks_for_an_order_or_brings_a_seed_gets_the_same_always(live: Running) -> None:
    body = {"prompt": SMALL[0], "suffix": SMALL[1], "max_tokens": 2, "temperature": 0}
    assert order(live.post("/v1/completions", body)) == "spm"
    assert order(live.post("/v1/completions", body | {"seed": 7})) == "spm"
    assert order(live.post("/v1/completions", body | {"seed": 7, "suffix": ")\n"})) == "psm"
    for told in ("psm", "spm"):
        assert order(live.post("/v1/completions", body | {"order": told, "seed": 7})) == told
        stream = live.post("/v1/completions", body | {"order": told, "stream": True})
        assert order(stream) == told
    assert live.post("/v1/completions", body | {"order": "mps"}).status == 400
    assert "x-codellama-order" not in live.post("/v1/completions", {"prompt": "x"}).headers


def test_every_door_follows_the_cursor(live: Running) -> None:
    prefix, suffix = SMALL
    text = f"<PRE> {prefix} <SUF>{suffix} <MID>"
    few: dict[str, Any] = {"max_tokens": 2}
    for path, body in (
        ("/infill", {"input_prefix": prefix, "input_suffix": suffix, "n_predict": 2}),
        ("/completion", {"prompt": text, "n_predict": 2}),
        ("/v1/completions", {"prompt": text, **few}),
        ("/v1/fim/completions", {"prompt": prefix, "suffix": suffix, **few}),
        ("/api/generate", {"prompt": prefix, "suffix": suffix, "stream": False,
                           "options": {"num_predict": 2}}),
        ("/v1/completions", {"segments": {"prefix": prefix, "suffix": suffix}}),
        ("/generate", {"inputs": text, "parameters": {"max_new_tokens": 2}}),
    ):  # fmt: skip
        answer = live.post(path, body)
        assert answer.status == 200, answer.content
        assert order(answer) == "spm", path
        assert order(live.post(path, body | {"order": "psm"})) == "psm", path


def test_a_server_may_hold_to_one_order() -> None:
    body = {"prompt": SMALL[0], "suffix": SMALL[1], "max_tokens": 2}
    with running(scripted(tokenizer=None, max_seq_len=8192, model=ScriptedModel(n_blocks=1024)),
                 settings=Settings(infill_order="psm")) as server:  # fmt: skip
        assert order(server.post("/v1/completions", body)) == "psm"
        assert order(server.post("/v1/completions", body | {"order": "auto"})) == "spm"


def test_the_reply_is_what_its_order_gives_alone(live: Running) -> None:
    """While a prompt grows as by typing, each reply is that of a model that cached nothing."""
    prefix, suffix = SMALL
    typed = "        return self._get_val"
    alone = LLM.load("nano", n_threads=1, share_prefixes=False, max_num_seqs=1)
    params = SamplingParams(temperature=0, max_tokens=8)
    for n in range(len(typed) + 1):
        body = {"prompt": prefix + typed[:n], "suffix": suffix, "max_tokens": 8, "temperature": 0}
        answer = live.post("/v1/completions", body)
        made: Prompt = hole(alone.tokenizer, prefix + typed[:n], suffix, "spm")
        assert order(answer) == "spm"
        expected = next(p.completion for p in alone._stream(made, params) if p.completion)
        assert answer.json["choices"][0]["text"] == expected.text
    alone.close()


def test_a_word_is_finished_and_not_repeated(live: Running) -> None:
    """The completion begins after what was typed, and its tokens' texts are the completion."""
    prefix, suffix = SMALL
    for typed in ("    ret", "    return self._ge", "    ", "        if x =="):
        answer = live.post("/v1/completions", {
            "prompt": prefix + typed, "suffix": suffix, "max_tokens": 6, "temperature": 0,
            "logprobs": 3, "order": "spm",
        })  # fmt: skip
        choice = answer.json["choices"][0]
        assert not choice["text"].startswith(typed.strip() or "zebra")
        assert "".join(choice["logprobs"]["tokens"]) == choice["text"]
        assert len(choice["logprobs"]["tokens"]) == answer.json["usage"]["completion_tokens"]
        assert all(-1e6 < p <= 0 for one in choice["logprobs"]["top_logprobs"]
                   for p in one.values())  # fmt: skip
        stream = live.post("/v1/completions", {
            "prompt": prefix + typed, "suffix": suffix, "max_tokens": 6, "temperature": 0,
            "order": "spm", "stream": True,
        })  # fmt: skip
        parts = [e["choices"][0]["text"] for e in stream.events if e["choices"]]
        assert "".join(parts) == choice["text"]


def test_a_bundle_says_what_was_taken_back(live: Running) -> None:
    body = {"prompt": SMALL[0] + "    ret", "suffix": SMALL[1], "max_tokens": 6, "bundle": True}
    bundle = live.post("/v1/completions", body | {"order": "spm"}).json["choices"][0]["bundle"]
    assert bundle["begun"].endswith("ret")
    again = live.post("/v1/replay", bundle).json
    assert again["equal"] is True
    assert again["text"] == bundle["text"]


def test_a_format_begins_where_the_reply_does(live: Running) -> None:
    pytest.importorskip("llguidance")
    answer = live.post("/v1/completions", {
        "prompt": SMALL[0] + "x = ", "suffix": SMALL[1], "max_tokens": 12,
        "response_format": {"type": "regex", "regex": "[0-9]{3}"},
    })  # fmt: skip
    assert order(answer) == "psm"
    assert answer.json["choices"][0]["text"].isdigit()


def test_candidates_share_one_prefill() -> None:
    with running(("codellama-nano", nano())) as server:
        counters = server.served.service.counters
        body = {"prompt": SMALL[0], "suffix": SMALL[1], "n": 4, "max_tokens": 2, "temperature": 1}
        answer = server.post("/v1/completions", body)
        n_prompt = answer.json["usage"]["prompt_tokens"]
        assert counters.prompt_tokens == 4 * n_prompt
        assert counters.cached_tokens >= 3 * (n_prompt - 16)
