"""`params.json`: the sizes of the model, and what is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from checkpoints_tiny import tiny_config, write_meta
from codellama import checkpoint
from codellama.checkpoint.meta_params import config_from_params
from codellama.errors import ConfigError
from codellama.model.family import MEMBERS
from hostile import refusal

# What Meta's files say (but for the vocabulary, which they leave out).
PARAMS_7B = {"dim": 4096, "n_layers": 32, "n_heads": 32, "multiple_of": 256,
             "ffn_dim_multiplier": 1.0, "norm_eps": 1e-5, "rope_theta": 1000000}  # fmt: skip
PARAMS = {
    "7B": PARAMS_7B,
    "13B": PARAMS_7B | {"dim": 5120, "n_layers": 40, "n_heads": 40},
    "34B": PARAMS_7B | {"dim": 8192, "n_layers": 48, "n_heads": 64, "n_kv_heads": 8},
    "70B": PARAMS_7B
    | {"dim": 8192, "n_layers": 80, "n_heads": 64, "n_kv_heads": 8, "multiple_of": 4096,
       "ffn_dim_multiplier": 1.3},
}  # fmt: skip


def change_params(folder: Path, **changes: Any) -> None:
    path = folder / "params.json"
    params = json.loads(path.read_text())
    for key, value in changes.items():
        params.pop(key, None)
        if value is not ...:
            params[key] = value
    path.write_text(json.dumps(params))


@pytest.mark.parametrize("member", MEMBERS, ids=lambda m: m.name)
def test_params_json_gives_the_family_s_sizes(member: Any) -> None:
    params = dict(PARAMS[member.size])
    if member.config.rope_theta == 1e4:
        del params["rope_theta"]
    config, notes = config_from_params(params, "params.json", member.config.vocab_size)
    assert config == member.config
    assert any(f"context length {config.max_seq_len}" in note for note in notes)
    assert any(note.startswith("rotary base") for note in notes) == ("rope_theta" not in params)


def test_keys_that_are_absent_have_the_values_of_meta_s_code(tmp_path: Path) -> None:
    config = tiny_config(n_kv_heads=4, ffn_dim=256, rope_theta=1e4)
    folder = write_meta(tmp_path, config, tokenizer=False)
    change_params(folder, rope_theta=..., multiple_of=..., ffn_dim_multiplier=...)
    reader = checkpoint.open(folder)
    assert reader.config == tiny_config(n_kv_heads=4, ffn_dim=256, rope_theta=1e4, max_seq_len=4096)
    assert reader.notes[0].startswith("rotary base 10000: params.json gives none")
    assert reader.notes[1].startswith("context length 4096")
    change_params(folder, rope_theta=None, n_kv_heads=None, ffn_dim_multiplier=None, vocab_size=-1)
    assert checkpoint.open(folder).config == reader.config
    change_params(folder, vocab_size=config.vocab_size, use_scaled_rope=False)
    assert checkpoint.open(folder).config == reader.config


BIG = [1 << 31, 1 << 63, 10**19]
WRONG_PARAMS: list[tuple[str, Any]] = [
    *((key, value) for key in ("dim", "n_layers", "n_heads")
      for value in (..., None, 0, -1, 1.0, "2", True, [1], {}, *BIG)),
    *((key, value) for key in ("n_kv_heads", "multiple_of")
      for value in (0, -1, 1.5, "2", True, [], *BIG)),
    *(("ffn_dim_multiplier", value) for value in (0, -1, "1", True, [], 1e300, 1e3)),
    *(("norm_eps", value) for value in (..., None, 0, -1e-5, "1e-5", True, 1e300)),
    *(("rope_theta", value) for value in (0, -1, "10000", True, [], 1e300)),
    *(("vocab_size", value) for value in (0, -2, 321, "320", True, [], 1 << 63)),
    ("use_scaled_rope", True), ("use_scaled_rope", 1), ("quantization_args", {}),
    ("n_expert", 8), ("max_seq_len", 16384), ("", 1), ("dIm", 64),
    ("n_kv_heads", 3), ("n_heads", 3), ("n_heads", 5), ("n_heads", 64),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), WRONG_PARAMS, ids=lambda v: str(v)[:20])
def test_params_that_cannot_be_are_named(tmp_path: Path, key: str, value: Any) -> None:
    folder = write_meta(tmp_path, tokenizer=False)
    change_params(folder, **{key: value})
    text = refusal(folder, ConfigError)
    assert "params.json" in text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dim": 128}, "wrong shape"),
        ({"dim": 32, "n_heads": 2}, "wrong shape"),
        ({"n_layers": 1}, "that a 1-layer model does not"),
        ({"n_layers": 3}, "is missing 9 tensors of a 3-layer model"),
        ({"n_layers": 1 << 30}, "promises 1073741824 layers"),
        ({"n_heads": 8}, "wrong shape"),
        ({"n_kv_heads": 4}, "wrong shape"),
        ({"n_kv_heads": 1}, "wrong shape"),
        ({"multiple_of": 97}, "wrong shape"),
        ({"ffn_dim_multiplier": None}, "wrong shape"),
    ],
    ids=str,
)
def test_params_of_another_model_are_named(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    """Mixed sizes, and a feed-forward width that the rule gives and the weights do not have."""
    folder = write_meta(tmp_path, tokenizer=False)
    change_params(folder, **changes)
    assert words in refusal(folder)


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"{", b"1", b'{"dim": 1, "dim": 2}', b'{"dim": NaN}', b"\xff", b"{}x"]
)
def test_params_that_are_not_strict_json(smallest_meta: Path, text: bytes) -> None:
    (smallest_meta / "params.json").write_bytes(text)
    assert "params.json" in refusal(smallest_meta)


def test_params_json_is_needed_and_small(smallest_meta: Path) -> None:
    (smallest_meta / "params.json").write_text(" " * (1 << 20) + "{}")
    assert "at most" in refusal(smallest_meta)
    (smallest_meta / "params.json").unlink()
    assert "params.json" in refusal(smallest_meta)
