"""`config.json`: sizes that cannot be, what the architecture does not do, and damage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from checkpoints_tiny import set_json
from codellama import checkpoint
from codellama.errors import CodeLlamaError
from hostile import flipped, refusal

SIZES = ["hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
         "head_dim", "intermediate_size", "vocab_size", "max_position_embeddings"]  # fmt: skip
NUMBERS = ["rms_norm_eps", "rope_theta"]


@pytest.mark.parametrize("value", [0, -1, 2**31, 2**63, "2", 1.5, True, [], {}, [2]], ids=str)
@pytest.mark.parametrize("key", SIZES)
def test_a_size_that_cannot_be(smallest_hf: Path, key: str, value: Any) -> None:
    set_json(smallest_hf / "config.json", **{key: value})
    refusal(smallest_hf, CodeLlamaError)


@pytest.mark.parametrize("value", [0, -1, 0.0, -1e-5, "1", True, [], {}], ids=str)
@pytest.mark.parametrize("key", NUMBERS)
def test_a_number_that_cannot_be(smallest_hf: Path, key: str, value: Any) -> None:
    set_json(smallest_hf / "config.json", **{key: value})
    text = refusal(smallest_hf, CodeLlamaError)
    assert key.split("_")[-1] in text or "rotary base" in text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "mistral"}, "model_type"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"attention_bias": True}, "attention_bias"),
        ({"quantization_config": {"quant_method": "gptq"}}, "gptq"),
        ({"quantization_config": "x"}, "quantised"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2}}, "yarn"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings"),
    ],
    ids=str,
)
def test_what_the_architecture_does_not_do(smallest_hf: Path, change: dict, words: str) -> None:
    set_json(smallest_hf / "config.json", **change)
    assert words in refusal(smallest_hf, CodeLlamaError)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("[]", "not a JSON object"),
        ("null", "not a JSON object"),
        ("{", "not JSON"),
        ('{"vocab_size": 3, "vocab_size": 4}', "twice"),
        ('{"rms_norm_eps": NaN}', "not finite"),
        ('{"rope_theta": 1e400}', "not finite"),
        ('{"hidden_size": 1' + "0" * 400 + "}", "too long"),
        ('{"a":' * 40 + "1" + "}" * 40, "deeper"),
        ("<!DOCTYPE html><html></html>", "web page"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "Git LFS pointer"),
    ],
    ids=lambda v: v[:20],
)
def test_a_configuration_that_is_not_strict_json(smallest_hf: Path, text: str, words: str) -> None:
    (smallest_hf / "config.json").write_text(text)
    assert words in refusal(smallest_hf, CodeLlamaError)


def test_a_missing_configuration_is_named(smallest_hf: Path) -> None:
    (smallest_hf / "config.json").unlink()
    assert "config.json: there is no such file" in refusal(smallest_hf, CodeLlamaError)


def test_any_configuration_bit_flipped_leaves_the_tensors_alone(smallest_hf: Path) -> None:
    """Only numbers that no tensor's shape confirms can change without a refusal."""
    path = smallest_hf / "config.json"
    config = checkpoint.open(smallest_hf).config
    unconfirmed = {"norm_eps", "max_seq_len"}
    for bit in range(0, 8 * path.stat().st_size, 3):
        with flipped(path, bit):
            try:
                found = checkpoint.open(smallest_hf).config
            except CodeLlamaError:
                continue
        changed = {name for name, value in vars(config).items() if getattr(found, name) != value}
        assert changed <= unconfirmed, f"bit {bit}"


def test_code_in_a_model_folder_is_reported_and_not_run(smallest_hf: Path) -> None:
    set_json(smallest_hf / "config.json", auto_map={"AutoModelForCausalLM": "evil.Model"})
    (smallest_hf / "evil.py").write_text("raise SystemExit('ran')")
    (note,) = checkpoint.open(smallest_hf).notes
    assert "`auto_map`" in note
