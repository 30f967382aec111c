"""A GGUF file's metadata as the sizes of a model.

Every key of the architecture is accounted for: it gives a size, or has the one value that changes
nothing, or the file is refused. Keys of other sections are for people and for the tokenizer.
Names: `docs/gguf.md` of github.com/ggml-org/ggml and the keys of the `gguf` package.
"""

from __future__ import annotations

from collections.abc import Mapping

from codellama.checkpoint.files import quoted
from codellama.checkpoint.gguf_header import Value
from codellama.errors import CheckpointError, ConfigError
from codellama.model.config import ModelConfig, placed

_ARCHITECTURE = "llama"
_SIZES = frozenset((
    "context_length", "embedding_length", "block_count", "feed_forward_length", "vocab_size",
    "attention.head_count", "attention.head_count_kv", "attention.key_length",
    "attention.value_length", "attention.layer_norm_rms_epsilon", "rope.dimension_count",
    "rope.freq_base",
))  # fmt: skip
_NEUTRAL: dict[str, tuple[Value, ...]] = {
    "attention.causal": (True,),
    "expert_count": (0,),
    "expert_used_count": (0,),
    "logit_scale": (1.0,),
    "rope.scale_linear": (1.0,),
    "rope.scaling.type": ("none",),
    "rope.scaling.factor": (0.0, 1.0),
    "rope.scaling.attn_factor": (1.0,),
    "rope.scaling.finetuned": (False,),
    "use_parallel_residual": (False,),
}
_WITHOUT_MEANING = frozenset(("tensor_data_layout", "rope.scaling.original_context_length"))


def check_architecture(metadata: Mapping[str, Value], where: str) -> None:
    """Whether this is a whole model of the one architecture there is.

    Raises:
        ConfigError: it is another architecture.
        CheckpointError: the file is one part of several.
    """
    found = metadata.get("general.architecture")
    if found != _ARCHITECTURE:
        raise ConfigError(
            f"{where}: `general.architecture` is {'missing' if found is None else quoted(found)}, "
            f"and only {_ARCHITECTURE!r} is supported"
        )
    n_files = metadata.get("split.count", 1)
    if n_files not in (0, 1):
        raise CheckpointError(
            f"{where}: is one of {quoted(n_files)} files of a model",
            hint="join them first with llama.cpp: llama-gguf-split --merge FIRST DST",
        )


def config_from_metadata(
    metadata: Mapping[str, Value], where: str, *, vocab_size: int, tied: bool
) -> ModelConfig:
    """The sizes of the model; `vocab_size` is what the embeddings have rows for.

    Raises:
        ConfigError: a size is missing (the rotary base among them) or impossible, or the file
            asks for something this architecture does not do.
    """
    _refuse_unknown(metadata, where)

    def at(key: str) -> Value | None:
        return metadata.get(f"{_ARCHITECTURE}.{key}")

    def size(key: str, default: int | None = None) -> int:
        value = at(key)
        value = default if value is None else value
        if type(value) is not int:
            raise ConfigError(
                f"{where}: `{_ARCHITECTURE}.{key}` is "
                f"{'missing' if value is None else quoted(value)}, expected a whole number"
            )
        return value

    def number(key: str, hint: str | None = None) -> float:
        value = at(key)
        if type(value) not in (int, float):
            found = "missing" if value is None else quoted(value)
            raise ConfigError(
                f"{where}: `{_ARCHITECTURE}.{key}` is {found}, expected a number", hint=hint
            )
        return float(value)  # type: ignore[arg-type]  # narrowed by the check above

    dim, n_heads = size("embedding_length"), size("attention.head_count")
    if at("attention.key_length") is None and (n_heads <= 0 or dim % n_heads):
        raise ConfigError(f"{where}: {n_heads} heads cannot divide {dim} dimensions evenly")
    head_dim = size("attention.key_length", dim // n_heads if n_heads > 0 else 0)
    for key in ("attention.value_length", "rope.dimension_count"):
        if size(key, head_dim) != head_dim:
            raise ConfigError(
                f"{where}: `{_ARCHITECTURE}.{key}` is {size(key)}, and heads have {head_dim} "
                "dimensions, all of which Code Llama models turn and read"
            )
    if size("vocab_size", vocab_size) != vocab_size:
        raise ConfigError(
            f"{where}: `{_ARCHITECTURE}.vocab_size` is {size('vocab_size')}, "
            f"and the embeddings have {vocab_size} rows"
        )
    theta = number("rope.freq_base", "Llama 2 uses 10000 and Code Llama 1000000; the file must say")
    with placed(where):
        return ModelConfig(
            dim=dim,
            n_layers=size("block_count"),
            n_heads=n_heads,
            n_kv_heads=size("attention.head_count_kv", n_heads),
            head_dim=head_dim,
            ffn_dim=size("feed_forward_length"),
            vocab_size=vocab_size,
            norm_eps=number("attention.layer_norm_rms_epsilon"),
            rope_theta=theta,
            max_seq_len=size("context_length"),
            tie_embeddings=tied,
        )


def _refuse_unknown(metadata: Mapping[str, Value], where: str) -> None:
    for key, value in metadata.items():
        name = key.removeprefix(f"{_ARCHITECTURE}.")
        if name == key or name in _SIZES or name in _WITHOUT_MEANING:
            continue
        if value not in _NEUTRAL.get(name, ()):
            raise ConfigError(
                f"{where}: {quoted(key)} is {quoted(value)}, "
                "which asks for something this architecture does not do"
            )
