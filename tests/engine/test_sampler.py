"""Rows and their sequences: each is drawn with its own parameters, by either kernel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codellama import SamplingParams
from codellama.engine.blocks import Content
from codellama.engine.reply import Reply
from codellama.engine.sampler import Sampler, kernel_for, native_kernel, seed_of
from codellama.engine.sequence import Sequence
from codellama.runners.sampling import SamplingKernel
from engine_bodies import runner_of
from fakes import ByteTokenizer, ReferenceKernel

VOCAB = 200


def sequence(request_id: int, tokens: list[int], n_prompt: int, **fields: Any) -> Sequence:
    params = SamplingParams(**fields)
    made = Sequence(
        request_id=request_id, prompt_ids=tokens[:n_prompt], stop_ids=frozenset(), params=params,
        seed=params.seed or 0, max_len=1000, scope=Content.root(b""),
        reply=Reply(ByteTokenizer().stream_decoder(bare=True), (), with_logprobs=False),
    )  # fmt: skip
    made.tokens.extend(tokens[n_prompt:])
    return made


def logits(n: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(seed).normal(0, 2, (n, VOCAB)).astype(np.float32)


CROWD = [
    {"temperature": 0.0},
    {"temperature": 0.0, "repetition_penalty": 1.7},
    {"temperature": 0.0, "presence_penalty": 1.5, "frequency_penalty": 0.5},
    {"temperature": 0.0, "logit_bias": {7: 5.0, 3: 6.0, 199: -100.0}},
    {"temperature": 0.0, "repetition_penalty": 0.5, "logit_bias": {9: 3.0}, "logprobs": 2},
    {"temperature": 2.0, "top_k": 1},
    {"temperature": 2.0, "top_p": 0.0, "frequency_penalty": -2.0},
    {"temperature": 2.0, "min_p": 1.0, "presence_penalty": -2.0, "logprobs": 5},
]


@pytest.fixture(params=["native", "reference"])
def kernel(request: pytest.FixtureRequest) -> SamplingKernel:
    return native_kernel() if request.param == "native" else ReferenceKernel()


def test_a_runner_draws_with_its_threads_what_one_thread_draws(hf_folder: Path) -> None:
    kernel = kernel_for(runner_of("native", hf_folder, n_blocks=16))
    assert kernel is not native_kernel()
    rng = np.random.default_rng(1)
    sequences = [
        sequence(i, rng.integers(0, VOCAB, 9).tolist(), 4, temperature=1.5, seed=i, top_p=0.9,
                 logprobs=i % 3)
        for i in range(100)
    ]  # fmt: skip
    rows = logits(len(sequences))
    rows[7, 3] = np.nan
    drawn = [repr(Sampler(one, VOCAB).draw(rows, sequences)) for one in (kernel, native_kernel())]
    assert drawn[0] == drawn[1]


def crowd(rng: np.random.Generator) -> list[Sequence]:
    return [
        sequence(i, rng.integers(0, VOCAB, 12).tolist(), int(rng.integers(1, 12)), **fields)
        for i, fields in enumerate(CROWD)
    ]


@pytest.mark.parametrize("seed", range(20))
def test_both_kernels_draw_the_same_where_chance_has_no_say(seed: int) -> None:
    sequences = crowd(np.random.default_rng(seed))
    rows = logits(len(sequences), seed)
    native = Sampler(native_kernel(), VOCAB).draw(rows, sequences)
    reference = Sampler(ReferenceKernel(), VOCAB).draw(rows, sequences)
    assert [d.token_id for d in native] == [d.token_id for d in reference]
    assert [d.logprob for d in native] == pytest.approx([d.logprob for d in reference], abs=1e-5)
    assert [[i for i, _ in d.top] for d in native] == [[i for i, _ in d.top] for d in reference]
    assert [len(d.top) for d in native] == [fields.get("logprobs", 0) for fields in CROWD]
    tops = [value for d in native for _, value in d.top]
    assert tops == pytest.approx([value for d in reference for _, value in d.top], abs=1e-5)


@pytest.mark.parametrize("seed", range(10))
def test_a_row_is_drawn_as_if_alone(kernel: SamplingKernel, seed: int) -> None:
    rng = np.random.default_rng(seed)
    sequences = crowd(rng) + [
        sequence(100 + i, rng.integers(0, VOCAB, 9).tolist(), 4, temperature=1.5, seed=i,
                 repetition_penalty=1.1 if i % 2 else 1.0)
        for i in range(8)
    ]  # fmt: skip
    rows = logits(len(sequences), seed)
    together = Sampler(kernel, VOCAB).draw(rows, sequences)
    alone = [Sampler(kernel, VOCAB).draw(rows[i : i + 1], [s])[0] for i, s in enumerate(sequences)]
    assert together == alone
    order = rng.permutation(len(sequences))
    mixed = Sampler(kernel, VOCAB).draw(rows[order], [sequences[i] for i in order])
    assert mixed == [together[i] for i in order]


def test_a_sampler_follows_its_sequences_from_step_to_step(kernel: SamplingKernel) -> None:
    sampler = Sampler(kernel, VOCAB)
    one = sequence(1, [5], 1, temperature=1.5, seed=1)
    two = sequence(2, [5], 1, temperature=1.5, seed=2, repetition_penalty=1.5)
    rows = logits(2)
    drawn = []
    for together in ([one, two], [one, two], [two], [two, one], [one]):
        found = sampler.draw(rows[: len(together)], together)
        fresh = Sampler(kernel, VOCAB).draw(rows[: len(together)], together)
        assert found == fresh
        for member, draw in zip(together, found, strict=True):
            member.tokens.append(draw.token_id)
            drawn.append(draw.token_id)
    assert len(set(drawn)) > 2


def test_draws_depend_on_seed_and_count(kernel: SamplingKernel) -> None:
    rows = np.zeros((1, VOCAB), np.float32)

    def drawn(seed: int, n_generated: int) -> int:
        made = sequence(0, [1] * (1 + n_generated), 1, temperature=1.0, top_p=1.0, seed=seed)
        return Sampler(kernel, VOCAB).draw(rows, [made])[0].token_id

    assert drawn(3, 4) == drawn(3, 4)
    assert len({drawn(3, n) for n in range(50)}) > 25
    assert len({drawn(seed, 0) for seed in range(50)}) > 25
    assert drawn(2**64 - 1, 0) in range(VOCAB)


def test_padded_rows_are_cut_to_the_vocabulary(kernel: SamplingKernel) -> None:
    rows = logits(3)
    rows[:, 150:] += 100
    sequences = [sequence(i, [1], 1, temperature=0.0, logprobs=20) for i in range(3)]
    for draw in Sampler(kernel, 150).draw(rows, sequences):
        assert draw.token_id < 150
        assert max(token for token, _ in draw.top) < 150
        assert np.exp([value for _, value in draw.top]).sum() <= 1 + 1e-5
        assert draw.logprob == draw.top[0][1]


def test_a_row_of_no_numbers_hurts_nobody_else(kernel: SamplingKernel) -> None:
    rows = logits(3)
    rows[1, 7] = np.nan
    sequences = [sequence(i, [1], 1, temperature=0.0) for i in range(3)]
    found = Sampler(kernel, VOCAB).draw(rows, sequences)
    assert found[1].token_id == -1
    assert [found[0].token_id, found[2].token_id] == rows[[0, 2]].argmax(1).tolist()


def test_more_alternatives_than_tokens(kernel: SamplingKernel) -> None:
    rows = logits(1)[:, :5].copy()
    draw = Sampler(kernel, 5).draw(rows, [sequence(0, [1], 1, logprobs=20, top_k=100)])[0]
    assert len(draw.top) == 5


def test_seeds_of_several_replies() -> None:
    assert seed_of(5, 0) == 5
    seeds = {seed_of(base, i) for base in (0, 1, 2**64 - 1) for i in range(200)}
    assert len(seeds) == 600
    assert all(0 <= seed < 2**64 for seed in seeds)


def test_penalties_count_what_they_should(kernel: SamplingKernel) -> None:
    rows = np.zeros((1, VOCAB), np.float32)
    rows[0, [3, 4, 5]] = 1.0, 1.5, 0.5

    def likeliest(**penalty: float) -> int:
        made = sequence(0, [3, 3, 4], 2, temperature=0.0, **penalty)
        return Sampler(kernel, VOCAB).draw(rows, [made])[0].token_id

    assert likeliest() == 4
    # Presence and frequency: the reply, which is the 4, and not the prompt, which is the 3s.
    assert likeliest(presence_penalty=1.0) == 3
    assert likeliest(frequency_penalty=1.0) == 3
    # Repetition: prompt and reply.
    assert likeliest(repetition_penalty=10.0) == 5
