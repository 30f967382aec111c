"""Models of a true shape with random weights, as GGUF: what speed can be measured on, unlike sense.

Blocks are filled with random bytes under a fixed scale, so a file of a gigabyte takes seconds. The
vocabulary is nano's; rows of the embedding beyond it belong to no token.
"""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray
from sentencepiece import sentencepiece_model_pb2 as pb

from codellama.checkpoint.hub import resolve
from codellama.model.config import ModelConfig
from codellama.quant.formats import Format, row_bytes

SHAPES = {
    "1.1B": ModelConfig(
        dim=2048, n_layers=22, n_heads=32, n_kv_heads=4, head_dim=64, ffn_dim=5632,
        vocab_size=32016, norm_eps=1e-5, rope_theta=1e6, max_seq_len=16384,
    ),
}  # fmt: skip
_NAMES = {
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


def random_gguf(path: Path, config: ModelConfig, format: Format, seed: int = 0) -> Path:
    """Writes the file, unless it is there already: matrices in `format`, vectors of ones."""
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    partial = path.with_suffix(".partial")
    writer = gguf.GGUFWriter(partial, "llama", use_temp_file=True)
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
    model = pb.ModelProto.FromString((Path(resolve("nano")) / "tokenizer.model").read_bytes())
    writer.add_tokenizer_model("llama")
    writer.add_token_list([piece.piece for piece in model.pieces])
    writer.add_token_scores([piece.score for piece in model.pieces])
    writer.add_token_types([piece.type for piece in model.pieces])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_space_prefix(True)
    for name, shape in config.tensor_shapes().items():
        stem = name.removesuffix(".weight")
        prefix = ""
        if stem.startswith("layers."):
            _, i, stem = stem.split(".", 2)
            prefix = f"blk.{i}."
        gguf_name = f"{prefix}{_NAMES[stem]}.weight"
        if len(shape) == 1:
            writer.add_tensor(gguf_name, np.ones(shape, np.float32))
        else:
            kind = gguf.GGMLQuantizationType[format]
            writer.add_tensor(gguf_name, _blocks(rng, shape, format), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.rename(path)
    return path


def _blocks(rng: np.random.Generator, shape: tuple[int, ...], format: Format) -> NDArray[np.uint8]:
    """Random numbers of a spread of about 1 / sqrt(columns), stored."""
    n_rows, n_cols = shape
    spread = {Format.Q8_0: 127 / 3**0.5, Format.Q4_0: 8 / 3**0.5}[format]
    raw = rng.integers(0, 256, (n_rows, row_bytes(format, n_cols)), np.uint8)
    scale = np.float16(1 / spread / n_cols**0.5).tobytes()
    raw.reshape(n_rows, -1, format.block_bytes)[:, :, :2] = np.frombuffer(scale, np.uint8)
    return raw
