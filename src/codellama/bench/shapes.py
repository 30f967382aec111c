"""GGUF files of well-known shapes with random weights: speed does not depend on what weights say.

Blocks are made of random bits with scales that keep every layer's output as large as its input, so
no number overflows and none is zero. Which tensor gets which format is what `llama-quantize` does.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from codellama.checkpoint.gguf_metadata import Metadata
from codellama.checkpoint.gguf_write import save_gguf
from codellama.checkpoint.reader import GenerationDefaults
from codellama.errors import ConfigError
from codellama.model.config import ModelConfig
from codellama.quant.formats import Bytes, Format, Tensor, row_bytes
from codellama.quant.mixes import MIXES, Mix, plan
from codellama.text.spm import PieceType, byte_piece
from codellama.text.tokenizer import Tokenizer

Make = Callable[[np.random.Generator, int, float], Bytes]  # of so many blocks, by their deviation

_CHUNK_BYTES = 1 << 24  # of numbers made at a time, which bounds the temporaries


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

_MIXES = {
    **MIXES,
    "q4_0-pure": Mix(name="q4_0-pure", file_type=2, most=Format.Q4_0, output=Format.Q4_0),
}
FORMATS = tuple(_MIXES)


def random_model(
    shape: str,
    format: str,
    folder: Path,
    *,
    progress: Callable[[str], None] = lambda line: None,
) -> Path:
    """The file of a shape in a format, made in `folder` unless it is there.

    The file appears whole or not at all, and memory holds one matrix at a time.

    Raises:
        ConfigError: there is no such shape or format.
        CheckpointError: the disk refuses or is full.
    """
    if shape not in SHAPES:
        raise ConfigError(f"there is no shape {shape!r}", hint=f"there are {', '.join(SHAPES)}")
    if format not in _MIXES:
        raise ConfigError(f"there is no format {format!r}", hint=f"there are {', '.join(_MIXES)}")
    path = folder / f"random-{shape}-{format}.gguf"
    if not path.exists():
        progress(f"making {path}, once")
        write(path, SHAPES[shape], format)
    return path


def write(path: Path, config: ModelConfig, format: str, tokenizer: Tokenizer | None = None) -> None:
    """A whole GGUF file with random weights.

    Without a `tokenizer` its vocabulary is made up, and the file is of no use for text.

    Raises:
        CheckpointError: as `save_gguf`.
    """
    random = np.random.default_rng(0)
    mix, shapes = _MIXES[format], config.tensor_shapes()
    formats = plan(mix, shapes, config.n_layers).formats
    metadata = Metadata(
        name="for measuring",
        file_type=mix.file_type,
        tokenizer=_made_up(config.vocab_size) if tokenizer is None else tokenizer,
        generation=GenerationDefaults(),
        chat_form=None,
    )
    tensors = (
        (name, _random_tensor(random, name, shape, formats[name])) for name, shape in shapes.items()
    )
    save_gguf(path, config, tensors, formats, metadata, overwrite=True)


def _made_up(n: int) -> Tokenizer:
    """A vocabulary of `n` pieces: unknown, begin, end, every byte, and then words."""
    words = ["▁", *(f"▁w{i}" for i in range(n))][: n - 259]
    return Tokenizer.from_pieces(
        ["<unk>", "<s>", "</s>", *map(byte_piece, range(256)), *words],
        [0.0] * 259 + [-float(i) for i in range(len(words))],
        [PieceType.UNKNOWN, *[PieceType.CONTROL] * 2, *[PieceType.BYTE] * 256,
         *[PieceType.NORMAL] * len(words)],
        add_dummy_prefix=True,
    )  # fmt: skip


def _random_tensor(
    random: np.random.Generator, name: str, shape: tuple[int, ...], format: Format
) -> Tensor:
    if len(shape) == 1:
        return Tensor.from_float32(np.ones(shape, np.float32))
    n_rows, n_cols = shape
    # Embeddings have a deviation of 1, and products keep it.
    deviation = 1.0 if name == "embed_tokens.weight" else n_cols**-0.5
    data = np.empty((n_rows, row_bytes(format, n_cols)), np.uint8)
    step = max(1, _CHUNK_BYTES // (4 * n_cols))
    for start in range(0, n_rows, step):
        rows = data[start : start + step]
        made = _BLOCKS[format](random, rows.size // format.block_bytes, deviation)
        rows[...] = made.reshape(rows.shape)
    return Tensor(format, shape, data.reshape(-1))


def _halves(values: NDArray[np.float64]) -> Bytes:
    return values.astype("<f2").view(np.uint8).reshape(len(values), 2)


def _bits(random: np.random.Generator, n: int, width: int) -> Bytes:
    return np.frombuffer(random.bytes(n * width), np.uint8).reshape(n, width)


def _scales(random: np.random.Generator, n: int, mean: float) -> Bytes:
    return _halves(mean * random.uniform(0.8, 1.2, n))


def _floats(format: Format) -> Make:
    def make(random: np.random.Generator, n: int, deviation: float) -> Bytes:
        x = random.standard_normal(n, np.float32) * np.float32(deviation)
        if format is Format.BF16:
            return (x.view("<u4") >> 16).astype("<u2").view(np.uint8)
        return x.astype("<f4" if format is Format.F32 else "<f2").view(np.uint8)

    return make


# Scales are divided by the deviation of what they multiply: n equally likely whole numbers have
# sqrt((n² - 1) / 12).
def _q8_0(random: np.random.Generator, n: int, deviation: float) -> Bytes:
    return np.concatenate([_scales(random, n, deviation / 73.9), _bits(random, n, 32)], axis=1)


def _q4_0(random: np.random.Generator, n: int, deviation: float) -> Bytes:
    return np.concatenate([_scales(random, n, deviation / 4.61), _bits(random, n, 16)], axis=1)


def _with_offset(n_bits: int) -> Make:
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


_BLOCKS: dict[Format, Make] = {
    Format.F32: _floats(Format.F32),
    Format.F16: _floats(Format.F16),
    Format.BF16: _floats(Format.BF16),
    Format.Q8_0: _q8_0,
    Format.Q4_0: _q4_0,
    Format.Q4_1: _with_offset(4),
    Format.Q5_0: _q5_0,
    Format.Q5_1: _with_offset(5),
    Format.Q4_K: _q4_k,
    Format.Q5_K: _q5_k,
    Format.Q6_K: _q6_k,
}
