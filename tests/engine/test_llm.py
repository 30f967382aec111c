"""What `LLM` gives for what it is asked."""

from __future__ import annotations

import math
from typing import Any

import pytest

from codellama import (
    LLM,
    Completion,
    ConfigError,
    ContextTooLong,
    PromptError,
    RequestError,
    SamplingParams,
)
from codellama.engine.engine import Engine
from codellama.engine.plan import EnginePlan
from codellama.engine.prompts import Prompt
from fakes import (
    ByteTokenizer,
    ReferenceKernel,
    ScriptedModel,
    fake_llm,
    log_softmax,
    recite,
)

GREEDY = SamplingParams(temperature=0.0, max_tokens=12)
SAY = ByteTokenizer().encode_bare


def reciting(reply: list[int], **options: Any) -> ScriptedModel:
    """A model that says `reply` after any prompt: its first free token is the reply's first."""

    def script(tokens: tuple[int, ...]) -> int | None:
        for k in range(len(reply), -1, -1):
            if k <= len(tokens) and list(tokens[len(tokens) - k :]) == reply[:k]:
                return reply[k] if k < len(reply) else None
        return None

    return ScriptedModel(script=script, **options)


def test_a_text_gives_one_a_list_gives_a_list() -> None:
    llm = fake_llm()
    one = llm.complete("a", GREEDY)
    assert isinstance(one, Completion)
    both = llm.complete(["a", "b"], GREEDY)
    assert [c.token_ids for c in both][:1] == [one.token_ids]
    assert [len(replies) for replies in llm.complete(("a", "b"), GREEDY, n=3)] == [3, 3]
    assert len(llm.complete("a", GREEDY, n=1)) == 1
    assert llm.complete([], GREEDY) == []
    assert len(llm.infill(prefix="a", suffix="b", params=GREEDY, n=2)) == 2
    assert len(llm.chat([{"role": "user", "content": "a"}], GREEDY, n=2)) == 2


@pytest.mark.parametrize("n", [0, -1, 1.0, True, "2"])
def test_n_is_a_positive_integer(n: Any) -> None:
    with pytest.raises(RequestError, match=r"`n` is .*; expected a positive integer"):
        fake_llm().complete("a", GREEDY, n=n)


@pytest.mark.parametrize("prompt", [None, 5, b"bytes", {"a": 1}, ["a", None]])
def test_a_prompt_is_a_text(prompt: Any) -> None:
    with pytest.raises(RequestError, match="a prompt is a text"):
        fake_llm().complete(prompt, GREEDY)


def test_ids_of_prompts() -> None:
    llm, bytes_of = fake_llm(), ByteTokenizer()
    space, a, b = bytes_of.encode_bare(" ab")
    assert llm.completion_ids("a") == (1, space, a)
    assert llm.infill_ids(prefix="a", suffix="b") == (1, 259, space, a, 260, b, 261)
    assert llm.infill_ids(prefix="a", suffix="b", order="spm") == (1, 259, 260, b, 261, space, a)
    asked = llm.chat_ids([{"role": "user", "content": "a"}])
    assert asked == tuple(bytes_of.encode("[INST] a [/INST]", bos=True))


def test_a_prompt_that_fills_the_context_is_refused_before_anything_runs() -> None:
    model = ScriptedModel()
    llm = fake_llm(model, max_seq_len=100)
    with pytest.raises(ContextTooLong) as caught:
        llm.complete(["short", "x" * 98], GREEDY)  # and <s> and a space: 100 tokens
    assert str(caught.value) == ("the prompt has 100 tokens and this model was loaded to keep 100")
    assert caught.value.hint == (
        "shorten it by 1 tokens or more, to leave room for an answer, or load the model with "
        "--max-seq-len 200"
    )
    with pytest.raises(ContextTooLong, match=r"has 802 tokens .* keep 100"):
        llm.stream("x" * 800)
    assert model.batches == []
    last = llm.complete("x" * 97, GREEDY)
    assert (len(last.token_ids), last.finish_reason) == (1, "length")


@pytest.mark.parametrize("max_tokens", [None, 95, 1000])
def test_a_reply_ends_with_the_context(max_tokens: int | None) -> None:
    llm = fake_llm(max_seq_len=100)
    params = SamplingParams(max_tokens=max_tokens, ignore_eos=True)
    reply = llm.complete("x" * 8, params)
    assert (reply.prompt_tokens, len(reply.token_ids), reply.finish_reason) == (10, 90, "length")


