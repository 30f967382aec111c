"""Replies that go on inside a token, against the loop that the words describe."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from codellama import SamplingParams
from codellama.checkpoint.hub import resolve
from codellama.engine.engine import Engine
from codellama.engine.plan import EnginePlan
from codellama.engine.prompts import Prompt
from codellama.text.tokenizer import CONTROL_PIECES, Tokenizer
from fakes import ReferenceKernel, ScriptedModel, Teacher

TEXTS = ["def f(x):\n    ret", "x = foo.ba", "    ", "if a ==", "print('h", "é", "class A:\n  "]


@pytest.fixture(scope="module")
def nano() -> Tokenizer:
    return Tokenizer.open(resolve("nano"))


def prompt(nano: Tokenizer, text: str) -> Prompt:
    ids, begun = nano.beginnings.take_back(nano.encode(text))
    assert nano.eot_id is not None
    return Prompt(
        ids=(1, *ids), stop_ids=frozenset((nano.eot_id,)), bare=True, begun=begun
    )  # fmt: skip


def engine(model: ScriptedModel, nano: Tokenizer, *drafters: Any) -> Engine:
    plan = EnginePlan(
        max_seq_len=256, n_blocks=model.n_blocks, block_size=16, max_num_seqs=8, step_tokens=64,
        speculation="lookup" if drafters else "off", draft_cost=0.001,
    )  # fmt: skip
    return Engine(model, nano, plan, ReferenceKernel(), drafters=drafters)


def run(one: Engine, prompts: list[Prompt], params: SamplingParams) -> list[Any]:
    wanted = {one.add(p, params, seed=i): i for i, p in enumerate(prompts)}
    found: dict[int, Any] = {}
    while one.n_requests:
        for output in one.step():
            if output.piece.completion is not None:
                found[wanted[output.request_id]] = output.piece.completion
    return [found[i] for i in range(len(prompts))]


def loop(model: ScriptedModel, nano: Tokenizer, given: Prompt, n: int) -> tuple[str, list[int]]:
    """The likeliest token that leaves the text as it was begun, again and again."""
    shown = {
        i: b"" if nano.piece(i) in CONTROL_PIECES else nano.token_bytes(i)
        for i in range(nano.n_vocab)
    }
    rest, drawn, reply = given.begun.encode(), [], []
    while len(reply) < n:
        logits = model.logits_after([*given.ids, *drawn])[: nano.n_vocab].copy()
        if rest:
            for i, raw in shown.items():
                if not raw or not (raw.startswith(rest) or rest.startswith(raw)):
                    logits[i] = -np.inf
        token = int(logits.argmax())
        if not rest and token in given.stop_ids:
            break
        drawn.append(token)
        n_new = len(shown[token]) - len(rest)
        if n_new > 0 or not rest:
            reply.append(token)
        rest = rest[len(shown[token]) :]
    text = nano.decode_bare(drawn)
    assert text.startswith(given.begun)
    return text.removeprefix(given.begun), reply


def test_the_reply_goes_on_where_the_text_stopped(nano: Tokenizer) -> None:
    model = ScriptedModel(vocab_size=nano.n_vocab)
    given = [prompt(nano, text) for text in TEXTS]
    assert sum(bool(one.begun) for one in given) >= 5
    params = SamplingParams(temperature=0, max_tokens=12)
    for one, made in zip(given, run(engine(model, nano), given, params), strict=True):
        text, reply = loop(model, nano, one, 12)
        assert list(made.token_ids) == reply
        assert made.text.rstrip("\N{REPLACEMENT CHARACTER}") == text.rstrip(
            "\N{REPLACEMENT CHARACTER}"
        )
        assert len(made.token_ids) == 12 or made.finish_reason == "stop"


def test_only_the_beginning_keeps_from_guessing(nano: Tokenizer) -> None:
    model = ScriptedModel(vocab_size=nano.n_vocab)
    given = [prompt(nano, text) for text in TEXTS]
    params = SamplingParams(temperature=1.0, max_tokens=30, ignore_eos=True)
    plain = run(engine(model, nano), given, params)
    known: dict[int, list[int]] = {}
    for i, made in enumerate(plain):
        known[i] = list(made.token_ids)
    teacher = Teacher(lambda s: known[s.seed], errors=0.3, wrong_ids=range(300, 900))
    guessed = run(engine(model, nano, teacher), given, params)
    assert [(c.text, c.token_ids) for c in guessed] == [(c.text, c.token_ids) for c in plain]
    assert teacher.n_proposed > 100


@pytest.mark.parametrize("max_tokens", [1, 2, 7])
def test_tokens_that_repeat_what_was_begun_do_not_count(nano: Tokenizer, max_tokens: int) -> None:
    """Spaces can only be written one by one here, and cost nothing of the reply."""
    one_by_one = next(i for i in range(nano.n_vocab) if nano.piece(i) == "▁")
    given = Prompt(ids=(1,), stop_ids=frozenset((2,)), bare=True, begun="   ")
    says_space = ScriptedModel(
        vocab_size=nano.n_vocab,
        script=lambda tokens: one_by_one if len(tokens) < 4 else 300 + len(tokens),
    )
    params = SamplingParams(temperature=0, max_tokens=max_tokens, logprobs=2, ignore_eos=True)
    (made,) = run(engine(says_space, nano), [given], params)
    assert list(made.token_ids) == [304 + i for i in range(max_tokens)]
    assert made.text == nano.decode_bare(made.token_ids)
    assert len(made.logprobs) == max_tokens
    assert made.finish_reason == "length"


def test_a_stop_string_in_what_was_begun_ends_nothing(nano: Tokenizer) -> None:
    model = ScriptedModel(vocab_size=nano.n_vocab)
    given = prompt(nano, "def f(x):\n    ret")
    assert given.begun == "    ret"
    free = run(engine(model, nano), [given], SamplingParams(temperature=0, max_tokens=8))[0]
    stopped = run(
        engine(model, nano), [given], SamplingParams(temperature=0, max_tokens=8, stop=["  re"])
    )[0]
    assert stopped.text == free.text


def test_what_a_request_would_find(nano: Tokenizer) -> None:
    model = ScriptedModel(vocab_size=nano.n_vocab)
    one = engine(model, nano)
    ids = tuple(range(300, 350))
    given = Prompt(ids=ids, stop_ids=frozenset((2,)), bare=True)
    assert one.n_cached(ids) == 0
    (made,) = run(one, [given], SamplingParams(max_tokens=1))
    assert made.cached_tokens == 0
    for asked in (ids, ids[:49], ids[:33], (*ids, 5), (*ids[:20], 5, *ids[21:]), ids[:32]):
        expected = one.n_cached(asked)
        again = Prompt(ids=asked, stop_ids=frozenset((2,)), bare=True)
        assert run(one, [again], SamplingParams(max_tokens=1))[0].cached_tokens == expected
    assert one.n_cached(ids) == 48
    assert one.n_cached(ids, b"another") == 0
