"""GGUF files of well-known shapes with random weights: speed does not depend on what weights say.

Blocks are made of random bits with scales that keep every layer's output as large as its input, so
no number overflows and none is zero. Which tensor gets which format is what `llama-quantize` does.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codellama.bench.gguf_file import GgufTensor, write_gguf
from codellama.errors import ConfigError
from codellama.model.config import ModelConfig
from codellama.quant.formats import Bytes

_CHUNK_BYTES = 1 << 24  # made and written at a time, which bounds the memory


def _config(dim: int, n_layers: int, n_heads: int, n_kv_heads: int, ffn_dim: int,
            vocab_size: int) -> ModelConfig:  # fmt: skip
    return ModelConfig(
        dim=dim,
        n_layers=n_layers,
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        head_dim=dim // n_heads,
        ffn_dim=ffn_dim,
        vocab_size=vocab_size,
        norm_eps=1e-5,
        rope_theta=1e6,
        max_seq_len=4096,
    )


SHAPES = {
    "s": _config(512, 8, 8, 8, 1376, 16000),
    "1.1b": _config(2048, 22, 32, 4, 5632, 32016),
    "7b": _config(4096, 32, 32, 32, 11008, 32016),
}
"""A small model, the common 1.1B and Code Llama 7B."""

# Format -> that of matrices, of the output matrix, and of half the layers' value and down matrices.
_MIXES = {
    "f32": ("F32", "F32", "F32"),
    "f16": ("F16", "F16", "F16"),
    "bf16": ("BF16", "BF16", "BF16"),
    "q8_0": ("Q8_0", "Q8_0", "Q8_0"),
    "q6_k": ("Q6_K", "Q6_K", "Q6_K"),
    "q5_k_m": ("Q5_K", "Q6_K", "Q6_K"),
    "q5_1": ("Q5_1", "Q6_K", "Q5_1"),
    "q5_0": ("Q5_0", "Q6_K", "Q5_0"),
    "q4_k_m": ("Q4_K", "Q6_K", "Q6_K"),
    "q4_1": ("Q4_1", "Q6_K", "Q4_1"),
    "q4_0": ("Q4_0", "Q6_K", "Q4_0"),
    "q4_0-pure": ("Q4_0", "Q4_0", "Q4_0"),
}
FORMATS = tuple(_MIXES)
_FALLBACK = {
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
}  # where a row is no whole number of 256


def random_model(
    shape: str,
    format: str,
    folder: Path,
    *,
    progress: Callable[[str], None] = lambda line: None,
) -> Path:
    """The file of a shape in a format, made in `folder` unless it is there.

    The file appears whole or not at all, and a large one takes no more memory to make than a small.

    Raises:
        ConfigError: there is no such shape or format.
        MissingExtra: the `gguf` package is not installed.
    """
    if shape not in SHAPES:
        raise ConfigError(f"there is no shape {shape!r}", hint=f"there are {', '.join(SHAPES)}")
    if format not in _MIXES:
        raise ConfigError(f"there is no format {format!r}", hint=f"there are {', '.join(_MIXES)}")
    path = folder / f"random-{shape}-{format}.gguf"
    if path.exists():
        return path
    progress(f"making {path}, once")
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{path.name}.{os.getpid()}"
    try:
        write(partial, SHAPES[shape], format)
        partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def write(path: Path, config: ModelConfig, format: str) -> None:
    """A whole GGUF file with random weights. Raises as `write_gguf` does."""
    random = np.random.default_rng(0)
    write_gguf(
        path,
        config,
        [
            GgufTensor(name, shape, kind, _random_rows(random, name, shape, kind))
            for name, shape, kind in _tensors(config, format)
        ],
    )


def _tensors(config: ModelConfig, format: str) -> Iterator[tuple[str, tuple[int, ...], str]]:
    """Every tensor's name, shape [rows, cols] or [n], and number format."""
    most, output, better = _MIXES[format]
    dim, ffn_dim, n_layers = config.dim, config.ffn_dim, config.n_layers
    q, kv = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim

    def fitting(kind: str, n_cols: int) -> str:
        return _FALLBACK[kind] if kind.endswith("_K") and n_cols % 256 else kind

    yield "token_embd.weight", (config.vocab_size, dim), fitting(most, dim)
    for i in range(n_layers):
        eighth = n_layers // 8
        is_better = i < eighth or i >= 7 * n_layers // 8 or (i - eighth) % 3 == 2
        mixed = better if is_better else most
        for name, shape, kind in (
            ("attn_norm", (dim,), "F32"),
            ("attn_q", (q, dim), most),
            ("attn_k", (kv, dim), most),
            ("attn_v", (kv, dim), mixed),
            ("attn_output", (dim, q), most),
            ("ffn_norm", (dim,), "F32"),
            ("ffn_gate", (ffn_dim, dim), most),
            ("ffn_up", (ffn_dim, dim), most),
            ("ffn_down", (dim, ffn_dim), mixed),
        ):
            yield f"blk.{i}.{name}.weight", shape, fitting(kind, shape[-1])
    yield "output_norm.weight", (dim,), "F32"
    yield "output.weight", (config.vocab_size, dim), fitting(output, dim)