def test_a_completion_stops_at_end_of_text() -> None:
    llm = fake_llm(reciting([*SAY("done"), 2, *SAY("more")]))
    reply = llm.complete("x", GREEDY)
    assert (reply.text, reply.finish_reason) == ("done", "stop")
    assert list(reply.token_ids) == SAY("done")
    on = llm.complete("x", SamplingParams(temperature=0.0, max_tokens=9, ignore_eos=True))
    assert (on.text, on.finish_reason) == ("donemore", "length")
    assert list(on.token_ids) == [*SAY("done"), 2, *SAY("more")]


def test_an_infilling_stops_at_its_own_end_only() -> None:
    llm = fake_llm(reciting([*SAY(" mid"), 2, *SAY("dle"), 262]))
    reply = llm.infill(prefix="a", suffix="b", params=GREEDY)
    assert (reply.text, reply.finish_reason) == (" middle", "stop")
    assert list(reply.token_ids) == [*SAY(" mid"), 2, *SAY("dle")]


@pytest.mark.parametrize(("form", "stop", "other"), [("inst", 2, 263), ("step", 263, 2)])
def test_a_chat_reply_stops_where_its_form_says(form: Any, stop: int, other: int) -> None:
    llm = fake_llm(reciting([*SAY(" two"), other, *SAY(" words"), stop]), chat_form=form)
    reply = llm.chat([{"role": "user", "content": "a"}], GREEDY)
    assert (reply.text, reply.finish_reason) == ("two words", "stop")


def test_what_the_model_cannot_do_is_said() -> None:
    class Plain(ByteTokenizer):
        has_infill = False
        prefix_id = suffix_id = middle_id = eot_id = step_id = None  # type: ignore[assignment]

    llm = fake_llm(tokenizer=Plain(), chat_form=None)
    with pytest.raises(RequestError, match="cannot infill") as caught:
        llm.infill(prefix="a", suffix="b")
    assert "7B, 13B" in str(caught.value.hint)
    with pytest.raises(RequestError, match="trained to chat") as caught:
        llm.stream_chat([{"role": "user", "content": "a"}])
    assert "chat_form='inst'" in str(caught.value.hint)
    with pytest.raises(ConfigError, match="<step>"):
        fake_llm(tokenizer=Plain(), chat_form="step")
    with pytest.raises(RequestError, match="`order` is 'pms'"):
        fake_llm().infill(prefix="a", suffix="b", order="pms")  # type: ignore[call-overload]
    with pytest.raises(RequestError, match="`suffix` is of type NoneType"):
        fake_llm().infill(prefix="a", suffix=None)  # type: ignore[call-overload]
    with pytest.raises(PromptError):
        fake_llm().chat([])
    with pytest.raises(PromptError):
        fake_llm().chat("hello")  # type: ignore[call-overload]


def test_a_stop_string_cuts_the_text_and_ends_the_ids() -> None:
    llm = fake_llm(reciting([*SAY("one END two"), 2]))
    reply = llm.complete("x", SamplingParams(temperature=0.0, stop="END"))
    assert (reply.text, reply.finish_reason) == ("one ", "stop")
    assert list(reply.token_ids) == SAY("one EN")  # without the token that completed it


def test_half_a_character_at_the_end_is_shown_as_such() -> None:
    llm = fake_llm(reciting([*SAY("ok "), *SAY("\N{GRINNING FACE}")]))
    reply = llm.complete("x", SamplingParams(temperature=0.0, max_tokens=5))
    assert reply.text == "ok \N{REPLACEMENT CHARACTER}"


def test_logprobs() -> None:
    model = ScriptedModel()
    llm = fake_llm(model)
    params = SamplingParams(temperature=1.5, max_tokens=6, logprobs=4, seed=5, ignore_eos=True)
    reply = llm.complete("x", params)
    assert reply.logprobs is not None
    assert [entry.token_id for entry in reply.logprobs] == list(reply.token_ids)
    tokens = list(llm.completion_ids("x"))
    for entry in reply.logprobs:
        expected = log_softmax(model.logits_after(tokens))
        assert entry.logprob == pytest.approx(expected[entry.token_id], abs=1e-5)
        assert [token for token, _ in entry.top] == list((-expected).argsort()[:4])
        assert [value for _, value in entry.top] == pytest.approx(sorted(expected)[:-5:-1])
        tokens.append(entry.token_id)
    alone = llm.complete("x", SamplingParams(max_tokens=2, logprobs=0))
    assert alone.logprobs is not None
    assert [entry.top for entry in alone.logprobs] == [()] * len(alone.token_ids)
    assert llm.complete("x", GREEDY).logprobs is None


