"""Law 15: native core = torch model = the published implementation, from every file format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from checkpoints_tiny import tiny_config, tiny_weights, write_gguf, write_hf, write_meta
from codellama import checkpoint
from codellama.model.config import ModelConfig
from codellama.runners import Batch, Runner, load_runner

N_PROMPT, N_NEW = 30, 200

CONFIGS = {
    "mha, theta 1e4": tiny_config(n_kv_heads=4, rope_theta=1e4),
    "gqa, theta 1e6": tiny_config(n_kv_heads=2, rope_theta=1e6),
    "one kv head, wide heads": tiny_config(
        dim=128, n_kv_heads=1, n_heads=2, head_dim=64, n_layers=3
    ),
    "32000 pieces": tiny_config(vocab_size=32000, n_kv_heads=4, dim=32, head_dim=8),
    "32016 pieces": tiny_config(vocab_size=32016, dim=32, head_dim=8, ffn_dim=160),
}
WRITERS = {"hf": write_hf, "meta": write_meta, "gguf": write_gguf}
ENGINES = ("cpu", "torch")


def write(folder: Path, kind: str, config: ModelConfig) -> Path:
    path = folder / ("model.gguf" if kind == "gguf" else kind)
    return WRITERS[kind](path, config, tiny_weights(config))


def whole(tokens: list[int], first: int, logit_rows: list[int]) -> Batch:
    """A batch of one sequence: `tokens` from position `first` on, blocks in reverse order."""
    n, end = len(tokens), first + len(tokens)
    table = np.arange(16, dtype=np.int32)[::-1].copy()
    return Batch(
        tokens=np.array(tokens, np.int32),
        positions=np.arange(first, end, dtype=np.int32),
        seq_starts=np.array([0, n], np.int32),
        context_lens=np.array([end], np.int32),
        block_tables=table[None],
        logit_rows=np.array(logit_rows, np.int32),
    )


def greedy(runner: Runner, prompt: list[int]) -> list[int]:
    ids = [int(runner.run(whole(prompt, 0, [len(prompt) - 1]))[0].argmax())]
    while len(ids) < N_NEW:
        logits = runner.run(whole(ids[-1:], len(prompt) + len(ids) - 1, [0]))
        ids.append(int(logits[0].argmax()))
    return ids


@pytest.fixture(scope="module", params=CONFIGS, ids=lambda name: name.replace(" ", "_"))
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """A configuration, a prompt, and what the published implementation makes of them."""
    config = CONFIGS[request.param]
    folder = tmp_path_factory.mktemp("case")
    oracle = AutoModelForCausalLM.from_pretrained(
        write_hf(folder / "oracle", config, tiny_weights(config), tokenizer=False),
        dtype=torch.float32,
    )
    prompt = np.random.default_rng(5).integers(3, config.vocab_size, N_PROMPT).tolist()
    with torch.inference_mode():
        ids = torch.tensor([prompt])
        logits = oracle(ids).logits[0].numpy()
        out = oracle.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=N_NEW,
            min_new_tokens=N_NEW,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
    return config, prompt, logits, out[0, N_PROMPT:].tolist(), folder


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("engine", ENGINES)
def test_logits_and_greedy_ids_equal_transformers(case, kind: str, engine: str) -> None:
    config, prompt, logits, ids, folder = case
    reader = checkpoint.open(write(folder / f"{engine}-{kind}", kind, config))
    runner = load_runner(reader, engine=engine, max_seq_len=256, n_blocks=16)
    ours = runner.run(whole(prompt, 0, list(range(N_PROMPT))))
    np.testing.assert_allclose(ours, logits, rtol=0, atol=1e-4)
    assert greedy(runner, prompt) == ids


def test_both_engines_agree_at_far_positions(tmp_path: Path) -> None:
    """Rotary angles at 16,000 positions leave little room for another order of operations."""
    config = tiny_config(max_seq_len=16384, n_layers=1)
    reader = checkpoint.open(write_hf(tmp_path, config, tiny_weights(config)))
    tokens = np.random.default_rng(6).integers(3, config.vocab_size, 16300).astype(np.int32)
    logits = []
    for engine in ENGINES:
        runner = load_runner(reader, engine=engine, max_seq_len=16384, n_blocks=1024)
        for first in range(0, len(tokens), 2048):
            part = tokens[first : first + 2048]
            batch = Batch(
                tokens=part,
                positions=np.arange(first, first + len(part), dtype=np.int32),
                seq_starts=np.array([0, len(part)], np.int32),
                context_lens=np.array([first + len(part)], np.int32),
                block_tables=np.arange(1024, dtype=np.int32)[None],
                logit_rows=np.array([len(part) - 1], np.int32),
            )
            last = runner.run(batch)
        logits.append(last)
    np.testing.assert_allclose(logits[0], logits[1], rtol=0, atol=1e-4)
