"""The server over vLLM: the clients' own tests again, and replies equal to the reference's.

Needs vLLM, which `make test-vllm` installs into an environment of its own.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from started import Started, started, without_marks
from test_openai_client import (  # noqa: F401  # run again, over the `live` of this module
    client,
    test_async_streams_and_leaving_early,
    test_best_of_takes_the_likeliest,
    test_bias_and_stop_ids,
    test_chat_logprobs_parts_and_prefill,
    test_chat_whole_and_streamed,
    test_completions_with_a_suffix,
    test_logprobs_and_echo,
    test_mistakes_are_bad_requests,
    test_models,
    test_scoring_does_not_depend_on_what_is_generated,
    test_several_prompts_and_choices_keep_their_order,
    test_streams_join_to_the_whole,
)

from checkpoints_tiny import tiny_config, tiny_weights
from codellama import LLM, SamplingParams
from codellama.checkpoint.convert import convert
from codellama.checkpoint.hub import resolve
from codellama.checkpoint.reader import GenerationDefaults
from codellama.checkpoint.save import save_hf
from codellama.quant.formats import Format, Tensor
from tokenizers_at_hand import pair

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vLLM is not installed; use make test-vllm"
)

TEXTS = [
    "def fibonacci(n):", "import os\n", "class Stack:\n    def __init__(self):", "for i in range(",
    "# A binary search\n", "x = [", "def add(a, b):\n    return", "while True:\n", "try:\n    ",
    "print('hello", "from typing import", "def test_", "    if not", "async def", "@property\n",
    '"""Reads a file."""\n', "lambda x:", "with open(path) as", "é漢字😀 = ", "return self.",
]  # fmt: skip
OVER_VLLM = ("--engine", "vllm", "--max-num-seqs", "32", "--infill-order", "psm")
N_TOKENS = 200
MESSAGES = [
    {"role": "system", "content": "Answer briefly."},
    {"role": "user", "content": "Write a function that adds two numbers."},
    {"role": "assistant", "content": "def add(a, b):\n    return a + b"},
    {"role": "user", "content": "Now one that subtracts."},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """nano in float32, written by our writer."""
    found = tmp_path_factory.mktemp("vllm") / "nano"
    convert(resolve("nano"), found, dtype="F32")
    return found


@pytest.fixture(scope="module")
def live(folder: Path) -> Iterator[Started]:
    with started(f"codellama-nano={folder}", *OVER_VLLM) as found:
        yield found


@pytest.fixture(scope="module")
def reference(folder: Path) -> Iterator[LLM]:
    with LLM.load(folder, engine="torch", max_num_seqs=20) as found:
        yield found


def greedy(llm: LLM, max_tokens: int, **changes: Any) -> SamplingParams:
    """Greedy, without the markers that a server never lets a reply have."""
    biases = without_marks(llm)
    return SamplingParams(temperature=0, max_tokens=max_tokens, logit_bias=biases, **changes)


def drawn(live: Started, ids: tuple[int, ...]) -> list[tuple[int, float]]:
    """The ids that follow `ids` over HTTP, with their log-probabilities."""
    body = {"model": "", "prompt": list(ids), "max_tokens": N_TOKENS, "temperature": 0,
            "ignore_eos": True, "logprobs": 1, "return_token_ids": True}  # fmt: skip
    (choice,) = live.ask("POST", "/v1/completions", body)["choices"]
    return [(entry["id"], entry["logprob"]) for entry in choice["logprobs"]["content"]]


def test_greedy_ids_are_those_of_the_reference(live: Started, reference: LLM) -> None:
    assert len(TEXTS) == 20
    params = greedy(reference, N_TOKENS, ignore_eos=True, logprobs=1)
    for text, expected in zip(TEXTS, reference.complete(TEXTS, params), strict=True):
        found = drawn(live, reference.completion_ids(text))
        assert [token for token, _ in found] == list(expected.token_ids), text
        assert len(found) == N_TOKENS
        assert expected.logprobs is not None
        assert [logprob for _, logprob in found] == pytest.approx(
            [one.logprob for one in expected.logprobs], abs=1e-3
        )


def test_infilling_is_exact(live: Started, client: openai.OpenAI, reference: LLM) -> None:  # noqa: F811
    for prefix, suffix in (("def area(r):\n    return ", "\n\nprint(area(2))\n"), ("x = ", "\n"),
                           ("", "\nreturn x")):  # fmt: skip
        found = client.completions.create(
            model="", prompt=prefix, suffix=suffix, temperature=0, max_tokens=40
        )
        params = greedy(reference, 40)
        expected = reference.infill(prefix=prefix, suffix=suffix, params=params)
        assert found.choices[0].text == expected.text
        assert found.choices[0].finish_reason == expected.finish_reason
        assert found.usage is not None
        assert found.usage.prompt_tokens == expected.prompt_tokens


def check_chat(client: openai.OpenAI, reference: LLM) -> None:  # noqa: F811
    params = greedy(reference, 40)
    for messages in (MESSAGES, MESSAGES[1:2], MESSAGES[:2]):
        found = client.chat.completions.create(
            model="", messages=messages, temperature=0, max_tokens=40
        )  # type: ignore[call-overload]  # plain dictionaries
        expected = reference.chat(messages, params)
        assert found.choices[0].message.content == expected.text
        assert found.usage.prompt_tokens == expected.prompt_tokens


def test_chat_in_turns_of_inst_is_exact(client: openai.OpenAI, reference: LLM) -> None:  # noqa: F811
    assert reference.chat_form == "inst"
    check_chat(client, reference)


def test_chat_in_turns_of_step_is_exact(tmp_path: Path) -> None:
    tokenizer = pair("small-step").tokenizer
    config = tiny_config(vocab_size=tokenizer.n_vocab, dim=128, n_heads=4, n_kv_heads=2,
                         head_dim=32, ffn_dim=256, max_seq_len=512)  # fmt: skip
    tensors = [
        (name, Tensor(Format.F32, x.shape, x.reshape(-1).view("u1")))
        for name, x in tiny_weights(config).items()
    ]
    folder = tmp_path / "step"
    save_hf(folder, config, tensors, tokenizer, chat_form="step",
            generation=GenerationDefaults(bos_id=1, eos_ids=(2,)))  # fmt: skip
    with (
        LLM.load(folder, engine="torch") as reference,
        started(f"codellama-step={folder}", *OVER_VLLM, "--max-seq-len", "256") as live,
        openai.OpenAI(base_url=f"{live.url}/v1", api_key="none") as client,  # noqa: F811
    ):
        assert reference.chat_form == "step"
        check_chat(client, reference)


def test_the_same_seed_is_the_same_reply(client: openai.OpenAI) -> None:  # noqa: F811
    body = {"model": "", "prompt": "def f(", "temperature": 1.0, "max_tokens": 20}
    one, again, other = (
        client.completions.create(**body, seed=seed).choices[0].text for seed in (5, 5, 6)
    )
    assert one == again != other


def test_stop_strings_and_penalties(client: openai.OpenAI, reference: LLM) -> None:  # noqa: F811
    for changes in ({"stop": ["\n\n"]}, {"presence_penalty": 1.5, "frequency_penalty": 0.5}):
        found = client.completions.create(
            model="", prompt="def add(a, b):", temperature=0, max_tokens=60, **changes
        )
        params = greedy(reference, 60, **changes)
        expected = reference.complete("def add(a, b):", params)
        assert found.choices[0].text == expected.text
        assert found.choices[0].finish_reason == expected.finish_reason


def test_what_vllm_does_not_do_is_refused(client: openai.OpenAI) -> None:  # noqa: F811
    with pytest.raises(openai.BadRequestError, match="cannot follow a format"):
        client.chat.completions.create(
            model="", messages=[{"role": "user", "content": "x"}],
            response_format={"type": "json_object"},
        )  # fmt: skip