def test_each_of_a_crowd_gets_the_alternatives_it_asked_for() -> None:
    engine = Engine(
        ScriptedModel(), ByteTokenizer(), EnginePlan(max_seq_len=64, n_blocks=64),  # type: ignore[arg-type]
        ReferenceKernel(),
    )  # fmt: skip
    asked = (None, 0, 3, 20, 1)
    for k in asked:
        prompt = Prompt(ids=(1, 5), stop_ids=frozenset(), bare=True)
        engine.add(prompt, SamplingParams(max_tokens=2, logprobs=k))
    found = {}
    while engine.n_requests:
        found |= {o.request_id: o.piece.completion for o in engine.step()}
    for k, completion in zip(asked, (found[i] for i in range(5)), strict=True):
        assert completion is not None
        if k is None:
            assert completion.logprobs is None
        else:
            assert completion.logprobs is not None
            assert [len(entry.top) for entry in completion.logprobs] == [k, k]


def test_biases() -> None:
    llm = fake_llm()
    forced = SamplingParams(temperature=0.0, max_tokens=3, logit_bias={70: 100.0})
    assert llm.complete("x", forced).token_ids == (70, 70, 70)
    with pytest.raises(RequestError, match=r"`logit_bias` names the token id 264, .* 0 to 263"):
        llm.complete("x", SamplingParams(logit_bias={264: 1.0}))


def test_ids_without_a_token_are_never_drawn() -> None:
    model = ScriptedModel(vocab_size=300, script=lambda tokens: 290)
    reply = fake_llm(model).complete("x", SamplingParams(temperature=0.0, max_tokens=3))
    assert reply.token_ids == (0, 0, 0)
    hot = SamplingParams(temperature=50.0, top_p=1.0, max_tokens=200, ignore_eos=True)
    reply = fake_llm(ScriptedModel(vocab_size=300)).complete("x", hot)
    assert max(reply.token_ids) < 264


def test_ids_outside_the_vocabulary_are_refused() -> None:
    engine = Engine(
        ScriptedModel(), ByteTokenizer(), EnginePlan(max_seq_len=64, n_blocks=64),  # type: ignore[arg-type]
        ReferenceKernel(),
    )  # fmt: skip
    for ids, shown in (((1, 264), "264"), ((-1,), "-1")):
        with pytest.raises(RequestError, match=f"token id {shown}, .* from 0 to 263"):
            engine.add(Prompt(ids=ids, stop_ids=frozenset(), bare=True), GREEDY)
    with pytest.raises(RequestError, match="no tokens"):
        engine.add(Prompt(ids=(), stop_ids=frozenset(), bare=True), GREEDY)
    assert engine.n_requests == 0


@pytest.mark.parametrize("accident", ["nan_on", "fail_on"])
def test_what_cannot_be_computed_ends_alone(accident: str) -> None:
    bad = SAY("~")[0]
    prompts = ["one", "t~wo " * 20, "three " * 20, "four"]
    healthy = fake_llm().complete(prompts, GREEDY)
    options: dict[str, Any] = {accident: bad}
    llm = fake_llm(ScriptedModel(n_blocks=256, **options))
    for _ in range(2):  # nor does it leave anything behind
        replies = llm.complete(prompts, GREEDY)
        assert [r.finish_reason == "error" for r in replies] == [False, True, False, False]
        for i in (0, 2, 3):
            assert replies[i].token_ids == healthy[i].token_ids
        said = replies[1].error
        assert said is not None
        assert ("not a number" if accident == "nan_on" else "on fire") in said
        assert replies[1].text == ""
        assert replies[1].cached_tokens == 0


def test_timings() -> None:
    now = iter(range(1000))
    engine = Engine(
        ScriptedModel(), ByteTokenizer(),  # type: ignore[arg-type]
        EnginePlan(max_seq_len=64, n_blocks=8, max_num_seqs=1, step_tokens=10), ReferenceKernel(),
        clock=lambda: next(now),
    )  # fmt: skip
    prompt = Prompt(ids=tuple(range(25)), stop_ids=frozenset(), bare=True)
    for _ in range(2):  # added at 0 and 1; each step reads the clock at its begin and its end
        engine.add(prompt, SamplingParams(max_tokens=4))
    found = []
    while engine.n_requests:
        found += [o.piece.completion for o in engine.step() if o.piece.completion]
    first, second = (c.timings for c in found)
    assert (first.queue_s, first.prefill_s, first.decode_s) == (2, 5, 6)
    assert (second.queue_s, second.prefill_s, second.decode_s) == (13, 1, 6)
    assert (first.prompt_tokens, first.cached_tokens, first.completion_tokens) == (25, 0, 4)
    assert second.cached_tokens == 16
    assert first.tokens_per_s == 0.5
    assert (first.prompt_tokens_per_s, second.prompt_tokens_per_s) == (5.0, 9.0)


