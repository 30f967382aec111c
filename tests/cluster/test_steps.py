"""The seam to engines that give out tokens by themselves, over one that says what it is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import openai
import pytest
from harness import running, until

from checkpoints_tiny import TINY
from codellama.cluster.ranking import beginning, ranked
from codellama.cluster.replicas import ReplicaSource, unseen
from codellama.cluster.steps import AsyncSteps, Drawn, EngineGone, LoopThread
from codellama.cluster.vllm import (
    RemoteSizes,
    VllmSource,
    arguments,
    check,
    drawing,
    spans_machines,
)
from codellama.engine.completion import TokenLogprob
from codellama.engine.loading import Model
from codellama.engine.params import SamplingParams
from codellama.engine.plan import EnginePlan
from codellama.engine.prompts import Prompt
from codellama.errors import ConfigError
from codellama.server.served import Served
from codellama.server.settings import Settings
from codellama.text.tokenizer import Tokenizer
from fakes import ByteTokenizer

PLAN = EnginePlan(max_seq_len=64, n_blocks=64, max_num_seqs=4, speculation="off")
EOS = 2


def ids(text: str) -> tuple[int, ...]:
    return tuple(3 + byte for byte in text.encode())


class Llm:
    """As `AsyncLLM`: says `script` token by token, then goes on with letters."""

    def __init__(self, script: str = "", *, stop_at: int | None = None) -> None:
        self.script = ids(script)
        self.stop_at = stop_at
        self.errored = False
        self.asked: list[tuple[dict[str, Any], Any]] = []
        self.n_closed = 0
        self.failure: BaseException | None = None
        self.hang_at: int | None = None

    async def generate(
        self, prompt: Any, params: Any, request_id: str
    ) -> AsyncGenerator[Any, None]:
        self.asked.append((prompt, params))
        try:
            for i in range(params.max_tokens):
                if i == self.hang_at:
                    await asyncio.Event().wait()
                if self.failure is not None:
                    raise self.failure
                token = self.script[i] if i < len(self.script) else 3 + ord("a") + i % 26
                if i == self.stop_at:
                    token = EOS
                ended = token in params.stop_token_ids
                yield output(token, is_last=ended or i + 1 == params.max_tokens)
                if ended:
                    return
        finally:
            self.n_closed += 1


def output(token: int, *, is_last: bool) -> Any:
    tops = {
        token: SimpleNamespace(logprob=-0.5, rank=1),
        7: SimpleNamespace(logprob=-1.5, rank=2),
        8: SimpleNamespace(logprob=-2.5, rank=3),
    }
    return SimpleNamespace(
        outputs=[SimpleNamespace(token_ids=[token], logprobs=[tops])],
        finished=is_last, num_cached_tokens=5, prompt_logprobs=None,
    )  # fmt: skip


@contextmanager
def over(llm: Llm) -> Iterator[AsyncSteps]:
    thread = LoopThread("test")
    never = {259: -100.0}
    source = VllmSource(llm, lambda **keywords: SimpleNamespace(**keywords), never)
    try:
        yield AsyncSteps(source, thread.loop, cast(Tokenizer, ByteTokenizer()), PLAN, n_ids=264)
    finally:
        thread.close()


def whole(steps: AsyncSteps, prompt: Prompt, params: SamplingParams, **keywords: Any) -> Any:
    """The completion; its pieces must join to it."""
    request_id = steps.add(prompt, params, **keywords)
    pieces = []
    while steps.n_requests:
        pieces += [out.piece for out in steps.step() if out.request_id == request_id]
    found = pieces[-1].completion
    assert [p.completion for p in pieces[:-1]] == [None] * (len(pieces) - 1)
    assert "".join(p.text for p in pieces) == found.text
    assert sum((p.token_ids for p in pieces), ()) == found.token_ids
    return found


PROMPT = Prompt(ids=(1, *ids("x")), stop_ids=frozenset((EOS,)), bare=True)


def test_text_ids_and_reasons() -> None:
    with over(Llm("é😀 hello")) as steps:
        found = whole(steps, PROMPT, SamplingParams(max_tokens=12, logprobs=2))
        assert (found.text, found.finish_reason) == ("é😀 hello", "length")
        assert found.token_ids == ids("é😀 hello")
        assert found.logprobs[0].top == ((found.token_ids[0], -0.5), (7, -1.5))
        assert (found.prompt_tokens, found.cached_tokens) == (2, 5)


def test_ends_are_ours() -> None:
    llm = Llm("one two three four", stop_at=15)
    with over(llm) as steps:
        found = whole(steps, PROMPT, SamplingParams(max_tokens=40))
        assert (found.text, found.finish_reason) == ("one two three f", "stop")
        assert EOS not in found.token_ids
        found = whole(steps, PROMPT, SamplingParams(max_tokens=40, stop=[" thr"]))
        assert (found.text, found.finish_reason) == ("one two", "stop")
        assert found.stop_string == " thr"
        found = whole(steps, PROMPT, SamplingParams(max_tokens=17, ignore_eos=True))
        assert found.finish_reason == "length"
        assert len(found.token_ids) == 17
        found = whole(steps, PROMPT, SamplingParams(max_tokens=None, ignore_eos=True))
        assert len(found.token_ids) == PLAN.max_seq_len - 2
    until(lambda: llm.n_closed == 4)


def test_an_abort_frees_the_source() -> None:
    llm = Llm()
    with over(llm) as steps:
        llm.hang_at = 3
        request_id = steps.add(PROMPT, SamplingParams(max_tokens=30))
        while not steps.step():
            pass
        ended = steps.abort(request_id)
        assert ended is not None
        assert ended.piece.completion is not None
        assert ended.piece.completion.finish_reason == "abort"
        until(lambda: llm.n_closed == 1)
        assert steps.abort(request_id) is None
        assert steps.n_requests == 0
        assert steps.step() == []
        assert steps.cache_usage == 0


def test_a_failed_request_ends_alone_and_a_dead_engine_ends_all() -> None:
    llm = Llm()
    with over(llm) as steps:
        llm.failure = ValueError("no such thing")
        found = whole(steps, PROMPT, SamplingParams(max_tokens=5))
        assert (found.finish_reason, found.error) == ("error", "ValueError: no such thing")
        llm.errored = True
        steps.add(PROMPT, SamplingParams(max_tokens=5))
        with pytest.raises(EngineGone, match="vLLM has ended: ValueError"):
            until(steps.step)


def test_a_reply_that_breaks_off_ends_as_an_error() -> None:
    class Short:
        async def draw(self, *arguments: Any, **keywords: Any) -> AsyncGenerator[Drawn]:
            yield Drawn(ids=ids("ab"))

    thread = LoopThread("test")
    try:
        steps = AsyncSteps(cast(Any, Short()), thread.loop, cast(Tokenizer, ByteTokenizer()), PLAN,
                           n_ids=264)  # fmt: skip
        found = whole(steps, PROMPT, SamplingParams(max_tokens=9))
    finally:
        thread.close()
    assert (found.text, found.finish_reason) == ("ab", "error")


def test_parameters_as_vllm_has_them() -> None:
    params = SamplingParams(
        temperature=0.7, top_p=0.0, top_k=None, min_p=0.1, repetition_penalty=1.1,
        presence_penalty=0.5, frequency_penalty=-0.5, logit_bias={9: 3.0}, logprobs=4,
        stop=["x"],
    )  # fmt: skip
    found = drawing(params, frozenset((2, 5)), 7, (1 << 64) - 1, {259: -100.0, 9: -100.0})
    assert found.pop("top_p") > 0
    assert found == {
        "temperature": 0.7, "top_k": 0, "min_p": 0.1, "repetition_penalty": 1.1,
        "presence_penalty": 0.5, "frequency_penalty": -0.5, "max_tokens": 7,
        "seed": (1 << 63) - 1, "logit_bias": {9: 3.0, 259: -100.0}, "logprobs": 4,
        "stop_token_ids": [2, 5], "ignore_eos": True, "detokenize": False,
    }  # fmt: skip


def test_keys_do_not_share_a_cache() -> None:
    llm = Llm()
    with over(llm) as steps:
        for scope in (b"", b"one", b"two"):
            whole(steps, PROMPT, SamplingParams(max_tokens=2), scope=scope)
    salts = [prompt.get("cache_salt") for prompt, _ in llm.asked]
    assert salts[0] is None
    assert len(set(salts)) == 3
    assert all(prompt["prompt_token_ids"] == list(PROMPT.ids) for prompt, _ in llm.asked)


def test_the_server_runs_over_it() -> None:
    llm = Llm("hello world")
    with over(llm) as steps:
        model = Model(
            runner=RemoteSizes(TINY, 64, 16), tokenizer=cast(Tokenizer, ByteTokenizer()),
            plan=PLAN, eos_ids=(EOS,), chat_form="inst",
        )  # fmt: skip

        def served(found: Served) -> None:
            found.service.engine = steps

        with (
            running(("codellama-test", model), wrap=served) as server,
            openai.OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0) as client,
        ):
            found = client.completions.create(model="", prompt="x", max_tokens=5, n=2)
            assert [c.text for c in found.choices] == ["hello", "hello"]
            stream = client.completions.create(model="", prompt="x", max_tokens=11, stream=True)
            assert "".join(c.choices[0].text for c in stream) == "hello world"
            with pytest.raises(openai.BadRequestError, match="cannot follow a format"):
                client.chat.completions.create(
                    model="", messages=[{"role": "user", "content": "x"}], max_tokens=2,
                    response_format={"type": "json_object"},
                )  # fmt: skip
            with pytest.raises(openai.BadRequestError, match="context"):
                client.completions.create(model="", prompt="x" * 100, max_tokens=5)


def test_settings_of_our_own_engine_are_refused() -> None:
    for changes, words in (
        ({"threads": 2}, "--threads"),
        ({"kv_cache": "f16"}, "--kv-cache"),
        ({"draft_model": "nano"}, "--draft-model"),
        ({"adapters": {"a": "b"}}, "--lora"),
        ({"models": {"a": "nano", "b": "nano"}}, "serves one model"),
    ):
        with pytest.raises(ConfigError) as refusal:
            check(Settings(engine="vllm", **changes))  # type: ignore[arg-type]
        assert words in str(refusal.value) + str(refusal.value.hint)
    with pytest.raises(ConfigError, match="tensor_parallel is for the engine vllm"):
        Settings(tensor_parallel=2)


def test_arguments_never_ask_for_a_tokenizer() -> None:
    from pathlib import Path

    settings = Settings(engine="vllm", tensor_parallel=4)
    found = arguments(Path("/m"), settings, 4096, "float32")
    assert found["skip_tokenizer_init"] is True
    assert found["generation_config"] == "vllm"
    assert found["dtype"] == "float32"
    assert (found["tensor_parallel_size"], found["max_model_len"]) == (4, 4096)


def test_an_engine_larger_than_a_machine_is_spread_by_ray() -> None:
    settings = Settings(engine="vllm", tensor_parallel=8, pipeline_parallel=2)
    assert spans_machines(settings, 8)
    assert not spans_machines(settings, 16)


class Lost(Exception):
    """A replica died."""


class Handle:
    """As a handle of Ray Serve's: replicas die after so many tokens, one after another."""

    def __init__(self, script: Callable[[int], int], deaths: list[int]) -> None:
        self.script = script
        self.deaths = deaths
        self.keys: list[bytes] = []

    def options(self, **keywords: Any) -> Handle:
        return self

    @property
    def draw(self) -> Any:
        return SimpleNamespace(remote=self._draw)

    def _draw(self, prompt: Prompt, params: SamplingParams, **keywords: Any) -> Any:
        self.keys.append(keywords["route_key"])
        death = self.deaths.pop(0) if self.deaths else None

        class Response:
            async def __aiter__(response) -> Any:
                for i in range(0, params.max_tokens or 0, 2):  # two tokens at a time
                    if death is not None and i >= death:
                        raise Lost
                    yield Drawn(ids=(self.script(i), self.script(i + 1)),
                                logprobs=(TokenLogprob(token_id=1, logprob=float(i)),) * 2,
                                is_last=i + 2 >= (params.max_tokens or 0))  # fmt: skip

            def cancel(response) -> None:
                pass

        return Response()


