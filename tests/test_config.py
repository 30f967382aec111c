"""`ModelConfig`: what it reads, and what it refuses by name."""

from __future__ import annotations

import pytest
from transformers import LlamaConfig

from codellama.errors import ConfigError
from codellama.model.config import ModelConfig

SMALL = ModelConfig(
    dim=64, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=16, ffn_dim=96, vocab_size=300,
    norm_eps=1e-5, rope_theta=1e6, max_seq_len=256, tie_embeddings=True,
)  # fmt: skip


def test_hf_round_trip() -> None:
    assert ModelConfig.from_hf(SMALL.to_hf()) == SMALL


def test_transformers_reads_what_we_write_and_we_read_what_it_writes() -> None:
    raw = SMALL.to_hf()
    theirs = LlamaConfig.from_dict(raw)
    assert theirs.rope_parameters["rope_theta"] == 1e6
    assert ModelConfig.from_hf(theirs.to_dict()) == SMALL


def test_old_files_without_kv_heads_or_head_dim() -> None:
    raw = {k: v for k, v in SMALL.to_hf().items() if k not in ("num_key_value_heads", "head_dim")}
    config = ModelConfig.from_hf(raw)
    assert (config.n_kv_heads, config.head_dim) == (4, 16)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "mistral"}, "mistral"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"attention_bias": True}, "attention_bias"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"rope_scaling": {"type": "linear", "factor": 4.0}}, "linear"),
        ({"rope_scaling": "yes"}, "rope_scaling"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6}}, "yarn"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}, "rotary base"),
        ({"rope_theta": None, "rope_parameters": None}, "rope_theta"),
        ({"rope_theta": float("nan"), "rope_parameters": None}, "rope_theta"),
        ({"hidden_size": "64"}, "hidden_size"),
        ({"hidden_size": -64}, "dim"),
        ({"hidden_size": 65, "head_dim": None}, "65"),
        ({"num_attention_heads": 0}, "num_attention_heads"),
        ({"num_key_value_heads": 3}, "evenly"),
        ({"head_dim": 15}, "odd"),
        ({"vocab_size": 0}, "vocab_size"),
        ({"vocab_size": 1 << 40}, "vocab_size"),
        ({"rms_norm_eps": 0}, "norm_eps"),
        ({"rms_norm_eps": None}, "rms_norm_eps"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings"),
        ({"num_hidden_layers": True}, "num_hidden_layers"),
    ],
)
def test_refusals_name_the_key(change: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        ModelConfig.from_hf({**SMALL.to_hf(), **change})


@pytest.mark.parametrize("key", ["hidden_size", "vocab_size", "max_position_embeddings"])
def test_a_missing_size_is_said(key: str) -> None:
    raw = SMALL.to_hf()
    del raw[key]
    with pytest.raises(ConfigError, match=f"`{key}` is missing"):
        ModelConfig.from_hf(raw)
