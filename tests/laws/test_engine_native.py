"""The engine's laws over every runner and a real tokenizer, with `transformers` as the oracle.

`engine_bodies` says which runners there are, and how exactly their log-probabilities agree.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoints_tiny import TINY, tiny_weights, write_hf
from codellama import LLM, Completion, ConfigError, SamplingParams, checkpoint
from codellama.engine.plan import EnginePlan
from engine_bodies import EVERY, TORCH_BODIES, assert_same, runner_of, with_bodies

GREEDY = SamplingParams(temperature=0.0, max_tokens=40, ignore_eos=True, logprobs=3)
SAMPLED = SamplingParams(
    temperature=1.2, top_p=0.9, top_k=100, min_p=0.01, max_tokens=40, seed=23, ignore_eos=True,
    repetition_penalty=1.2, presence_penalty=0.2, frequency_penalty=0.1, logprobs=3,
)  # fmt: skip
PROMPTS = [f"{'def print(self): return x ' * (i % 4)}for y in range({i})" for i in range(12)]
BOTH = pytest.mark.parametrize("params", [GREEDY, SAMPLED], ids=["greedy", "sampled"])


def loaded(
    path: Path, *, body: str = "native", n_blocks: int = 256, block_size: int = 16, **options: Any
) -> LLM:
    reader = checkpoint.open(path)
    runner = runner_of(body, path, n_blocks=n_blocks, block_size=block_size)
    plan = EnginePlan(max_seq_len=256, n_blocks=n_blocks, block_size=block_size, **options)
    return LLM(runner, reader.tokenizer(), plan, eos_ids=reader.generation.eos_ids)


@cache
def alone(path: Path, params: SamplingParams, body: str = "native") -> list[Completion]:
    llm = loaded(path, body=body, share_prefixes=False)
    return [llm.complete(prompt, params) for prompt in PROMPTS]


@BOTH
@with_bodies(
    {
        "in a crowd": {},
        "pre-empted": {"n_blocks": 17, "share_prefixes": False},
        "pre-empted with shared prefixes": {"n_blocks": 20},
        "in small chunks": {"step_tokens": 5, "max_num_seqs": 5},
        "one after the other": {"max_num_seqs": 1},
        "in small blocks": {"block_size": 4, "n_blocks": 1024},
    },
    quick=("in a crowd", "pre-empted with shared prefixes"),
)
def test_any_schedule_as_alone(
    hf_folder: Path, body: str, params: SamplingParams, case: dict[str, Any]
) -> None:
    llm = loaded(hf_folder, body=body, **case)
    for _ in range(2):  # the second time with whatever the cache still holds
        assert_same(llm.complete(PROMPTS, params), alone(hf_folder, params, body), body)


@BOTH
@pytest.mark.parametrize("body", TORCH_BODIES)
def test_every_runner_says_what_the_native_core_says(
    hf_folder: Path, body: str, params: SamplingParams
) -> None:
    assert_same(alone(hf_folder, params, body), alone(hf_folder, params), body)


@BOTH
def test_three_formats_one_reply(
    hf_folder: Path, meta_folder: Path, gguf_file: Path, params: SamplingParams
) -> None:
    for path in (meta_folder, gguf_file):
        llm = LLM.load(path, max_seq_len=256, n_threads=1)
        assert_same(llm.complete(PROMPTS, params), alone(hf_folder, params), "native")


@pytest.mark.parametrize(("penalty", "n_prompts", "n_new"), [(1.0, 1, 200), (1.3, 3, 40)])
def test_greedy_replies_are_those_of_transformers(
    hf_folder: Path, penalty: float, n_prompts: int, n_new: int
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    oracle = AutoModelForCausalLM.from_pretrained(hf_folder, dtype=torch.float32)
    llm = LLM.load(hf_folder, n_threads=2)
    params = SamplingParams(temperature=0.0, max_tokens=n_new, repetition_penalty=penalty)
    prompts = PROMPTS[:n_prompts]
    replies = llm.complete(prompts, params)
    for prompt, reply in zip(prompts, replies, strict=True):
        ids = torch.tensor([llm.completion_ids(prompt)])
        made = oracle.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=n_new,
            max_length=None, repetition_penalty=penalty, eos_token_id=2, pad_token_id=0,
        )[0, ids.shape[1] :].tolist()  # fmt: skip
        expected = made[: 256 - ids.shape[1]]
        if 2 in expected:
            expected = expected[: expected.index(2)]
        assert list(reply.token_ids) == expected
        assert reply.finish_reason == ("stop" if 2 in made else "length")


@pytest.mark.parametrize("stop", [(), ("e",), ("\N{REPLACEMENT CHARACTER}", "in")])
@pytest.mark.parametrize("prompt", ["def", "", " x"])
def test_streamed_as_whole_and_joined_as_decoded(
    hf_folder: Path, prompt: str, stop: tuple[str, ...]
) -> None:
    llm = LLM.load(hf_folder, n_threads=1)
    for seed in range(6):
        params = SamplingParams(temperature=1.5, max_tokens=60, seed=seed, stop=stop)
        whole = llm.complete(prompt, params)
        pieces = list(llm.stream(prompt, params))
        assert "".join(piece.text for piece in pieces) == whole.text
        assert sum((piece.token_ids for piece in pieces), ()) == whole.token_ids
        assert not any(mark in whole.text for mark in stop)
        if not stop:
            ids = [*llm.completion_ids(prompt), *whole.token_ids]
            assert prompt + whole.text == llm.tokenizer.decode(ids)


def test_infilling_and_chat_of_a_real_vocabulary(hf_folder: Path) -> None:
    llm = LLM.load(hf_folder, n_threads=1, chat_form="inst")
    tokenizer = llm.tokenizer
    params = SamplingParams(temperature=0.0, max_tokens=30)
    hole = llm.infill(prefix="def f", suffix="return x", params=params, n=2)
    assert hole[0].token_ids == hole[1].token_ids
    assert hole[0].text == tokenizer.decode_bare(hole[0].token_ids)
    assert tokenizer.eot_id not in hole[0].token_ids
    reply = llm.chat([{"role": "user", "content": "print x"}], params)
    assert reply.text == tokenizer.decode(reply.token_ids)
    pieces = llm.stream_chat([{"role": "user", "content": "print x"}], params)
    assert "".join(piece.text for piece in pieces) == reply.text


@EVERY
def test_a_model_with_a_broken_row_breaks_only_who_reads_it(tmp_path: Path, body: str) -> None:
    weights = tiny_weights()
    llm = loaded(write_hf(tmp_path / "good", weights=weights), body=body)
    bad = llm.tokenizer.encode_bare("~")[-1]
    prompts = [*PROMPTS[:6], "x ~ y", *PROMPTS[6:]]
    assert not any(bad in llm.completion_ids(prompt) for prompt in PROMPTS)
    params = replace(GREEDY, logit_bias={bad: -100.0})
    healthy = llm.complete(PROMPTS, params)
    assert not any(bad in completion.token_ids for completion in healthy)
    weights["embed_tokens.weight"] = weights["embed_tokens.weight"].copy()
    weights["embed_tokens.weight"][bad] = np.nan
    llm = loaded(write_hf(tmp_path / "bad", weights=weights), body=body)
    replies = llm.complete(prompts, params)
    broken = replies.pop(6)
    assert (broken.finish_reason, broken.token_ids) == ("error", ())
    assert_same(replies, healthy, body)


def test_load_says_what_it_decided(tmp_path: Path) -> None:
    folder = write_hf(tmp_path, replace(TINY, max_seq_len=64))
    assert not any("longer than" in note for note in LLM.load(folder, n_threads=1).notes)
    longer = LLM.load(folder, max_seq_len=100, n_threads=1)
    assert longer.max_seq_len == 100
    assert any("100 tokens is longer than the 64" in note for note in longer.notes)
    assert longer.chat_form is None
    assert LLM.load(folder, chat_form="inst", n_threads=1).chat_form == "inst"
    with pytest.raises(ConfigError, match="has none"):
        LLM.load(folder, chat_form="step", n_threads=1)
    with pytest.raises(ConfigError, match="`chat_form` is 'chatml'"):
        LLM.load(folder, chat_form="chatml", n_threads=1)  # type: ignore[arg-type]


def test_a_chat_form_that_the_vocabulary_lacks_is_said_and_left_out(tmp_path: Path) -> None:
    folder = write_hf(tmp_path)
    template = {"chat_template": "{{ messages }} <step> "}
    (folder / "tokenizer_config.json").write_text(json.dumps(template))
    assert checkpoint.open(folder).chat_form == "step"
    llm = LLM.load(folder, n_threads=1)
    assert llm.chat_form is None
    assert any("<step>" in note for note in llm.notes)
    assert llm.complete("x", SamplingParams(max_tokens=2)).finish_reason == "length"


def test_both_engines_say_the_same(hf_folder: Path) -> None:
    params = SamplingParams(temperature=0.0, max_tokens=40)
    native = LLM.load(hf_folder, n_threads=1).complete(PROMPTS[:4], params)
    reference = LLM.load(hf_folder, engine="torch").complete(PROMPTS[:4], params)
    assert [c.token_ids for c in native] == [c.token_ids for c in reference]
