"""Attention of prompts by FlashInfer, where it is installed and fits.

Its wrapper plans a step on the host once, and then runs in every layer. It knows nothing of our
scattered batch: the tokens of prompts are gathered, and what it computes is put back.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from codellama.errors import ConfigError
from codellama.model.config import ModelConfig
from codellama.runners import KVFormat
from codellama.runners.fused.cache import LayerCache
from codellama.runners.fused.inputs import Paged

_WORKSPACE_BYTES = 128 << 20
_HEAD_DIMS = (64, 128, 256)
_FORMATS = {KVFormat.F16: torch.float16, KVFormat.BF16: torch.bfloat16}


class FlashInferPrompts:
    """Fills the output for the tokens of `Paged.tiles`.

    Args:
        wrapper: FlashInfer's `BatchPrefillWithPagedKVCacheWrapper` with the layout "NHD".
    """

    def __init__(self, wrapper: Any, config: ModelConfig) -> None:
        self._wrapper = wrapper
        self._config = config
        self._planned: Paged | None = None
        self._tokens: Tensor | None = None

    def __call__(self, q: Tensor, cache: LayerCache, paged: Paged, out: Tensor) -> None:
        if paged is not self._planned:
            self._plan(q, cache, paged)
        assert self._tokens is not None, "planned"
        shape = (-1, paged.block_size, *cache.k.shape[1:])
        found = self._wrapper.run(q[self._tokens], (cache.k.view(shape), cache.v.view(shape)))
        out[self._tokens] = found

    def _plan(self, q: Tensor, cache: LayerCache, paged: Paged) -> None:
        chunks, config = paged.chunks, self._config
        assert chunks is not None, "there are prompts"
        in_last = (chunks.lengths - 1) % paged.block_size + 1
        # It plans on the host: what lay on the device, it would have to wait for.
        starts, block_starts, blocks, last = (
            torch.from_numpy(x)
            for x in (chunks.starts, chunks.block_starts, chunks.blocks, in_last)
        )
        self._wrapper.plan(
            starts, block_starts, blocks.to(q.device), last, config.n_heads, config.n_kv_heads,
            config.head_dim, paged.block_size, causal=True, q_data_type=q.dtype,
            kv_data_type=cache.k.dtype,
        )  # fmt: skip
        self._tokens = torch.from_numpy(chunks.tokens).to(q.device).long()
        self._planned = paged


def flashinfer_prompts(
    config: ModelConfig, kv_cache: KVFormat, dtype: torch.dtype, device: torch.device
) -> FlashInferPrompts | None:
    """FlashInfer where it is installed and fits; None where our own kernel is to be used.

    CODELLAMA_ATTENTION forces one when debugging: `triton` or `flashinfer`.

    Raises:
        ConfigError: FlashInfer was asked for, and is not installed or cannot do this.
    """
    wanted = os.environ.get("CODELLAMA_ATTENTION", "")
    if wanted not in ("", "triton", "flashinfer"):
        raise ConfigError(f"CODELLAMA_ATTENTION is {wanted!r}; expected triton or flashinfer")
    if wanted == "triton":
        return None
    obstacle = _obstacle(config, kv_cache, dtype)
    make: Any = None
    if obstacle is None:
        try:
            make = import_module("flashinfer").BatchPrefillWithPagedKVCacheWrapper
        except ModuleNotFoundError:
            obstacle = "it is not installed"
        except AttributeError:
            obstacle = "the version installed has no attention over a paged cache"
    if obstacle is None:
        workspace = torch.empty(_WORKSPACE_BYTES, dtype=torch.uint8, device=device)
        return FlashInferPrompts(make(workspace, "NHD"), config)
    if wanted == "flashinfer":
        raise ConfigError(
            f"CODELLAMA_ATTENTION asks for FlashInfer, and {obstacle}",
            hint="leave it out to use this package's own attention",
        )
    return None


def _obstacle(config: ModelConfig, kv_cache: KVFormat, dtype: torch.dtype) -> str | None:
    if config.head_dim not in _HEAD_DIMS:
        return f"it has no heads of {config.head_dim} numbers"
    if _FORMATS.get(kv_cache) is not dtype:
        return f"it is used with a cache of the activations' type alone, not with {kv_cache}"
    return None
