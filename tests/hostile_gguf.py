"""GGUF files made by hand, however wrong, field by field."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from checkpoints_tiny import tiny_weights
from codellama import checkpoint
from codellama.checkpoint.reader import Reader
from codellama.model.config import ModelConfig
from hostile import SMALLEST, put

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
_CODES = {U8: "<B", I8: "<b", U16: "<H", I16: "<h", U32: "<I", I32: "<i", F32: "<f", BOOL: "<B",
          U64: "<Q", I64: "<q", F64: "<d"}  # fmt: skip

NAMES = {
    "embed_tokens": "token_embd",
    "norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def string(value: str | bytes) -> bytes:
    raw = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(raw)) + raw


def scalar(kind: int, value: Any) -> bytes:
    return string(value) if kind == STRING else struct.pack(_CODES[kind], value)


@dataclass(frozen=True)
class Pair:
    """One metadata entry; `raw` stands for type and value if given."""

    key: str | bytes
    kind: int = U32
    value: Any = 0
    raw: bytes | None = None

    def to_bytes(self) -> bytes:
        if self.raw is not None:
            return string(self.key) + self.raw
        return string(self.key) + struct.pack("<I", self.kind) + scalar(self.kind, self.value)


def array(kind: int, values: Sequence[Any], count: int | None = None) -> bytes:
    """Type and value of an array, as `Pair.raw`."""
    n = len(values) if count is None else count
    return struct.pack("<IIQ", ARRAY, kind, n) + b"".join(scalar(kind, v) for v in values)


@dataclass(frozen=True)
class Listed:
    """One tensor. Without an offset it follows the one before."""

    name: str | bytes
    dims: Sequence[int]  # fastest first
    kind: int
    data: bytes
    offset: int | None = None
    n_dims: int | None = None


@dataclass(frozen=True)
class File:
    pairs: Sequence[Pair] = ()
    tensors: Sequence[Listed] = ()
    version: int = 3
    magic: bytes = b"GGUF"
    n_tensors: int | None = None
    n_pairs: int | None = None
    alignment: int = 32
    tail: bytes = b""

    def header(self) -> bytes:
        n_tensors = len(self.tensors) if self.n_tensors is None else self.n_tensors
        n_pairs = len(self.pairs) if self.n_pairs is None else self.n_pairs
        out = self.magic + struct.pack("<IQQ", self.version, n_tensors, n_pairs)
        out += b"".join(pair.to_bytes() for pair in self.pairs)
        at = 0
        for t in self.tensors:
            offset = at if t.offset is None else t.offset
            n_dims = len(t.dims) if t.n_dims is None else t.n_dims
            out += string(t.name) + struct.pack("<I", n_dims)
            out += struct.pack(f"<{len(t.dims)}Q", *t.dims) + struct.pack("<IQ", t.kind, offset)
            at += len(self._padded(t.data))
        return out

    def to_bytes(self) -> bytes:
        return self._padded(self.header()) + b"".join(
            self._padded(t.data) for t in self.tensors
        ) + self.tail  # fmt: skip

    def _padded(self, data: bytes) -> bytes:
        return data + bytes(-len(data) % self.alignment)

    def without(self, key: str) -> File:
        return replace(self, pairs=[p for p in self.pairs if p.key != key])

    def with_pair(self, pair: Pair) -> File:
        """The entry put in place of one of the same key, or behind the others."""
        pairs = [pair if p.key == pair.key else p for p in self.pairs]
        return replace(self, pairs=pairs if pair in pairs else [*pairs, pair])

    def with_tensor(self, which: str, **changes: Any) -> File:
        tensors = [replace(t, **changes) if t.name == which else t for t in self.tensors]
        assert tensors != list(self.tensors), which
        return replace(self, tensors=tensors)


def read(path: Path, file: File) -> Reader:
    """`file` at `path`, opened."""
    put(path, file.to_bytes())
    return checkpoint.open(path)


def metadata(config: ModelConfig) -> list[Pair]:
    """What a converter says of a model's sizes."""
    u32 = {
        "block_count": config.n_layers,
        "context_length": config.max_seq_len,
        "embedding_length": config.dim,
        "feed_forward_length": config.ffn_dim,
        "attention.head_count": config.n_heads,
        "attention.head_count_kv": config.n_kv_heads,
        "rope.dimension_count": config.head_dim,
        "vocab_size": config.vocab_size,
    }
    return [
        Pair("general.architecture", STRING, "llama"),
        Pair("general.name", STRING, "tiny"),
        *(Pair(f"llama.{key}", U32, value) for key, value in u32.items()),
        Pair("llama.rope.freq_base", F32, config.rope_theta),
        Pair("llama.attention.layer_norm_rms_epsilon", F32, config.norm_eps),
    ]


def model(config: ModelConfig = SMALLEST) -> File:
    """A model in F32. Rotary rows are not reordered."""
    tensors = []
    for name, x in tiny_weights(config).items():
        outer, _, rest = name.removesuffix(".weight").partition(".")
        layer = ""
        if outer == "layers":
            i, _, outer = rest.partition(".")
            layer = f"blk.{i}."
        dims = x.shape[::-1]
        data = np.ascontiguousarray(x, "<f4").tobytes()
        tensors.append(Listed(f"{layer}{NAMES[outer]}.weight", dims, 0, data))
    return File(metadata(config), tensors)
