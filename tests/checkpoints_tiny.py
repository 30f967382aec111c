"""Tiny random models, written as the three checkpoint formats by other people's libraries."""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codellama.model.config import ModelConfig

Weights = dict[str, NDArray[np.float32]]

TINY = ModelConfig(
    dim=64,
    n_layers=2,
    n_heads=4,
    n_kv_heads=2,
    head_dim=16,
    ffn_dim=96,
    vocab_size=320,
    norm_eps=1e-5,
    rope_theta=1e6,
    max_seq_len=256,
)
MARKERS = ("▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>")

_TORCH_WORDS = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def tiny_config(**changes: Any) -> ModelConfig:
    return replace(TINY, **changes)


def tiny_weights(config: ModelConfig = TINY, seed: int = 0) -> Weights:
    """Normal weights by our names, large enough that each of them matters to the logits.

    All are small multiples of 1/256 or 1/128, which F16 and BF16 hold exactly.
    """
    rng = np.random.default_rng(seed)
    weights = {}
    for name, shape in config.tensor_shapes().items():
        if len(shape) == 1:
            x = 1 + np.clip(np.rint(rng.normal(0, 16, shape)), -63, 63) / 128
        else:
            x = np.clip(np.rint(rng.normal(0, 24, shape)), -127, 127) / 256
        weights[name] = x.astype(np.float32)
    return weights


@functools.cache
def tiny_sentencepiece(vocab_size: int = 320, *, infill: bool = True) -> bytes:
    """A SentencePiece BPE model with byte fallback, and the infilling markers if asked for."""
    import sentencepiece

    rng = np.random.default_rng(1)
    words = [
        "def",
        "return",
        "import",
        "self",
        "for",
        "in",
        "print",
        "range",
        "x",
        "y",
        "=",
        "(",
        ")",
    ]
    text = [" ".join(rng.choice(words, 8)) for _ in range(200)]
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text),
        model_writer=out,
        model_type="bpe",
        vocab_size=vocab_size - (len(MARKERS) if infill else 0),
        byte_fallback=True,
        split_digits=True,
        hard_vocab_limit=False,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        pad_id=-1,
        minloglevel=2,
    )
    from sentencepiece import sentencepiece_model_pb2 as pb

    model = pb.ModelProto.FromString(out.getvalue())
    # Meta's own file adds the markers as ordinary pieces behind the others, with low scores.
    low = min(piece.score for piece in model.pieces)
    for marker in MARKERS if infill else ():
        low -= 1
        model.pieces.add(piece=marker, score=low)
    return model.SerializeToString()


def hf_name(name: str) -> str:
    return name if name.startswith("lm_head") else f"model.{name}"


def write_safetensors(
    path: Path, weights: Mapping[str, NDArray[np.float32]], dtype: str = "F32"
) -> None:
    """Names are written as they are, by the safetensors library."""
    import torch
    from safetensors.torch import save_file

    to = getattr(torch, _TORCH_WORDS[dtype])
    tensors = {name: torch.from_numpy(x.copy()).to(to) for name, x in weights.items()}
    save_file(tensors, path, {"format": "pt"})


def write_hf(
    folder: Path,
    config: ModelConfig = TINY,
    weights: Weights | None = None,
    *,
    dtype: str = "F32",
    n_shards: int = 1,
    tokenizer: bool = True,
    **config_json: Any,
) -> Path:
    """A Hugging Face folder; `config_json` overrides keys of config.json."""
    weights = tiny_weights(config) if weights is None else weights
    folder.mkdir(parents=True, exist_ok=True)
    named = {hf_name(name): x for name, x in weights.items()}
    if n_shards == 1:
        write_safetensors(folder / "model.safetensors", named, dtype)
    else:
        names = list(named)
        weight_map, total = {}, 0
        for i in range(n_shards):
            file = f"model-{i + 1:05d}-of-{n_shards:05d}.safetensors"
            part = {name: named[name] for name in names[i::n_shards]}
            write_safetensors(folder / file, part, dtype)
            weight_map |= dict.fromkeys(part, file)
            total += sum(x.size for x in part.values()) * (4 if dtype == "F32" else 2)
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        write_json(folder / "model.safetensors.index.json", index)
    write_json(folder / "config.json", config.to_hf() | config_json)
    if tokenizer:
        (folder / "tokenizer.model").write_bytes(tiny_sentencepiece(config.vocab_size))
    return folder


