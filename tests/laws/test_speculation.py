"""Guessing ahead changes nothing: speculative replies are the plain ones, token for token.

The scripted model's text is a hash, so look-up seldom guesses it; a teacher that knows the plain
reply guesses it, with errors, and so every share of a draft is confirmed or refused somewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from codellama import Completion, SamplingParams
from codellama.engine.engine import Engine
from codellama.engine.plan import EnginePlan
from codellama.engine.prompts import Prompt
from codellama.engine.sampler import native_kernel
from fakes import ByteTokenizer, ScriptedModel, Teacher, fake_llm, recite

EAGER = {"draft_cost": 0.001}  # a guess costs next to nothing, so there are always some
PROMPTS = [f"{'shared beginning ' * (i % 3)}problem {i} " * (i % 4 + 1) for i in range(12)]
GREEDY: dict[str, Any] = {"temperature": 0.0, "max_tokens": 40, "seed": 5, "ignore_eos": True}
SAMPLED: dict[str, Any] = {
    "temperature": 1.3, "top_p": 0.9, "top_k": 50, "min_p": 0.01, "max_tokens": 40, "seed": 11,
    "ignore_eos": True,
}  # fmt: skip
PARAMS = {
    "greedy": GREEDY,
    "sampled": SAMPLED,
    "penalties": SAMPLED | {
        "repetition_penalty": 1.3, "presence_penalty": 0.7, "frequency_penalty": 0.4, "top_k": 5,
    },
    "greedy with penalties": GREEDY | {"repetition_penalty": 1.5, "frequency_penalty": 1.0},
    "bias": SAMPLED | {"logit_bias": {70: 6.0, 80: 5.0, 90: 5.0, 100: -100.0}},
    "logprobs": SAMPLED | {"logprobs": 4},
    "ends on many tokens": SAMPLED | {"ignore_eos": False, "logit_bias": {2: 7.0}},
    "stop strings": SAMPLED | {
        "stop": ["ab", "b", "\N{REPLACEMENT CHARACTER}", "e", "12"], "logit_bias": {100: 4.0},
    },
    "one token": SAMPLED | {"max_tokens": 1},
    "two tokens": SAMPLED | {"max_tokens": 2},
    "to the end of the context": SAMPLED | {"max_tokens": None},
}  # fmt: skip
EACH = pytest.mark.parametrize("fields", PARAMS.values(), ids=PARAMS)


def said(completions: list[Completion]) -> list[tuple[Any, ...]]:
    return [(c.token_ids, c.text, c.finish_reason, c.logprobs, c.seed) for c in completions]


def plain(params: SamplingParams, model: ScriptedModel | None = None, **options: Any) -> Any:
    model = ScriptedModel(n_blocks=512) if model is None else model
    return fake_llm(model, speculation="off", max_seq_len=200, **options)


def teacher(replies: Mapping[tuple[int, int], tuple[int, ...]], **options: Any) -> Teacher:
    """Knows replies by the length of the prompt and the seed, and makes up the others."""
    return Teacher(lambda s: replies.get((s.n_prompt, s.seed), ()), **options)


def known(completions: list[Completion]) -> dict[tuple[int, int], tuple[int, ...]]:
    return {(c.prompt_tokens, c.seed): c.token_ids for c in completions}


@EACH
@pytest.mark.parametrize("errors", [0.0, 0.3])
@pytest.mark.parametrize(
    "schedule",
    [
        pytest.param({}, id="in a crowd"),
        pytest.param({"max_num_seqs": 1}, id="one after the other"),
        pytest.param({"n_blocks": 16, "step_tokens": 40}, id="pre-empted"),
        pytest.param({"step_tokens": 17, "block_size": 4, "n_blocks": 2048}, id="in small steps"),
        pytest.param({"draft_tokens": 1, "share_prefixes": False}, id="one guess at a time"),
    ],
)
def test_speculative_is_plain(
    fields: dict[str, Any], errors: float, schedule: dict[str, Any]
) -> None:
    params = SamplingParams(**fields)
    expected = plain(params).complete(PROMPTS, params)
    options = dict(schedule)
    model = ScriptedModel(
        n_blocks=options.pop("n_blocks", 512), block_size=options.pop("block_size", 16)
    )
    guesser = teacher(known(expected), errors=errors)
    llm = fake_llm(model, drafters=(guesser,), max_seq_len=200, **EAGER, **options)
    replies = llm.complete(PROMPTS, params)
    assert said(replies) == said(expected)
    pool = llm._engine._engine.pool  # type: ignore[union-attr]
    assert pool.n_free == pool.n_blocks
    timings = [c.timings for c in replies]
    assert all(t.accepted_tokens <= t.drafted_tokens for t in timings)
    if max(len(c.token_ids) for c in expected) > 20:
        assert sum(t.accepted_tokens for t in timings) > 20
        assert (sum(t.drafted_tokens - t.accepted_tokens for t in timings) > 20) == (errors > 0)


def test_right_guesses_save_steps() -> None:
    params = SamplingParams(**GREEDY)
    expected = plain(params).complete(PROMPTS[1], params)
    model = ScriptedModel(n_blocks=512)
    guesser = teacher(known([expected]), errors=0.0)
    reply = fake_llm(model, drafters=(guesser,), **EAGER).complete(PROMPTS[1], params)
    assert said([reply]) == said([expected])
    # The prompt, one step of 15 guesses after another for 39 tokens: 16 + 16 + 7.
    assert len(model.batches) == 1 + 3
    assert (reply.timings.drafted_tokens, reply.timings.accepted_tokens) == (36, 36)


def test_several_replies_to_one_prompt() -> None:
    params = SamplingParams(**SAMPLED)
    expected = plain(params).complete(PROMPTS[:3], params, n=4)
    flat = [reply for replies in expected for reply in replies]
    llm = fake_llm(ScriptedModel(n_blocks=512), drafters=(teacher(known(flat)),), **EAGER)
    replies = llm.complete(PROMPTS[:3], params, n=4)
    assert [said(r) for r in replies] == [said(r) for r in expected]


@pytest.mark.parametrize("stop", [(), ("STOP",), ("op me",), ("\n\n", "zz")])
@pytest.mark.parametrize("max_tokens", [None, 1, 7, 30])
@pytest.mark.parametrize("drafts", ["lookup", "teacher"])
def test_streams_and_stop_strings_across_drafts(
    stop: tuple[str, ...], max_tokens: int | None, drafts: str
) -> None:
    prompt = "say STOP me: abcdefg abcdefg\n\n"
    reply = "abcdefg abcdefg abcdefg \N{GRINNING FACE} STO STSTOP me: abcdefg\n\nabc"
    params = SamplingParams(temperature=0.0, max_tokens=max_tokens, stop=stop, logprobs=1, seed=1)
    model = ScriptedModel(script=recite({prompt: reply}), n_blocks=64)
    expected = plain(params, model).complete(prompt, params)
    drafters = (teacher(known([expected])),) if drafts == "teacher" else ()
    model = ScriptedModel(script=recite({prompt: reply}), n_blocks=64)
    llm = fake_llm(model, drafters=drafters, **EAGER)
    pieces = list(llm.stream(prompt, params))
    last = pieces[-1].completion
    assert last is not None
    assert said([last]) == said([expected])
    assert "".join(piece.text for piece in pieces) == expected.text
    assert sum((piece.token_ids for piece in pieces), ()) == expected.token_ids
    assert sum((piece.logprobs or () for piece in pieces), ()) == expected.logprobs
    if max_tokens is None and not stop:
        assert last.timings.accepted_tokens > 10


def engine_of(model: ScriptedModel, drafters: tuple[Any, ...], **fields: Any) -> Engine:
    plan = EnginePlan(max_seq_len=200, n_blocks=model.n_blocks, **EAGER, **fields)  # type: ignore[arg-type]
    tokenizer: Any = ByteTokenizer()
    return Engine(model, tokenizer, plan, native_kernel(), drafters=drafters)


@pytest.mark.parametrize("n_steps", range(1, 9))
def test_aborted_while_guessing(n_steps: int) -> None:
    guesser = teacher({}, errors=0.5)
    engine = engine_of(ScriptedModel(n_blocks=64), (guesser,))
    params = SamplingParams(**SAMPLED)
    ids = [
        engine.add(Prompt(ids=(1, 5, 6, 7 + i), stop_ids=frozenset(), bare=True), params)
        for i in range(3)
    ]
    for _ in range(n_steps):
        engine.step()
    output = engine.abort(ids[1])
    assert output is not None
    assert output.piece.finish_reason == "abort"
    while engine.n_requests:
        engine.step()
    assert engine.pool.n_free == engine.pool.n_blocks


def test_guesses_that_break_the_runner_end_nothing() -> None:
    params = SamplingParams(**GREEDY)
    expected = plain(params).complete(PROMPTS, params)
    heard = {token for c in expected for token in c.token_ids}
    heard |= {token for prompt in PROMPTS for token in ByteTokenizer().encode(prompt, bos=True)}
    bad = next(i for i in range(3, 264) if i not in heard)
    for broken in ({"fail_on": bad}, {"nan_on": bad}):
        model = ScriptedModel(n_blocks=512, **broken)  # type: ignore[arg-type]
        guesser = teacher(known(expected), errors=0.3, wrong_ids=[bad])
        llm = fake_llm(model, drafters=(guesser,), max_seq_len=200, **EAGER)
        replies = llm.complete(PROMPTS, params)
        assert said(replies) == said(expected)
        assert guesser.n_proposed


def test_a_drafter_that_fails_ends_nothing() -> None:
    params = SamplingParams(**GREEDY)
    expected = plain(params).complete(PROMPTS, params)
    guesser = teacher(known(expected), failures=0.2)
    llm = fake_llm(ScriptedModel(n_blocks=512), drafters=(guesser,), max_seq_len=200, **EAGER)
    assert said(llm.complete(PROMPTS, params)) == said(expected)


class OneDistribution(ScriptedModel):
    """The same few logits after any text."""

    weights = np.array([0.4, 0.2, 0.15, 0.1, 0.08, 0.05, 0.02], np.float64)

    def run(self, batch: Any) -> Any:
        row = np.full(self.config.vocab_size, -1e9, np.float32)
        row[10:17] = np.log(self.weights)
        return np.tile(row, (len(batch.logit_rows), 1))


def test_sampled_tokens_keep_their_distribution() -> None:
    """50,000 draws, with guesses that are right as often as chance has it."""
    engine = engine_of(OneDistribution(n_blocks=13 * 16), (), max_num_seqs=16)
    drawn: list[int] = []
    behind_guesses = 0
    for seed in range(50_000 // 190):
        params = SamplingParams(temperature=1.0, top_p=1.0, max_tokens=190, seed=seed)
        engine.add(Prompt(ids=(1, 10, 11, 10, 11), stop_ids=frozenset(), bare=True), params)
    while engine.n_requests:
        for output in engine.step():
            drawn += output.piece.token_ids
            if output.piece.completion is not None:
                behind_guesses += output.piece.completion.timings.accepted_tokens
    counts = np.bincount(drawn, minlength=17)[10:17]
    assert counts.sum() == len(drawn) > 49_000
    assert behind_guesses > 5_000, "too few guesses to say anything"
    expected = OneDistribution.weights * len(drawn)
    # 22.46: what chi-square with 6 degrees of freedom exceeds once in a thousand times.
    assert ((counts - expected) ** 2 / expected).sum() < 22.46
