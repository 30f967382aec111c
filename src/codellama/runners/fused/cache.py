"""The paged key/value cache as tensors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from codellama.model.config import ModelConfig
from codellama.runners import KVFormat

_DTYPES = {
    KVFormat.F32: torch.float32,
    KVFormat.F16: torch.float16,
    KVFormat.BF16: torch.bfloat16,
    KVFormat.Q8_0: torch.int8,
    KVFormat.FP8: torch.float8_e4m3fn,
}


@dataclass(frozen=True)
class LayerCache:
    """One layer's keys and values by slot, each [n_slots, K, E].

    In 8-bit whole numbers each position of a head has a scale, [n_slots, K] in float32. `largest`
    is what numbers are clamped to before they are stored, 0 where they need not be.
    """

    k: Tensor
    v: Tensor
    k_scale: Tensor | None = None
    v_scale: Tensor | None = None
    largest: float = 0.0


def make_cache(
    config: ModelConfig, n_slots: int, format: KVFormat, device: torch.device
) -> list[LayerCache]:
    """An empty cache for every layer.

    Zeros, since attention multiplies what is masked by 0, and 0 times what memory held may be NaN.
    """
    shape = (n_slots, config.n_kv_heads, config.head_dim)

    def layer() -> LayerCache:
        k, v = (torch.zeros(shape, dtype=_DTYPES[format], device=device) for _ in range(2))
        if format is KVFormat.Q8_0:
            k_scale, v_scale = (torch.zeros(shape[:2], device=device) for _ in range(2))
            return LayerCache(k, v, k_scale, v_scale)
        return LayerCache(k, v, largest=448.0 if format is KVFormat.FP8 else 0.0)

    return [layer() for _ in range(config.n_layers)]