def write_meta(
    folder: Path,
    config: ModelConfig = TINY,
    weights: Weights | None = None,
    *,
    dtype: str = "BF16",
    n_shards: int = 1,
    tokenizer: bool = True,
    **params_json: Any,
) -> Path:
    """A folder as Meta released: params.json and consolidated.*.pth, written by torch.save."""
    import torch

    weights = tiny_weights(config) if weights is None else weights
    folder.mkdir(parents=True, exist_ok=True)
    torch_dtype = getattr(torch, _TORCH_WORDS[dtype])
    shards: list[dict[str, Any]] = [{} for _ in range(n_shards)]
    for name, x in weights.items():
        meta, axis = _meta_name_and_axis(name)
        x = _meta_rows(name, x, config)
        parts = [x] * n_shards if axis is None else np.split(x, n_shards, axis)
        for shard, part in zip(shards, parts, strict=True):
            shard[meta] = torch.from_numpy(part.copy()).to(torch_dtype)
    for i, shard in enumerate(shards):
        torch.save(shard, folder / f"consolidated.{i:02d}.pth")
    params: dict[str, Any] = {
        "dim": config.dim,
        "n_layers": config.n_layers,
        "n_heads": config.n_heads,
        # Whatever the width, a multiple of itself with the right multiplier gives it.
        "multiple_of": config.ffn_dim,
        "ffn_dim_multiplier": config.ffn_dim / int(8 * config.dim / 3),
        "norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
    }
    if config.n_kv_heads != config.n_heads:
        params["n_kv_heads"] = config.n_kv_heads
    write_json(folder / "params.json", params | params_json)
    if tokenizer:
        (folder / "tokenizer.model").write_bytes(tiny_sentencepiece(config.vocab_size))
    return folder


def write_gguf(
    path: Path, config: ModelConfig = TINY, weights: Weights | None = None, *, dtype: str = "F32"
) -> Path:
    """A GGUF file of `dtype` (vectors stay F32, as converters leave them), by the gguf package."""
    import gguf
    from sentencepiece import sentencepiece_model_pb2 as pb

    weights = tiny_weights(config) if weights is None else weights
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(config.max_seq_len)
    writer.add_embedding_length(config.dim)
    writer.add_block_count(config.n_layers)
    writer.add_feed_forward_length(config.ffn_dim)
    writer.add_head_count(config.n_heads)
    writer.add_head_count_kv(config.n_kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_vocab_size(config.vocab_size)
    pieces = pb.ModelProto.FromString(tiny_sentencepiece(config.vocab_size)).pieces
    writer.add_tokenizer_model("llama")
    writer.add_token_list([piece.piece for piece in pieces])
    writer.add_token_scores([piece.score for piece in pieces])
    writer.add_token_types([piece.type for piece in pieces])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_space_prefix(True)
    for name, x in weights.items():
        kind = gguf.GGMLQuantizationType[dtype if x.ndim > 1 else "F32"]
        data = gguf.quantize(np.ascontiguousarray(_meta_rows(name, x, config)), kind)
        writer.add_tensor(_gguf_name(name), data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2))


def set_json(path: Path, **changes: Any) -> None:
    write_json(path, json.loads(path.read_text()) | changes)


_META = {
    "self_attn.q_proj": ("attention.wq", 0),
    "self_attn.k_proj": ("attention.wk", 0),
    "self_attn.v_proj": ("attention.wv", 0),
    "self_attn.o_proj": ("attention.wo", 1),
    "mlp.gate_proj": ("feed_forward.w1", 0),
    "mlp.up_proj": ("feed_forward.w3", 0),
    "mlp.down_proj": ("feed_forward.w2", 1),
    "input_layernorm": ("attention_norm", None),
    "post_attention_layernorm": ("ffn_norm", None),
    "embed_tokens": ("tok_embeddings", 1),
    "norm": ("norm", None),
    "lm_head": ("output", 0),
}
_GGUF = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "embed_tokens": "token_embd",
    "norm": "output_norm",
    "lm_head": "output",
}


def _split_name(name: str) -> tuple[str, str]:
    """("layers.3.", "mlp.up_proj") of "layers.3.mlp.up_proj.weight"."""
    name = name.removesuffix(".weight")
    if not name.startswith("layers."):
        return "", name
    _, i, rest = name.split(".", 2)
    return f"layers.{i}.", rest


def _meta_name_and_axis(name: str) -> tuple[str, int | None]:
    layer, rest = _split_name(name)
    meta, axis = _META[rest]
    return f"{layer}{meta}.weight", axis


def _gguf_name(name: str) -> str:
    layer, rest = _split_name(name)
    return f"{layer.replace('layers.', 'blk.')}{_GGUF[rest]}.weight"


def _meta_rows(name: str, x: NDArray[np.float32], config: ModelConfig) -> NDArray[np.float32]:
    """Rotary pairs as neighbours, which is how Meta's files and GGUF keep q and k."""
    if not name.endswith(("q_proj.weight", "k_proj.weight")):
        return x
    n_heads = len(x) // config.head_dim
    halves = x.reshape(n_heads, 2, config.head_dim // 2, -1)
    return halves.swapaxes(1, 2).reshape(x.shape)
