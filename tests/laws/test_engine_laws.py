"""What a request says depends on its prompt, parameters and seed, and on nothing else."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from codellama import Completion, SamplingParams
from codellama.engine.engine import Engine
from codellama.engine.plan import EnginePlan
from codellama.engine.prompts import Prompt
from fakes import ByteTokenizer, ReferenceKernel, ScriptedModel, fake_llm, recite

GREEDY = SamplingParams(temperature=0.0, max_tokens=40, ignore_eos=True)
SAMPLED = SamplingParams(
    temperature=1.3, top_p=0.9, top_k=50, min_p=0.01, max_tokens=40, seed=11, ignore_eos=True,
    repetition_penalty=1.1, presence_penalty=0.3, frequency_penalty=0.2,
)  # fmt: skip
SHARED = "# shared beginning of it all "
PROMPTS = [f"{SHARED * (i % 3)}problem {i} " * (i % 4 + 1) for i in range(24)]
BOTH = pytest.mark.parametrize("params", [GREEDY, SAMPLED], ids=["greedy", "sampled"])


def model(n_blocks: int = 512, **options: Any) -> ScriptedModel:
    return ScriptedModel(n_blocks=n_blocks, **options)


def said(completions: list[Completion]) -> list[tuple[Any, ...]]:
    return [(c.token_ids, c.text, c.finish_reason) for c in completions]


@cache
def alone(params: SamplingParams) -> list[tuple[Any, ...]]:
    return said([fake_llm(model()).complete(prompt, params) for prompt in PROMPTS])


def test_greedy_replies_are_those_of_the_plain_loop() -> None:
    scripted = model()
    llm = fake_llm(scripted)
    for prompt, reply in zip(PROMPTS, llm.complete(PROMPTS, GREEDY), strict=True):
        assert list(reply.token_ids) == scripted.greedy(llm.completion_ids(prompt), 40)


@BOTH
def test_in_a_crowd_as_alone(params: SamplingParams) -> None:
    assert said(fake_llm(model()).complete(PROMPTS, params)) == alone(params)


@BOTH
@pytest.mark.parametrize("n_blocks", [32, 40, 57])
def test_preempted_as_undisturbed(params: SamplingParams, n_blocks: int) -> None:
    scripted = model(n_blocks)
    crowd = fake_llm(scripted, step_tokens=40).complete(PROMPTS, params)
    assert said(crowd) == alone(params)
    # The pool must have been small enough to matter: prompts were read more than once.
    read = sum(len(batch.tokens) for batch in scripted.batches)
    once = sum(c.prompt_tokens - c.cached_tokens + len(c.token_ids) - 1 for c in crowd)
    assert read > once


@BOTH
def test_chunked_as_whole(params: SamplingParams) -> None:
    for step_tokens in (16, 17, 31):
        chunked = fake_llm(model(), step_tokens=step_tokens).complete(PROMPTS, params)
        assert said(chunked) == alone(params)


@BOTH
def test_cached_prefix_as_uncached(params: SamplingParams) -> None:
    llm = fake_llm(model())
    first = llm.complete(PROMPTS, params)
    again = llm.complete(PROMPTS, params)
    plain = fake_llm(model(), share_prefixes=False).complete(PROMPTS, params)
    assert said(first) == said(again) == said(plain) == alone(params)
    assert all(c.cached_tokens == 0 for c in plain)
    assert all(c.cached_tokens == (c.prompt_tokens - 1) // 16 * 16 for c in again)
    assert any(c.cached_tokens for c in again)


@BOTH
@pytest.mark.parametrize("block_size", [1, 2, 5, 16, 64])
def test_any_block_size(params: SamplingParams, block_size: int) -> None:
    llm = fake_llm(model(2048 // block_size, block_size=block_size))
    assert said(llm.complete(PROMPTS, params)) == alone(params)


def test_several_replies_are_those_of_their_seeds() -> None:
    llm = fake_llm(model())
    several = llm.complete(PROMPTS[:5], SAMPLED, n=4)
    assert len({c.token_ids for c in several[0]}) == 4
    for prompt, replies in zip(PROMPTS, several, strict=False):
        assert replies[0].seed == SAMPLED.seed
        for reply in replies:
            params = SamplingParams(**{**vars(SAMPLED), "seed": reply.seed})
            assert said([fake_llm(model()).complete(prompt, params)]) == said([reply])


def test_several_replies_read_the_prompt_once() -> None:
    scripted = model()
    prompt = "a prompt of some length " * 10
    replies = fake_llm(scripted, step_tokens=64).complete(prompt, SAMPLED, n=6)
    n_prompt = replies[0].prompt_tokens
    assert [c.cached_tokens for c in replies] == [0] + [(n_prompt - 1) // 16 * 16] * 5
    read = sum(len(batch.tokens) for batch in scripted.batches)
    assert read < n_prompt + 6 * (40 + 16)


def test_a_drawn_seed_repeats_the_reply() -> None:
    params = SamplingParams(temperature=1.5, max_tokens=30, ignore_eos=True)
    llm = fake_llm(model())
    first, second = llm.complete("x", params), llm.complete("x", params)
    assert first.seed != second.seed
    again = SamplingParams(temperature=1.5, max_tokens=30, ignore_eos=True, seed=first.seed)
    assert said([llm.complete("x", again)]) == said([first])


REPLIES = [
    "plain ascii\n",
    " leading and trailing spaces ",
    "emoji \N{GRINNING FACE}\N{WOMAN}\N{ZERO WIDTH JOINER}\N{PERSONAL COMPUTER} and more",
    "\N{HIRAGANA LETTER A}\N{CJK UNIFIED IDEOGRAPH-4E2D}é\N{COMBINING ACUTE ACCENT}",
    "",
    "a STOP in the middle",
    "almost a STO",
    "STSTOP",
]


@pytest.mark.parametrize("stop", [(), ("STOP",), ("STOP", "\N{GRINNING FACE}"), ("zz", "OP")])
@pytest.mark.parametrize("reply", REPLIES)
@pytest.mark.parametrize("max_tokens", [None, 3, 8])
def test_streamed_as_whole(reply: str, stop: tuple[str, ...], max_tokens: int | None) -> None:
    llm = fake_llm(model(script=recite({"say it": reply})))
    params = SamplingParams(temperature=0.0, max_tokens=max_tokens, stop=stop, logprobs=2, seed=1)
    whole = llm.complete("say it", params)
    pieces = list(llm.stream("say it", params))
    assert "".join(piece.text for piece in pieces) == whole.text
    assert sum((piece.token_ids for piece in pieces), ()) == whole.token_ids
    assert sum((piece.logprobs or () for piece in pieces), ()) == whole.logprobs
    assert [piece.finish_reason for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    last = pieces[-1].completion
    assert last is not None
    assert said([last]) == said([whole])
    # And the whole is what was recited, cut by hand.
    raw = reply.encode()[:max_tokens].decode(errors="replace")
    cut = min((at for at in map(raw.find, stop) if at >= 0), default=len(raw))
    assert whole.text == raw[:cut]
    ended = cut < len(raw) or max_tokens is None or len(reply.encode()) < max_tokens
    assert whole.finish_reason == ("stop" if ended else "length")


@pytest.mark.parametrize("prompt", ["x", "", " ", "def f():\n", "é"])
@pytest.mark.parametrize("reply", [" starts with a space", "no space", "  two"])
def test_prompt_and_reply_joined_are_what_all_ids_decode_to(prompt: str, reply: str) -> None:
    llm = fake_llm(model(script=recite({prompt: reply})))
    made = llm.complete(prompt, SamplingParams(temperature=0.0))
    ids = [*llm.completion_ids(prompt), *made.token_ids]
    assert prompt + made.text == ByteTokenizer().decode(ids)


def test_a_scope_sees_nothing_of_another() -> None:
    plan = EnginePlan(max_seq_len=256, n_blocks=64)
    engine = Engine(model(64), ByteTokenizer(), plan, ReferenceKernel())  # type: ignore[arg-type]
    prompt = Prompt(ids=tuple(range(100)), stop_ids=frozenset(), bare=True)
    found = []
    for scope in (b"a", b"b", b"a", b"ab", b""):
        engine.add(prompt, SamplingParams(max_tokens=2), scope=scope)
        while engine.n_requests:
            found += [o.piece.completion for o in engine.step() if o.piece.completion]
    assert [c.cached_tokens for c in found] == [0, 0, 96, 0, 0]
