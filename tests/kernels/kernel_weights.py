"""Weights of every kind, with random numbers."""

from __future__ import annotations

import numpy as np
import torch
from kernel_inputs import normal

from codellama.quant.formats import Format, Tensor, n_bytes
from codellama.runners.fused.weights import Kind, Matrix, Weight, placed, rounded

SCALES = {Format.Q6_K: [208], Format.Q3_K: [108], Format.Q2_K: [80, 82]}
CPU = torch.device("cpu")


def blocks_of(format: Format, n_rows: int, n_cols: int) -> Matrix:
    """Random bits, with scales that make numbers of about one."""
    rng = np.random.default_rng(1)
    raw = rng.integers(0, 256, n_bytes(format, (n_rows, n_cols)), np.uint8)
    raw = raw.reshape(-1, format.block_bytes)
    at = SCALES.get(format, [0, 2] if format.name.endswith(("_1", "_K")) else [0])
    for place in at:
        scale = rng.uniform(0.5, 1, len(raw)) / (900 if format.name.endswith("_K") else 16)
        raw[:, place : place + 2] = scale.astype("<f2").view(np.uint8).reshape(-1, 2)
    return placed(
        Tensor(format, (n_rows, n_cols), raw.reshape(-1)), Kind.STORED, torch.float32, CPU
    )


def weight_of(kind: str, n_rows: int, n_cols: int, dtype: torch.dtype) -> Weight:
    x = normal(n_rows, n_cols, seed=4) / 8
    if kind in list(Format):
        return (blocks_of(Format(kind), n_rows, n_cols),)
    return (rounded(x, Kind(kind), dtype),)
