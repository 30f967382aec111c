"""Inputs of awkward sizes for kernels and their references."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor

from codellama.model.config import ModelConfig
from codellama.runners import KVFormat
from codellama.runners.fused.cache import LayerCache, make_cache

BLOCK = 16


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    values = np.random.default_rng(seed).standard_normal(shape, np.float32)
    return torch.from_numpy(values).to(dtype)


def config(n_heads: int, n_kv_heads: int, head_dim: int) -> ModelConfig:
    return ModelConfig(
        dim=n_heads * head_dim, n_layers=1, n_heads=n_heads, n_kv_heads=n_kv_heads,
        head_dim=head_dim, ffn_dim=8, vocab_size=8, norm_eps=1e-5, rope_theta=1e6, max_seq_len=4096,
    )  # fmt: skip


def tables(n_blocks: list[int], n_all: int, seed: int = 1) -> Tensor:
    """Block tables of scattered blocks, padded with -1."""
    order = np.random.default_rng(seed).permutation(n_all)
    out = np.full((len(n_blocks), max(n_blocks)), -1, np.int32)
    at = 0
    for row, n in enumerate(n_blocks):
        out[row, :n] = order[at : at + n]
        at += n
    return torch.from_numpy(out)


def filled_cache(model: ModelConfig, n_blocks: int, format: KVFormat) -> LayerCache:
    """A cache whose every slot holds random numbers, in any format."""
    cpu = torch.device("cpu")
    cache = make_cache(model, n_blocks * BLOCK, format, cpu)[0]
    for i, store in enumerate((cache.k, cache.v)):
        if format is KVFormat.Q8_0:
            whole = np.random.default_rng(i).integers(-127, 128, store.shape, np.int8)
            store.copy_(torch.from_numpy(whole))
        else:
            values = normal(*store.shape, seed=i).to(store.dtype)
            store.view(torch.uint8).copy_(values.view(torch.uint8))
    if cache.k_scale is not None and cache.v_scale is not None:
        cache.k_scale.copy_(normal(*cache.k_scale.shape, seed=5).abs() / 64)
        cache.v_scale.copy_(normal(*cache.v_scale.shape, seed=6).abs() / 64)
    return cache


def there(x: Any, device: torch.device) -> Any:
    """A tensor, or a dataclass of tensors, on a device."""
    if isinstance(x, Tensor):
        return x.to(device)
    if dataclasses.is_dataclass(x) and not isinstance(x, type):
        fields = {f.name: there(getattr(x, f.name), device) for f in dataclasses.fields(x)}
        return dataclasses.replace(x, **fields)
    return x


def close(ours: Tensor, expected: Tensor, *, rtol: float, atol: float) -> None:
    torch.testing.assert_close(ours.cpu().float(), expected.cpu().float(), rtol=rtol, atol=atol)


TOLERANCE = {
    torch.float32: {"rtol": 2e-5, "atol": 2e-5},
    torch.float16: {"rtol": 4e-3, "atol": 4e-3},
    torch.bfloat16: {"rtol": 3e-2, "atol": 3e-2},
}
"""float32: sums in another order. The others: two roundings of the result, and of the weights of an
attention, which are multiplied as such."""
