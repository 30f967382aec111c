"""OpenAI's own Python client, unchanged: sync, async, streams, errors, retries."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import openai
import pytest
from harness import Running, running, scripted, until

from codellama import SamplingParams
from codellama.engine.prompts import Prompt
from codellama.server.settings import Limits, Settings
from fakes import ScriptedModel

KEY = "k" * 40
GREEDY = {"temperature": 0, "max_tokens": 8}


@pytest.fixture(scope="module")
def client(live: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="none") as found:
        yield found


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["codellama-nano"]
    assert client.models.retrieve("codellama-nano").id == "codellama-nano"


def test_completions_with_a_suffix(client: openai.OpenAI) -> None:
    found = client.completions.create(
        model="codellama-nano", prompt="def area(r):\n    return ", suffix="\n", **GREEDY
    )
    assert found.choices[0].finish_reason in ("stop", "length")
    assert found.usage is not None
    plain = client.completions.create(
        model="codellama-nano", prompt="def area(r):\n    return ", **GREEDY
    )
    assert plain.usage is not None
    assert plain.usage.prompt_tokens < found.usage.prompt_tokens  # markers and the suffix


def test_several_prompts_and_choices_keep_their_order(client: openai.OpenAI) -> None:
    prompts = [f"x{i} = " for i in range(4)]
    together = client.completions.create(model="", prompt=prompts, n=2, seed=5, max_tokens=4)
    assert [choice.index for choice in together.choices] == list(range(8))
    for i, prompt in enumerate(prompts):
        alone = client.completions.create(model="", prompt=prompt, n=2, seed=5, max_tokens=4)
        assert [c.text for c in alone.choices] == [
            c.text for c in together.choices[2 * i : 2 * i + 2]
        ]


def test_logprobs_and_echo(client: openai.OpenAI) -> None:
    prompt = "def add(a, b):\n    return"
    found = client.completions.create(model="", prompt=prompt, logprobs=3, echo=True, **GREEDY)
    (choice,) = found.choices
    assert choice.text.startswith(prompt)
    lp = choice.logprobs
    assert lp is not None
    assert lp.tokens is not None
    assert lp.token_logprobs is not None
    assert lp.top_logprobs is not None
    assert found.usage is not None
    n = found.usage.prompt_tokens + found.usage.completion_tokens
    assert len(lp.tokens) == len(lp.token_logprobs) == len(lp.top_logprobs) == n
    assert lp.token_logprobs[0] is None
    for token, own, top in list(zip(lp.tokens, lp.token_logprobs, lp.top_logprobs, strict=True))[
        1:
    ]:
        assert top[token] >= own
        assert own <= max(top.values())
    # Greedy replies are recognised by an exact comparison.
    first = found.usage.prompt_tokens
    for own, top in zip(lp.token_logprobs[first:], lp.top_logprobs[first:], strict=True):
        assert own == max(top.values())


def test_scoring_does_not_depend_on_what_is_generated(client: openai.OpenAI) -> None:
    """The first token's log-probability is the same as a prompt's token and as a reply's."""
    first = client.completions.create(model="", prompt="def add(a, b):", logprobs=1, **GREEDY)
    lp = first.choices[0].logprobs
    assert lp is not None
    text = "def add(a, b):" + first.choices[0].text
    again = client.completions.create(model="", prompt=text, logprobs=1, echo=True, max_tokens=0)
    echoed = again.choices[0].logprobs
    assert echoed is not None
    assert lp.token_logprobs is not None
    assert echoed.token_logprobs is not None
    if echoed.tokens[-8:] == lp.tokens:
        assert echoed.token_logprobs[-8:] == pytest.approx(lp.token_logprobs, abs=1e-5)


def test_chat_whole_and_streamed(client: openai.OpenAI) -> None:
    messages = [{"role": "user", "content": "Write a function."}]
    whole = client.chat.completions.create(model="", messages=messages, **GREEDY)
    stream = client.chat.completions.create(
        model="", messages=messages, stream=True, stream_options={"include_usage": True}, **GREEDY
    )
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].usage == whole.usage


def test_chat_logprobs_parts_and_prefill(client: openai.OpenAI) -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "Write a function."}]}]
    found = client.chat.completions.create(
        model="", messages=messages, logprobs=True, top_logprobs=2, **GREEDY
    )
    lp = found.choices[0].logprobs
    assert lp is not None
    assert lp.content is not None
    assert len(lp.content) == 8
    assert all(len(entry.top_logprobs) == 2 for entry in lp.content)
    begun = [*messages, {"role": "assistant", "content": "def add("}]
    assert client.chat.completions.create(model="", messages=begun, **GREEDY).choices
    with pytest.raises(openai.BadRequestError, match=r"messages\.0\.content"):
        client.chat.completions.create(
            model="",
            messages=[{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}],
        )


def test_streams_join_to_the_whole(client: openai.OpenAI) -> None:
    body = {"model": "", "prompt": "def f(", "n": 3, "seed": 9, "max_tokens": 12, "logprobs": 1}
    whole = client.completions.create(**body)
    texts, tokens = ["", "", ""], [0, 0, 0]
    for chunk in client.completions.create(**body, stream=True):
        choice = chunk.choices[0]
        texts[choice.index] += choice.text
        tokens[choice.index] += len(choice.logprobs.tokens)
    assert texts == [choice.text for choice in whole.choices]
    assert tokens == [len(choice.logprobs.tokens) for choice in whole.choices]


