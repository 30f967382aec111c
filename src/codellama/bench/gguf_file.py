"""GGUF files for measuring: the same bytes for every engine.

Their vocabulary is made up, since speed does not depend on it: they are of no use for text.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from codellama.checkpoint.reader import Reader
from codellama.checkpoint.rotary import is_turned
from codellama.errors import MissingExtra
from codellama.model.config import ModelConfig
from codellama.quant.formats import Bytes, Format, Tensor

if TYPE_CHECKING:
    import gguf

_NAMES = {
    "embed_tokens": "token_embd",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "norm": "output_norm",
    "lm_head": "output",
}


@dataclass(frozen=True)
class GgufTensor:
    """A tensor by GGUF's name, and its bytes in pieces, which are made as they are written."""

    name: str
    shape: tuple[int, ...]
    kind: str
    pieces: Iterable[Bytes]


def write_gguf(path: Path, config: ModelConfig, tensors: Sequence[GgufTensor]) -> None:
    """Writes a file with these tensors and a made-up vocabulary.

    Raises:
        MissingExtra: the `gguf` package is not installed.
    """
    try:
        import gguf
    except ModuleNotFoundError as error:
        raise MissingExtra("a GGUF file to measure with", "bench") from error
    writer = gguf.GGUFWriter(path, "llama")
    _add_metadata(writer, config)
    for tensor in tensors:
        kind = gguf.GGMLQuantizationType[tensor.kind]
        block_size, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        n_bytes = math.prod(tensor.shape) // block_size * block_bytes
        dtype = np.dtype(np.float32)  # of numbers, not of bytes: `kind` is what is stored
        writer.add_tensor_info(tensor.name, tensor.shape, dtype, n_bytes, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with path.open("ab") as file:
        for tensor in tensors:
            file.write(bytes(-file.tell() % writer.data_alignment))
            for piece in tensor.pieces:
                file.write(piece.data)
        file.write(bytes(-file.tell() % writer.data_alignment))


def gguf_of(reader: Reader, path: Path, format: Format | None) -> None:
    """Writes an open checkpoint as GGUF, its matrices in `format` (None: as they are stored).

    Raises:
        MissingExtra: the `gguf` package is not installed.
        CheckpointError: a row is not a whole number of blocks.
    """
    config = reader.config

    def kind(name: str, shape: tuple[int, ...]) -> Format:
        if len(shape) == 1:
            return Format.F32  # what every reader of GGUF expects of vectors
        return reader.infos[name].format if format is None else format

    stored = dict(reader.tensors())
    write_gguf(
        path,
        config,
        [
            GgufTensor(
                _gguf_name(name),
                tensor.shape,
                str(kind(name, tensor.shape)),
                _pieces(name, tensor, kind(name, tensor.shape), config.head_dim),
            )
            for name, tensor in stored.items()
        ],
    )


def _pieces(name: str, tensor: Tensor, format: Format, head_dim: int) -> Iterator[Bytes]:
    data = tensor.to(format).data
    if is_turned(name):  # GGUF keeps rotary pairs as neighbours
        halves = data.reshape(tensor.shape[0] // head_dim, 2, head_dim // 2, -1)
        data = np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(-1)
    yield data


def _gguf_name(name: str) -> str:
    rest = name.removesuffix(".weight")
    layer = ""
    if rest.startswith("layers."):
        _, number, rest = rest.split(".", 2)
        layer = f"blk.{number}."
    return f"{layer}{_NAMES[rest]}.weight"


def _add_metadata(writer: gguf.GGUFWriter, config: ModelConfig) -> None:
    writer.add_name("for measuring")
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
    # As in SentencePiece: unknown, begin, end, every byte, and then words, here made up.
    words = ["▁", *(f"▁w{i}" for i in range(config.vocab_size))][: config.vocab_size - 259]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *words])
    writer.add_token_scores([0.0] * 259 + [-float(i) for i in range(len(words))])
    writer.add_token_types([2, 3, 3] + [6] * 256 + [1] * len(words))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_space_prefix(True)
