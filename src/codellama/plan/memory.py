"""Bytes on disk and in memory, by part.

Files are counted by the layout of our writers, the CPU engine by what `native/` allocates
(`packed.h` for weights in blocks, `Model::reserve` for a step's rows). The rest of an engine, its
interpreter and libraries, was measured once and is a constant here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from codellama.model.config import ModelConfig
from codellama.plan.subject import Formats, Subject
from codellama.quant.formats import Format, n_bytes
from codellama.quant.mixes import MIXES

_PART = {
    "embed_tokens": "embeddings",
    "lm_head": "output",
    "self_attn": "attention",
    "mlp": "feed_forward",
}
_LARGE_PAGE = 2 << 20  # what packed weights are backed by
_PROCESS_BYTES = 31_300_000  # Python, NumPy and this package, before any weight
_SERVER_BYTES = 33_700_000  # and what a server adds
_PANEL_ROWS, _BLOCK = 16, 32
_ALIGNMENT = 32
_GGUF_PIECE_BYTES = 23  # of a piece of Llama 2's vocabulary: text, its length, score and type
_GGUF_HEAD_BYTES = 2_000
_SAFETENSORS_ENTRY_BYTES = 115
_LLAMA_TOKENIZER_BYTES = 2_350_000  # tokenizer.model, .json and _config.json of 32,016 pieces
_GPU_CONTEXT_BYTES = 1.5e9  # CUDA's context and captured graphs: an assumption


@dataclass(frozen=True, kw_only=True)
class Resident:
    """Memory of an engine by part, in bytes."""

    weights: int
    kv_cache: int
    workspace: int
    process: int

    @property
    def total(self) -> int:
        return self.weights + self.kv_cache + self.workspace + self.process


def weight_parts(config: ModelConfig, formats: Formats) -> dict[str, int]:
    """Bytes of the weights as stored, by part of the model."""
    parts = dict.fromkeys((*_PART.values(), "norms"), 0)
    for name, shape in config.tensor_shapes().items():
        word = name.split(".")[2 if name.startswith("layers.") else 0]
        parts[_PART.get(word, "norms")] += n_bytes(formats[name], shape)
    return parts


def read_bytes(config: ModelConfig, formats: Formats) -> int:
    """Bytes of the weights that one token reads: all but the embeddings' unused rows."""
    parts = weight_parts(config, formats)
    return sum(parts.values()) - (0 if config.tie_embeddings else parts["embeddings"])


def kv_bytes(config: ModelConfig, format: Format) -> int:
    """Bytes of keys and values of one token."""
    from codellama.runners import KVFormat, kv_bytes_per_token

    return kv_bytes_per_token(config, KVFormat(format.value))


def gguf_bytes(subject: Subject, mix: str) -> int:
    """Size of the file that `codellama quantize` writes in a mix."""
    config, formats = subject.config, subject.in_mix(mix)
    shapes = config.tensor_shapes()
    body = sum(_padded(n_bytes(formats[name], shape)) for name, shape in shapes.items())
    if subject.reader is None:
        named = sum(len(name) + 40 for name in shapes)
        return body + named + _GGUF_HEAD_BYTES + _GGUF_PIECE_BYTES * config.vocab_size
    from codellama.checkpoint.gguf_metadata import Metadata, header

    reader = subject.reader
    metadata = Metadata(
        name=reader.path.resolve().name,
        file_type=MIXES[mix].file_type,
        tokenizer=reader.tokenizer(),
        generation=reader.generation,
        chat_form=reader.chat_form,
    )
    start, _ = header(config, metadata, {name: formats[name] for name in shapes})
    return len(start) + body


def folder_bytes(subject: Subject, format: Literal["f32", "f16", "bf16"]) -> int:
    """Size of the Hugging Face folder that `codellama convert` writes."""
    config = subject.config
    kind = Format(format.upper())
    shapes = config.tensor_shapes()
    body = sum(n_bytes(kind, shape) + _SAFETENSORS_ENTRY_BYTES for shape in shapes.values())
    if subject.reader is None:
        return body + _LLAMA_TOKENIZER_BYTES
    from codellama.checkpoint.tokenizer_files import tokenizer_files

    reader = subject.reader
    files = tokenizer_files(reader.tokenizer(), config, reader.chat_form)
    return body + sum(map(len, files.values())) + 1_000


