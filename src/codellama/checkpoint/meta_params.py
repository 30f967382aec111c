"""`params.json`, which holds the ingredients of a model's sizes.

Rules: `llama/model.py` of github.com/meta-llama/codellama, commit e81b597: its `ModelArgs` names
the keys, and a key that is absent has the value given there. The vocabulary is not in the file
(or is -1 there), so the embeddings' rows decide.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from codellama.checkpoint.files import quoted
from codellama.errors import ConfigError
from codellama.model.config import ModelConfig, ffn_dim_from_meta, placed

_KEYS = frozenset((
    "dim", "n_layers", "n_heads", "n_kv_heads", "multiple_of", "ffn_dim_multiplier", "norm_eps",
    "rope_theta", "vocab_size", "use_scaled_rope",
))  # fmt: skip
_DEFAULT_MULTIPLE = 256
_DEFAULT_THETA = 10_000.0
_LONG, _SHORT = 16_384, 4_096
_LIMIT = 1 << 31


def config_from_params(
    raw: Mapping[str, Any], where: str, vocab_size: int
) -> tuple[ModelConfig, tuple[str, ...]]:
    """The sizes of the model, and a sentence for each one that the file left open.

    `vocab_size` is what the embeddings have rows for.

    Raises:
        ConfigError: a key is unknown, missing or has an impossible value, or asks for something
            this architecture does not do.
    """
    unknown = sorted(raw.keys() - _KEYS)
    if unknown:
        raise ConfigError(
            f"{where}: has the unknown key {quoted(unknown[0])}, "
            f"and only {', '.join(sorted(_KEYS))} are known",
            hint="this may be a model of another family",
        )
    if raw.get("use_scaled_rope") not in (None, False):
        raise ConfigError(
            f"{where}: `use_scaled_rope` asks for scaled rotary positions, "
            "which Code Llama models do not use"
        )

    def size(key: str, default: int | None = None) -> int:
        value = raw.get(key)
        value = default if value is None else value
        if type(value) is not int or not 0 < value < _LIMIT:
            found = "missing" if value is None else quoted(value)
            raise ConfigError(f"{where}: `{key}` is {found}, expected a positive integer")
        return value

    def number(key: str, most: float = 1e12) -> float:
        value = raw.get(key)
        if type(value) not in (int, float) or not 0 < value < most:  # type: ignore[operator]  # a number by now
            found = "missing" if value is None else quoted(value)
            raise ConfigError(f"{where}: `{key}` is {found}, expected a positive number")
        return float(value)  # type: ignore[arg-type]  # narrowed by the check above

    promised = raw.get("vocab_size")
    if promised not in (None, -1) and promised != vocab_size:
        raise ConfigError(
            f"{where}: `vocab_size` is {quoted(promised)}, "
            f"and the embeddings have {vocab_size} rows"
        )
    dim, n_heads = size("dim"), size("n_heads")
    if dim % n_heads:
        raise ConfigError(f"{where}: {n_heads} heads cannot divide a `dim` of {dim} evenly")
    multiplier = None
    if raw.get("ffn_dim_multiplier") is not None:
        multiplier = number("ffn_dim_multiplier", most=1e3)
    notes = []
    if raw.get("rope_theta") is None:
        theta = _DEFAULT_THETA
        notes.append(
            f"rotary base {theta:.10g}: params.json gives none, and this is what Meta's own code "
            "then takes (Llama 2); files of Code Llama with long context say 1000000"
        )
    else:
        theta = number("rope_theta")
    max_seq_len = _LONG if theta > _DEFAULT_THETA else _SHORT
    notes.append(
        f"context length {max_seq_len}: params.json does not say; taken from the rotary base "
        f"{theta:.10g}, as for the released models"
    )
    with placed(where):
        config = ModelConfig(
            dim=dim,
            n_layers=size("n_layers"),
            n_heads=n_heads,
            n_kv_heads=size("n_kv_heads", n_heads),
            head_dim=dim // n_heads,
            ffn_dim=ffn_dim_from_meta(dim, size("multiple_of", _DEFAULT_MULTIPLE), multiplier),
            vocab_size=vocab_size,
            norm_eps=number("norm_eps"),
            rope_theta=theta,
            max_seq_len=max_seq_len,
        )
    return config, tuple(notes)