def test_best_of_takes_the_likeliest(client: openai.OpenAI) -> None:
    body = {"model": "", "prompt": "def f(", "seed": 4, "max_tokens": 6, "temperature": 1.5}
    every = client.completions.create(**body, n=4, logprobs=1)
    means = {c.text: sum(c.logprobs.token_logprobs) / len(c.logprobs.tokens)
             for c in every.choices}  # fmt: skip
    best = client.completions.create(**body, best_of=4)
    assert best.choices[0].text == max(means, key=lambda text: means[text])


def test_bias_and_stop_ids(client: openai.OpenAI) -> None:
    text = client.completions.create(
        model="", prompt="def f(", logit_bias={"7": 100}, temperature=0, max_tokens=4
    ).choices[0].text  # fmt: skip
    assert text == client.completions.create(
        model="", prompt="def f(", logit_bias={"7": 100}, temperature=0, max_tokens=4
    ).choices[0].text  # fmt: skip
    stopped = client.completions.create(
        model="", prompt="def f(", logit_bias={"7": 100}, temperature=0, max_tokens=4,
        extra_body={"stop_token_ids": [7]},
    )  # fmt: skip
    assert stopped.choices[0].text == ""
    assert stopped.choices[0].finish_reason == "stop"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"prompt": "x", "suffix": "y", "echo": True}, "suffix"),
        ({"prompt": "x", "n": 9}, "n"),
        ({"prompt": "x", "max_tokens": 0, "stream": True}, "no reply"),
        ({"prompt": "x", "max_tokens": 0, "stream": True, "echo": True}, "no reply"),
        ({"prompt": "x", "max_tokens": 100_000}, "100000"),
        ({"prompt": "x " * 5000}, "loaded to keep"),
        ({"prompt": "x", "extra_body": {"min_tokens": 3}}, "min_tokens"),
        ({"prompt": [1, 99_999]}, "99999"),
        ({"prompt": "x", "logit_bias": {"a": 1}}, "logit_bias"),
        ({"prompt": "x", "best_of": 3, "stream": True}, "best_of"),
    ],
)
def test_mistakes_are_bad_requests(client: openai.OpenAI, body: dict, words: str) -> None:
    with pytest.raises(openai.BadRequestError, match=words):
        client.completions.create(model="", **body)


def test_wrong_keys_and_models_have_their_exceptions() -> None:
    settings = Settings(strict_models=True)
    with (
        running(scripted(), keys=(KEY,), settings=settings) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY) as right,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="wrong") as wrong,
    ):
        assert right.completions.create(model="", prompt="x").choices
        with pytest.raises(openai.AuthenticationError):
            wrong.completions.create(model="", prompt="x")
        with pytest.raises(openai.NotFoundError):
            right.completions.create(model="nobody", prompt="x")


def test_a_full_server_is_tried_again() -> None:
    """The client's own retries succeed where a place becomes free."""
    settings = Settings(limits=Limits(waiting=1))
    model = scripted(ScriptedModel(n_blocks=512, script=lambda t: 70), max_num_seqs=1)
    with (
        running(model, settings=settings) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0) as hasty,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="x") as patient,
    ):
        service = server.served.service
        prompt = Prompt(ids=(1, 70), stop_ids=frozenset(), bare=True)
        params = SamplingParams(max_tokens=400)
        long = [server.on_loop(lambda: service.submit([prompt], params, 1)) for _ in range(2)]
        with pytest.raises(openai.RateLimitError) as refusal:
            hasty.completions.create(model="", prompt="x", max_tokens=1)
        assert 1 <= int(refusal.value.response.headers["retry-after"]) <= 60
        for generation in long:
            server.on_loop(generation.cancel)
        assert patient.completions.create(model="", prompt="x", max_tokens=1).choices


def test_async_streams_and_leaving_early(live: Running) -> None:
    async def main() -> None:
        async with openai.AsyncOpenAI(base_url=f"{live.url}/v1", api_key="none") as client:
            found = await asyncio.gather(
                *(
                    client.completions.create(model="", prompt=f"def f{i}(", **GREEDY)
                    for i in range(8)
                )
            )
            assert all(one.choices[0].text for one in found)
            stream = await client.completions.create(
                model="", prompt="x", max_tokens=400, stream=True,
                extra_body={"ignore_eos": True},
            )  # fmt: skip
            async for _ in stream:
                break
            await stream.close()

    asyncio.run(main())
    until(live.is_idle)


def test_an_error_in_a_stream_raises() -> None:
    letter = 3 + ord("!")
    model = ScriptedModel(n_blocks=64, fail_on=letter,
                          script=lambda t: 70 if len(t) < 20 else letter)  # fmt: skip
    with (
        running(scripted(model)) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0) as client,
    ):
        stream = client.completions.create(model="", prompt="x", max_tokens=90, stream=True)
        with pytest.raises(openai.APIError, match="could not be computed"):
            list(stream)
        with pytest.raises(openai.InternalServerError):
            client.completions.create(model="", prompt="x", max_tokens=90)
