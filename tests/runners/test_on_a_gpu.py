"""Whole models on a GPU, by `make test-gpu`; elsewhere these are skipped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from checkpoints_tiny import tiny_config, tiny_weights, write_hf
from codellama import LLM, Completion, SamplingParams, checkpoint
from codellama.checkpoint.quantize import quantize
from codellama.engine.batch import Share, flatten
from codellama.errors import OutOfMemory
from codellama.runners import WEIGHT_KINDS, load_runner
from codellama.runners.sampling import to_array

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]

GREEDY = SamplingParams(temperature=0.0, max_tokens=40, ignore_eos=True, logprobs=2)
SAMPLED = SamplingParams(
    temperature=1.2, top_p=0.9, top_k=100, min_p=0.01, max_tokens=40, seed=23, ignore_eos=True
)
PENALISED = SamplingParams(
    temperature=0.8, max_tokens=40, seed=3, ignore_eos=True, repetition_penalty=1.2,
    presence_penalty=0.2, logit_bias={40: -100.0},
)  # fmt: skip
PROMPTS = [f"{'def print(self): return x ' * (i % 4)}for y in range({i})" for i in range(12)]


def said(completions: list[Completion]) -> list[Any]:
    return [(c.token_ids, c.finish_reason) for c in completions]


@pytest.mark.parametrize("params", [GREEDY, SAMPLED, PENALISED], ids=["greedy", "sampled", "pen."])
@pytest.mark.parametrize("speculation", ["lookup", "off"])
def test_replies_are_the_native_cores(
    hf_folder: Path, params: SamplingParams, speculation: Any
) -> None:
    """In float32, in which both compute nearly the same logits; twice, over a filled cache."""
    expected = said(LLM.load(hf_folder, n_threads=1).complete(PROMPTS, params))
    llm = LLM.load(hf_folder, device="cuda", weights="f32", speculation=speculation)
    for _ in range(2):
        assert said(llm.complete(PROMPTS, params)) == expected
    assert said([llm.complete(PROMPTS[3], params)]) == expected[3:4]


@pytest.mark.parametrize("kv_cache", [None, "q8_0", "fp8"])
@pytest.mark.parametrize("weights", [None, *WEIGHT_KINDS])
def test_any_numbers_are_near_the_reference(
    tmp_path: Path, weights: Any, kv_cache: str | None
) -> None:
    if weights == "fp8" and torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("this GPU has no matrix units for 8-bit floats")
    config = tiny_config(dim=256, ffn_dim=512, head_dim=64, n_heads=4, n_kv_heads=2)
    reader = checkpoint.open(write_hf(tmp_path, config, tiny_weights(config)))
    llm = LLM.load(tmp_path, device="cuda", weights=weights, kv_cache=kv_cache)
    runner: Any = llm._engine._engine._runner  # type: ignore[union-attr]
    reference = load_runner(reader, engine="torch", max_seq_len=256)
    chunks = [(Share(list(range(3, 73)), 0, [2, 0, 5, 1, 3], 1), Share([9, 8, 7], 0, [4], 1))]
    chunks += [(Share([7], 70, [2, 0, 5, 1, 3], 1), Share([6, 5], 3, [4], 2))]
    loose = weights == "int4"
    for shares in chunks:
        ours, theirs = (to_array(each.run(flatten(shares))) for each in (runner, reference))
        error = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
        assert error < (0.6 if loose else 0.15)


@pytest.mark.parametrize("mix", ["q4_k_m", "q5_0", "q8_0"])
def test_block_formats_are_multiplied_as_they_lie(tmp_path: Path, mix: str) -> None:
    config = tiny_config(dim=256, ffn_dim=512, head_dim=64)
    quantize(write_hf(tmp_path / "hf", config, tiny_weights(config)), tmp_path / "x.gguf", mix)
    ours, theirs = (
        LLM.load(tmp_path / "x.gguf", device=device, n_threads=1) for device in ("cuda", None)
    )
    first = [llm.complete("def f(x):", GREEDY).logprobs for llm in (ours, theirs)]
    assert first[0] is not None
    assert first[1] is not None
    assert abs(first[0][0].logprob - first[1][0].logprob) < 0.3


def test_a_long_prompt_in_chunks_and_behind_it(tmp_path: Path) -> None:
    config = tiny_config(max_seq_len=16384, n_layers=1)
    folder = write_hf(tmp_path, config, tiny_weights(config))
    ids = np.random.default_rng(6).integers(3, 300, 12000).tolist()
    ours = load_runner(
        checkpoint.open(folder), engine="torch", max_seq_len=16384, device="cuda", weights="f32"
    )
    theirs = load_runner(checkpoint.open(folder), max_seq_len=16384)
    blocks = list(range(1024))
    for first in range(0, 12000, 2048):
        shares = [Share(ids[first : first + 2048], first, blocks, 1)]
        a, b = (to_array(each.run(flatten(shares))) for each in (ours, theirs))
    np.testing.assert_allclose(a, b, rtol=0, atol=2e-3)
    after = [Share([5], 12000, blocks, 1)]
    a, b = (to_array(each.run(flatten(after))) for each in (ours, theirs))
    np.testing.assert_allclose(a, b, rtol=0, atol=2e-3)


def test_a_cache_that_does_not_fit_is_refused(hf_folder: Path) -> None:
    with pytest.raises(OutOfMemory, match="memory of cuda can be used for it"):
        LLM.load(hf_folder, device="cuda", max_seq_len=1 << 30)