async def drawn(handle: Handle, n: int) -> list[int]:
    source = ReplicaSource(handle, (Lost,))
    params = SamplingParams(logprobs=0)
    found: list[int] = []
    lasts = 0
    async for one in source.draw("1", PROMPT, params, max_tokens=n, seed=1, scope=b"k"):
        found += one.ids
        assert one.logprobs is not None
        assert len(one.logprobs) == len(one.ids)
        lasts += one.is_last
    assert lasts == 1
    return found


@pytest.mark.parametrize("deaths", [[], [0], [4], [10, 6, 2], [10, 10, 18]])
def test_a_lost_replica_loses_and_doubles_nothing(
    deaths: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("codellama.cluster.replicas._PAUSE_S", 0.001)
    handle = Handle(lambda i: 100 + i, list(deaths))
    assert asyncio.run(drawn(handle, 20)) == [100 + i for i in range(20)]
    assert len(handle.keys) == 1 + len(deaths)


def test_a_reply_that_cannot_be_repeated_is_not_mixed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codellama.cluster.replicas._PAUSE_S", 0.001)
    handle = Handle(lambda i: 100 + i, [6])

    def other(i: int) -> int:
        return 100 + i if handle.deaths or len(handle.keys) == 1 else 200 + i

    handle.script = other
    with pytest.raises(RuntimeError, match="cannot be drawn again"):
        asyncio.run(drawn(handle, 20))


def test_a_reply_that_ends_early_the_second_time_is_not_the_same() -> None:
    with pytest.raises(RuntimeError, match="cannot be drawn again"):
        unseen(Drawn(ids=(1, 2), is_last=True), [1, 2, 3], 3)
    rest, skip = unseen(Drawn(ids=(1, 2, 3), is_last=True), [1, 2, 3], 3)
    assert (rest.ids, rest.is_last, skip) == ((), True, 0)


def test_no_replica_at_all_is_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codellama.cluster.replicas._PAUSE_S", 0.001)
    with pytest.raises(EngineGone, match="no replica"):
        asyncio.run(drawn(Handle(lambda i: i, [0] * 20), 4))


def test_passing_over_in_the_middle_of_what_came() -> None:
    given = [1, 2, 3]
    rest, skip = unseen(Drawn(ids=(1, 2)), given, 3)
    assert (rest.ids, skip) == ((), 1)
    rest, skip = unseen(Drawn(ids=(3, 4, 5)), given, skip)
    assert (rest.ids, skip) == ((4, 5), 0)
    rest, skip = unseen(Drawn(ids=(6,)), [*given, 4, 5], skip)
    assert (rest.ids, skip) == ((6,), 0)


def test_prompts_with_a_common_beginning_go_the_same_way() -> None:
    names = [f"replica-{i}" for i in range(8)]
    common = list(range(64))
    keys = [beginning([*common, i]) for i in range(50)]
    assert len(set(keys)) == 1
    assert beginning(common, b"a") != beginning(common, b"b")
    many = [beginning([i] * 70) for i in range(4000)]
    first = [ranked(key, names)[0] for key in many]
    for name in names:  # evenly
        assert 0.8 < first.count(name) / 500 < 1.2
    for key, before in zip(many, first, strict=True):  # only the prompts of a lost one move
        after = ranked(key, names[1:])[0]
        assert after == before or before == names[0]
