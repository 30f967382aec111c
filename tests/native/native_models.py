"""Random models and batches for the tests of the native core."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codellama.model.config import ModelConfig
from codellama.quant.formats import Format, Tensor
from codellama.runners import Batch

Tensors = list[tuple[str, Tensor]]

# Where a block's halves are: its scale, and its least number or minimum where it has one.
HALVES = {
    Format.Q8_0: (0,),
    Format.Q4_0: (0,),
    Format.Q4_1: (0, 2),
    Format.Q5_0: (0,),
    Format.Q5_1: (0, 2),
    Format.Q2_K: (80, 82),
    Format.Q3_K: (108,),
    Format.Q4_K: (0, 2),
    Format.Q5_K: (0, 2),
    Format.Q6_K: (208,),
}

SHAPES = {
    "grouped": dict(dim=96, n_heads=6, n_kv_heads=2, head_dim=16, ffn_dim=160, vocab_size=101),
    "odd": dict(
        dim=45,
        n_heads=4,
        n_kv_heads=4,
        head_dim=10,
        ffn_dim=77,
        vocab_size=33,
        tie_embeddings=True,
    ),
    "nano": dict(
        dim=192,
        n_heads=3,
        n_kv_heads=3,
        head_dim=64,
        ffn_dim=512,
        vocab_size=300,
        tie_embeddings=True,
    ),
    "blocks": dict(dim=256, n_heads=4, n_kv_heads=2, head_dim=64, ffn_dim=512, vocab_size=256),
    "wide": dict(dim=128, n_heads=80, n_kv_heads=1, head_dim=2, ffn_dim=64, vocab_size=64),
}


def config(shape: str = "grouped", **changes: Any) -> ModelConfig:
    rest = dict(n_layers=2, norm_eps=1e-5, rope_theta=1e6, max_seq_len=16384)
    return ModelConfig(**{**rest, **SHAPES[shape], **changes})


def tensors(cfg: ModelConfig, format: Format = Format.F32, seed: int = 0) -> Tensors:
    """Normal weights; vectors are F32 whatever the format."""
    rng = np.random.default_rng(seed)
    made = []
    for name, shape in cfg.tensor_shapes().items():
        x = rng.normal(0, 0.1, shape).astype(np.float32)
        is_vector = len(shape) == 1
        made.append(
            (
                name,
                Tensor.from_float32(1 + x if is_vector else x, Format.F32 if is_vector else format),
            )
        )
    return made


def stored(
    rng: np.random.Generator, format: Format, shape: tuple[int, int], size: float = 1.0
) -> Tensor:
    """A matrix of random blocks: any codes, and halves up to `size`; normal numbers otherwise."""
    if not format.is_quantised:
        return Tensor.from_float32((size * rng.normal(size=shape)).astype(np.float32), format)
    n_blocks = shape[0] * shape[1] // format.block_size
    raw = rng.integers(0, 256, (n_blocks, format.block_bytes), np.uint8)
    for at in HALVES[format]:
        halves = rng.uniform(-size, size, (n_blocks, 1)).astype(np.float16)
        raw[:, at : at + 2] = halves.view(np.uint8)
    return Tensor(format, shape, raw.reshape(-1))


def dequantised(given: Tensors) -> Tensors:
    return [(name, tensor.to(Format.F32)) for name, tensor in given]


def ints(*values: int) -> NDArray[np.int32]:
    return np.array(values, np.int32)


def batch(
    parts: Iterable[tuple[Sequence[int] | NDArray[np.int32], int, Sequence[int]]],
    logit_rows: Sequence[int] | None = None,
) -> Batch:
    """A batch of (tokens, position of the first, blocks); logits of all tokens by default."""
    parts = list(parts)
    lengths = [len(tokens) for tokens, _, _ in parts]
    n_tokens = sum(lengths)
    tables = np.full((len(parts), max(len(blocks) for _, _, blocks in parts)), -1, np.int32)
    for row, (_, _, blocks) in zip(tables, parts, strict=True):
        row[: len(blocks)] = blocks
    return Batch(
        tokens=np.concatenate([np.asarray(tokens, np.int32) for tokens, _, _ in parts]),
        positions=np.concatenate(
            [np.arange(first, first + len(t), dtype=np.int32) for t, first, _ in parts]
        ),
        seq_starts=np.cumsum([0, *lengths], dtype=np.int32),
        context_lens=ints(*(first + len(tokens) for tokens, first, _ in parts)),
        block_tables=tables,
        logit_rows=np.array(range(n_tokens) if logit_rows is None else logit_rows, np.int32),
    )