def _random_rows(
    random: np.random.Generator, name: str, shape: tuple[int, ...], kind: str
) -> Iterator[Bytes]:
    if len(shape) == 1:
        yield np.ones(shape, "<f4").view(np.uint8)
        return
    n_rows, n_cols = shape
    # Embeddings have a deviation of 1, and products keep it.
    deviation = 1.0 if name.startswith("token_embd") else n_cols**-0.5
    make = _BLOCKS[kind]
    block_size, _ = _SIZES[kind]
    step = max(1, _CHUNK_BYTES // (4 * n_cols))
    for start in range(0, n_rows, step):
        n_blocks = min(step, n_rows - start) * n_cols // block_size
        yield make(random, n_blocks, deviation)


def _halves(values: NDArray[np.float64]) -> Bytes:
    return values.astype("<f2").view(np.uint8).reshape(len(values), 2)


def _bits(random: np.random.Generator, n: int, width: int) -> Bytes:
    return np.frombuffer(random.bytes(n * width), np.uint8).reshape(n, width)


def _scales(random: np.random.Generator, n: int, mean: float) -> Bytes:
    return _halves(mean * random.uniform(0.8, 1.2, n))


def _floats(kind: str) -> Any:
    def make(random: np.random.Generator, n: int, deviation: float) -> Bytes:
        x = random.standard_normal(n, np.float32) * np.float32(deviation)
        if kind == "BF16":
            return (x.view("<u4") >> 16).astype("<u2").view(np.uint8)
        return x.astype("<f4" if kind == "F32" else "<f2").view(np.uint8)

    return make


# Scales are divided by the deviation of what they multiply: n equally likely whole numbers have
# sqrt((n² - 1) / 12).
def _q8_0(random: np.random.Generator, n: int, deviation: float) -> Bytes:
    return np.concatenate([_scales(random, n, deviation / 73.9), _bits(random, n, 32)], axis=1)


def _q4_0(random: np.random.Generator, n: int, deviation: float) -> Bytes:
    return np.concatenate([_scales(random, n, deviation / 4.61), _bits(random, n, 16)], axis=1)


def _with_offset(n_bits: int) -> Any:
    """Scale times a whole number from 0, plus an offset that brings the middle of them to zero."""

    def make(random: np.random.Generator, n: int, deviation: float) -> Bytes:
        n_values = 1 << n_bits
        d = deviation / ((n_values**2 - 1) / 12) ** 0.5 * random.uniform(0.8, 1.2, n)
        codes = _bits(random, n, 4 * n_bits)
        return np.concatenate([_halves(d), _halves(-d * (n_values - 1) / 2), codes], axis=1)

    return make


def _q5_0(random: np.random.Generator, n: int, deviation: float) -> Bytes:
    return np.concatenate([_scales(random, n, deviation / 9.23), _bits(random, n, 20)], axis=1)


def _q4_k(random: np.random.Generator, n: int, deviation: float) -> Bytes:
    # Eight scales and eight offsets of six random bits; an offset weighs 7.5 times a scale, so that
    # numbers are around zero. Scale times four bits less offset deviates by 257.
    d = deviation / 257 * random.uniform(0.8, 1.2, n)
    return np.concatenate([_halves(d), _halves(7.5 * d), _bits(random, n, 140)], axis=1)


def _q5_k(random: np.random.Generator, n: int, deviation: float) -> Bytes:
    # As Q4_K: an offset weighs 15.5 times a scale; scale times five bits less it deviates by 526.
    d = deviation / 526 * random.uniform(0.8, 1.2, n)
    return np.concatenate([_halves(d), _halves(15.5 * d), _bits(random, n, 172)], axis=1)


def _q6_k(random: np.random.Generator, n: int, deviation: float) -> Bytes:
    # Six bits each, then sixteen signed scales of eight, then the scale of all.
    scale = _scales(random, n, deviation / (18.5 * 73.9))
    return np.concatenate([_bits(random, n, 208), scale], axis=1)


_BLOCKS: dict[str, Any] = {
    "F32": _floats("F32"),
    "F16": _floats("F16"),
    "BF16": _floats("BF16"),
    "Q8_0": _q8_0,
    "Q4_0": _q4_0,
    "Q4_1": _with_offset(4),
    "Q5_0": _q5_0,
    "Q5_1": _with_offset(5),
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
}
_SIZES = {
    "F32": (1, 4), "F16": (1, 2), "BF16": (1, 2), "Q8_0": (32, 34), "Q4_0": (32, 18),
    "Q4_1": (32, 20), "Q5_0": (32, 22), "Q5_1": (32, 24), "Q4_K": (256, 144), "Q5_K": (256, 176),
    "Q6_K": (256, 210),
}  # fmt: skip