def test_rates_that_cannot_be_told_are_none() -> None:
    reply = fake_llm().complete("x", SamplingParams(max_tokens=1))
    assert reply.timings.tokens_per_s is None
    assert reply.timings.prompt_tokens_per_s is not None
    assert math.isfinite(reply.timings.prompt_tokens_per_s)


def test_description_of_an_engine() -> None:
    llm = fake_llm(max_seq_len=100)
    assert (llm.max_seq_len, llm.has_infill, llm.chat_form) == (100, True, "inst")
    assert llm.plan.describe().startswith("context 100;")


def test_recited_replies_reach_their_own_prompts() -> None:
    """No reply holds a marker of another prompt, whatever shares a batch or a block."""
    replies = {f"# question {i} of many alike": f"answer <{i}>" for i in range(50)}
    llm = fake_llm(ScriptedModel(n_blocks=60, script=recite(replies)), max_seq_len=128)
    made = llm.complete(list(replies), SamplingParams(temperature=0.0))
    assert [c.text for c in made] == list(replies.values())


@pytest.mark.parametrize("kv_cache", ["f16", "q8_0"])
def test_keys_and_values_may_be_kept_coarser(kv_cache: str) -> None:
    fine = LLM.load("nano")
    coarse = LLM.load("nano", kv_cache=kv_cache)
    assert coarse.plan.kv_bytes_per_token < 0.6 * fine.plan.kv_bytes_per_token
    params = SamplingParams(temperature=0, max_tokens=8)
    assert coarse.complete("def add(a, b):\n    return", params).token_ids


def test_a_cache_of_another_format_is_refused() -> None:
    with pytest.raises(ConfigError, match="`kv_cache` is 'q4_0'; expected 'f32', 'f16', 'q8_0'"):
        LLM.load("nano", kv_cache="q4_0")


def test_as_they_end_gives_what_complete_gives() -> None:
    prompts = [f"prompt {i}" for i in range(9)]
    params = [SamplingParams(temperature=1.0, max_tokens=3 + 5 * (i % 4), seed=i) for i in range(9)]
    alone = [fake_llm().complete(p, q).text for p, q in zip(prompts, params, strict=True)]
    llm = fake_llm(max_num_seqs=4)
    asked: list[int] = []

    def requests() -> Any:
        for i, (prompt, one) in enumerate(zip(prompts, params, strict=True)):
            asked.append(i)
            yield llm.prompt(prompt), one

    coming = llm.as_they_end(requests())
    place, first = next(coming)
    assert len(asked) == llm.plan.max_num_seqs < 9  # taken as there is room, not all at once
    found = {place: first.text} | {place: one.text for place, one in coming}
    assert found == dict(enumerate(alone))
    assert list(found) != sorted(found), "short replies overtake long ones"


def test_who_stops_listening_leaves_nothing_behind() -> None:
    llm = fake_llm()
    request = (llm.prompt("a"), SamplingParams(temperature=1.0, max_tokens=50, seed=1))
    short = (llm.prompt("b"), SamplingParams(temperature=1.0, max_tokens=1, seed=1))
    coming = llm.as_they_end([request, short, request])
    next(coming)
    coming.close()
    engine = llm._engine._engine
    assert engine is not None
    assert engine.n_requests == 0
    assert engine.pool.n_free == engine.pool.n_blocks


def test_logprobs_of_a_text() -> None:
    model = ScriptedModel()
    llm = fake_llm(model)
    ids = ByteTokenizer().encode("some text", bos=True)
    found = llm.logprobs("some text")
    assert found[0] is None
    for i in range(1, len(ids)):
        expected = log_softmax(model.logits_after(ids[:i]))[ids[i]]
        assert found[i] == pytest.approx(expected, abs=1e-4)
    with pytest.raises(ContextTooLong):
        fake_llm(max_seq_len=20).logprobs("far more than twenty bytes of text")
