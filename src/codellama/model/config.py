"""The sizes of a model and their arithmetic."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from codellama.errors import ConfigError

_LIMIT = 1 << 31
_UNPLACED = "model config: "  # of sizes that no file gave


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Sizes of one Llama-architecture decoder. Every number comes from the checkpoint.

    Raises:
        ConfigError: a size is out of range or two sizes contradict each other.
    """

    dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    ffn_dim: int
    vocab_size: int
    norm_eps: float
    rope_theta: float
    max_seq_len: int
    tie_embeddings: bool = False

    def __post_init__(self) -> None:
        for name in ("dim", "n_layers", "n_heads", "n_kv_heads", "head_dim", "ffn_dim",
                     "vocab_size", "max_seq_len"):  # fmt: skip
            value = getattr(self, name)
            if type(value) is not int or not 0 < value < _LIMIT:
                raise ConfigError(f"{_UNPLACED}`{name}` is {value!r}, not a positive integer")
        for name in ("norm_eps", "rope_theta"):
            value = getattr(self, name)
            if type(value) is not float or not math.isfinite(value) or value <= 0:
                raise ConfigError(f"{_UNPLACED}`{name}` is {value!r}, not a positive number")
        if self.n_heads % self.n_kv_heads:
            raise ConfigError(
                f"{_UNPLACED}{self.n_heads} query heads cannot share "
                f"{self.n_kv_heads} key/value heads evenly"
            )
        if self.head_dim % 2:
            raise ConfigError(
                f"{_UNPLACED}head_dim {self.head_dim} is odd, but rotary positions turn pairs"
            )

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Every parameter's name and (out, in) shape, in file order."""
        q, kv = self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim
        shapes: dict[str, tuple[int, ...]] = {"embed_tokens.weight": (self.vocab_size, self.dim)}
        for i in range(self.n_layers):
            p = f"layers.{i}."
            shapes |= {
                p + "input_layernorm.weight": (self.dim,),
                p + "self_attn.q_proj.weight": (q, self.dim),
                p + "self_attn.k_proj.weight": (kv, self.dim),
                p + "self_attn.v_proj.weight": (kv, self.dim),
                p + "self_attn.o_proj.weight": (self.dim, q),
                p + "post_attention_layernorm.weight": (self.dim,),
                p + "mlp.gate_proj.weight": (self.ffn_dim, self.dim),
                p + "mlp.up_proj.weight": (self.ffn_dim, self.dim),
                p + "mlp.down_proj.weight": (self.dim, self.ffn_dim),
            }
        shapes["norm.weight"] = (self.dim,)
        if not self.tie_embeddings:
            shapes["lm_head.weight"] = (self.vocab_size, self.dim)
        return shapes

    @property
    def n_params(self) -> int:
        """Number of parameters; a tied embedding is counted once."""
        return sum(math.prod(shape) for shape in self.tensor_shapes().values())

    def kv_bytes_per_token(self, bytes_per_value: int) -> int:
        """Bytes of key/value cache for one token over all layers."""
        return 2 * self.n_layers * self.n_kv_heads * self.head_dim * bytes_per_value

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any], where: str = "config.json") -> ModelConfig:
        """Reads a Hugging Face `config.json` object of model type `llama`.

        Raises:
            ConfigError: the file asks for something this architecture does not do, or leaves out a
                size that has no safe default.
        """
        if raw.get("model_type") != "llama":
            raise ConfigError(
                f"{where}: model_type is {raw.get('model_type')!r}, and only 'llama' is supported"
            )
        honoured: dict[str, tuple[Any, ...]] = {
            "hidden_act": ("silu", None),
            "attention_bias": (False, None),
            "mlp_bias": (False, None),
        }
        for key, allowed in honoured.items():
            if raw.get(key) not in allowed:
                raise ConfigError(f"{where}: `{key}` = {raw[key]!r} is not supported")
        rope_theta = _rope_theta(raw, where)

        def size(key: str, default: int | None = None) -> int:
            value = raw.get(key, default)
            if value is None:
                value = default
            if type(value) is not int:
                found = "missing" if key not in raw else repr(raw[key])
                raise ConfigError(f"{where}: `{key}` is {found}, expected an integer")
            return value

        def number(key: str) -> float:
            value = raw.get(key)
            if type(value) not in (int, float):
                found = "missing" if key not in raw else repr(raw[key])
                raise ConfigError(f"{where}: `{key}` is {found}, expected a number")
            return float(value)  # type: ignore[arg-type]  # narrowed by the check above

        tied = raw.get("tie_word_embeddings", False)
        if type(tied) is not bool:
            raise ConfigError(f"{where}: `tie_word_embeddings` is {tied!r}, expected true or false")
        dim, n_heads = size("hidden_size"), size("num_attention_heads")
        if n_heads <= 0:
            raise ConfigError(f"{where}: `num_attention_heads` is {n_heads}")
        if raw.get("head_dim") is None and dim % n_heads:
            raise ConfigError(f"{where}: hidden_size {dim} is not divisible by {n_heads} heads")
        with placed(where):
            return cls(
                dim=dim,
                n_layers=size("num_hidden_layers"),
                n_heads=n_heads,
                n_kv_heads=size("num_key_value_heads", n_heads),
                head_dim=size("head_dim", dim // n_heads),
                ffn_dim=size("intermediate_size"),
                vocab_size=size("vocab_size"),
                norm_eps=number("rms_norm_eps"),
                rope_theta=rope_theta,
                max_seq_len=size("max_position_embeddings"),
                tie_embeddings=tied,
            )

    def to_hf(self) -> dict[str, Any]:
        """The `config.json` object that `transformers` and vLLM read back as this model.

        The rope base is written in both places where versions of `transformers` look for it.
        """
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.dim,
            "num_hidden_layers": self.n_layers,
            "num_attention_heads": self.n_heads,
            "num_key_value_heads": self.n_kv_heads,
            "head_dim": self.head_dim,
            "intermediate_size": self.ffn_dim,
            "vocab_size": self.vocab_size,
            "rms_norm_eps": self.norm_eps,
            "rope_theta": self.rope_theta,
            "rope_parameters": {"rope_type": "default", "rope_theta": self.rope_theta},
            "max_position_embeddings": self.max_seq_len,
            "tie_word_embeddings": self.tie_embeddings,
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
            "initializer_range": 0.02,
            "bos_token_id": 1,
            "eos_token_id": 2,
        }