def cpu_resident(
    config: ModelConfig,
    formats: Formats,
    *,
    kv_cache: Format,
    cached_tokens: int,
    step_tokens: int,
    max_num_seqs: int = 1,
    n_threads: int = 1,
    is_server: bool = False,
) -> Resident:
    """What the process of our CPU engine has in memory with so many tokens in its cache.

    The cache is reserved whole and backed as it fills, so it counts by tokens that are there.
    """
    shapes = config.tensor_shapes()
    stored = packed = 0
    for name, shape in shapes.items():
        format, is_table = formats[name], name.startswith("embed_tokens")
        is_packed = format.is_quantised and len(shape) > 1
        if is_table or not is_packed:
            stored += n_bytes(format, shape)
        if is_packed and (config.tie_embeddings or not is_table):
            packed += _packed_bytes(format, shape)
    return Resident(
        weights=stored + -(-packed // _LARGE_PAGE) * _LARGE_PAGE,
        kv_cache=cached_tokens * kv_bytes(config, kv_cache),
        workspace=_workspace(config, formats, step_tokens, max_num_seqs, n_threads),
        process=_PROCESS_BYTES + (_SERVER_BYTES if is_server else 0),
    )


def gpu_resident(
    config: ModelConfig,
    *,
    n_gpus: int,
    cached_tokens: int,
    batched_tokens: int = 8192,
    max_num_seqs: int = 256,
) -> Resident:
    """Memory over all `n_gpus` of a replica of a GPU engine with weights and cache in BF16.

    Tensor parallelism divides weights and keys/values; where there are fewer key/value heads than
    GPUs each of them is kept more than once.
    """
    copies = max(1.0, n_gpus / config.n_kv_heads)
    widths = 4 * config.dim * n_gpus + 2 * config.ffn_dim
    rows = 2 * batched_tokens * widths + 4 * max_num_seqs * config.vocab_size * 2
    return Resident(
        weights=2 * config.n_params,
        kv_cache=int(cached_tokens * kv_bytes(config, Format.BF16) * copies),
        workspace=int(rows),
        process=int(n_gpus * _GPU_CONTEXT_BYTES),
    )


def natural_kv(formats: Formats) -> Format:
    """How our CPU engine keeps keys and values beside such weights."""
    return Format.F16 if any(format.is_quantised for format in formats.values()) else Format.F32


def _packed_bytes(format: Format, shape: tuple[int, ...]) -> int:
    """Bytes of a matrix as the core lays it out: see `native/packed.h`."""
    if not format.is_quantised:
        return n_bytes(format, shape)
    rows, cols = shape
    bits, part, has_low, block = _LAYOUT[format]
    per_part = _PANEL_ROWS * (2 if has_low else 1) if part else 0
    codes = 512 if bits == 8 else 256 + 64 * (bits - 4)
    head = _PANEL_ROWS * 2 * (2 if has_low else 1)
    group = (_BLOCK // part * per_part if part else 0) + codes
    n_groups = cols // _BLOCK
    panel = n_groups // (block // _BLOCK) * head + n_groups * group
    return -(-rows // _PANEL_ROWS) * panel


# Bits of a code, columns that share a scale within a block (0: none but the block's), whether there
# is a low end, numbers in a block.
_LAYOUT = {
    Format.Q8_0: (8, 0, False, 32),
    Format.Q4_0: (4, 0, False, 32),
    Format.Q4_1: (4, 0, True, 32),
    Format.Q5_0: (5, 0, False, 32),
    Format.Q5_1: (5, 0, True, 32),
    Format.Q2_K: (4, 16, True, 256),
    Format.Q3_K: (4, 16, False, 256),
    Format.Q4_K: (4, 32, True, 256),
    Format.Q5_K: (5, 32, True, 256),
    Format.Q6_K: (6, 16, False, 256),
}


def _workspace(
    config: ModelConfig, formats: Formats, n_tokens: int, n_logits: int, n_threads: int
) -> int:
    q = config.n_heads * config.head_dim
    kv = config.n_kv_heads * config.head_dim
    floats = 2 * config.dim + 2 * q + 2 * kv + 2 * config.ffn_dim + config.head_dim
    rounded = config.dim + q + config.ffn_dim  # a byte each, and four for 32 of them
    is_rounded = any(format.is_quantised for format in formats.values())
    row = 4 * floats + (rounded * 9 // 8 if is_rounded else 0)
    widest = max(config.dim, q, config.ffn_dim)
    scratch = 4 * _PANEL_ROWS * (widest + _BLOCK) * n_threads
    return n_tokens * row + n_logits * config.vocab_size * 4 + scratch


def _padded(n: int) -> int:
    return math.ceil(n / _ALIGNMENT) * _ALIGNMENT