@contextmanager
def placed(where: str) -> Iterator[None]:
    """Says `where` the sizes are from of which a `ModelConfig` made in the block complains."""
    try:
        yield
    except ConfigError as error:
        message = str(error)
        if not message.startswith(_UNPLACED):
            raise
        raise ConfigError(f"{where}: {message.removeprefix(_UNPLACED)}") from error


def ffn_dim_from_meta(dim: int, multiple_of: int, multiplier: float | None) -> int:
    """Meta's rule for the feed-forward width (`params.json` gives its ingredients only)."""
    width = int(2 * (4 * dim) / 3)
    if multiplier is not None:
        width = int(multiplier * width)
    return multiple_of * ((width + multiple_of - 1) // multiple_of)


def _rope_theta(raw: Mapping[str, Any], where: str) -> float:
    """The rotary base, from the old place (`rope_theta`) or the new one (`rope_parameters`)."""
    scaling = raw.get("rope_scaling")
    parameters = raw.get("rope_parameters")
    theta = raw.get("rope_theta")
    for key, block in (("rope_scaling", scaling), ("rope_parameters", parameters)):
        if block is None:
            continue
        if not isinstance(block, Mapping):
            raise ConfigError(f"{where}: `{key}` is {block!r}, expected an object")
        kind = block.get("rope_type", block.get("type", "default"))
        if kind != "default":
            raise ConfigError(
                f"{where}: `{key}` asks for {kind!r} scaling, which Code Llama models do not use"
            )
        inner = block.get("rope_theta")
        if inner is not None and theta is not None and inner != theta:
            raise ConfigError(
                f"{where}: the rotary base is {theta!r} in `rope_theta` and {inner!r} in `{key}`"
            )
        theta = inner if theta is None else theta
    if type(theta) not in (int, float):
        raise ConfigError(
            f"{where}: `rope_theta` is {'missing' if theta is None else repr(theta)}",
            hint="Llama 2 uses 10000 and Code Llama 1000000; the file must say which",
        )
    return float(theta)  # type: ignore[arg-type]  # narrowed by the check above
