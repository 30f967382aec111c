"""Queries and keys turned, keys and values into the cache, in one pass over a projection."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from codellama.runners.fused.cache import LayerCache
from codellama.runners.triton.launch import OPTIONS, power_of_2

_HEADS = 4  # of a program


@triton.jit
def _rotate_and_store(
    qkv, cos, sin, slots, q, k, v, k_scale, v_scale,
    N_HEADS: tl.constexpr, N_KV: tl.constexpr, E: tl.constexpr, E_PAD: tl.constexpr,
    HEADS: tl.constexpr, HAS_SCALES: tl.constexpr, LARGEST: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    pair = tl.arange(0, E_PAD // 2)
    half = E // 2
    at = (token * (N_HEADS + 2 * N_KV) + head[:, None]) * E + pair[None, :]
    is_read = (head[:, None] < N_HEADS + 2 * N_KV) & (pair[None, :] < half)
    first = tl.load(qkv + at, mask=is_read, other=0.0).to(tl.float32)
    second = tl.load(qkv + at + half, mask=is_read, other=0.0).to(tl.float32)
    c = tl.load(cos + token * half + pair, mask=pair < half, other=0.0)[None, :]
    s = tl.load(sin + token * half + pair, mask=pair < half, other=0.0)[None, :]
    is_turned = head[:, None] < N_HEADS + N_KV
    turned = tl.where(is_turned, first * c - second * s, first)
    second = tl.where(is_turned, second * c + first * s, second)
    first = turned
    is_query = is_read & (head[:, None] < N_HEADS)
    at_q = (token * N_HEADS + head[:, None]) * E + pair[None, :]
    tl.store(q + at_q, first.to(q.dtype.element_ty), mask=is_query)
    tl.store(q + at_q + half, second.to(q.dtype.element_ty), mask=is_query)
    is_key = (head >= N_HEADS) & (head < N_HEADS + N_KV)
    is_value = (head >= N_HEADS + N_KV) & (head < N_HEADS + 2 * N_KV)
    kv_head = tl.where(is_key, head - N_HEADS, head - N_HEADS - N_KV)
    line = tl.load(slots + token).to(tl.int64) * N_KV + kv_head
    if HAS_SCALES:
        # As the projection's own type has them, so that the cache does not depend on this kernel.
        first = first.to(q.dtype.element_ty).to(tl.float32)
        second = second.to(q.dtype.element_ty).to(tl.float32)
        peak = tl.maximum(tl.max(tl.abs(first), 1), tl.max(tl.abs(second), 1))
        scale = peak / 127.0
        tl.store(k_scale + line, scale, mask=is_key)
        tl.store(v_scale + line, scale, mask=is_value)
        inverse = tl.where(peak > 0.0, 127.0 / peak, 0.0)[:, None]
        first = tl.floor(first * inverse + 0.5)
        second = tl.floor(second * inverse + 0.5)
    if LARGEST > 0:
        first = tl.minimum(tl.maximum(first, -LARGEST), LARGEST)
        second = tl.minimum(tl.maximum(second, -LARGEST), LARGEST)
    at_line = line[:, None] * E + pair[None, :]
    mask = is_read & is_key[:, None]
    tl.store(k + at_line, first.to(k.dtype.element_ty), mask=mask)
    tl.store(k + at_line + half, second.to(k.dtype.element_ty), mask=mask)
    mask = is_read & is_value[:, None]
    tl.store(v + at_line, first.to(v.dtype.element_ty), mask=mask)
    tl.store(v + at_line + half, second.to(v.dtype.element_ty), mask=mask)


def rotate_and_store(
    qkv: Tensor, cos: Tensor, sin: Tensor, slots: Tensor, cache: LayerCache, n_heads: int
) -> Tensor:
    """The rotated queries [T, H, E]; see `reference.rotate_and_store`."""
    n_tokens = len(qkv)
    _, n_kv, head_dim = cache.k.shape
    q = torch.empty(n_tokens, n_heads, head_dim, dtype=qkv.dtype, device=qkv.device)
    has_scales = cache.k_scale is not None
    _rotate_and_store[n_tokens, triton.cdiv(n_heads + 2 * n_kv, _HEADS)](
        qkv, cos, sin, slots, q, cache.k, cache.v,
        cache.k_scale if has_scales else cos, cache.v_scale if has_scales else cos,
        N_HEADS=n_heads, N_KV=n_kv, E=head_dim, E_PAD=power_of_2(head_dim, 2), HEADS=_HEADS,
        HAS_SCALES=has_scales, LARGEST=cache.largest, num_warps=2, **OPTIONS,
    )  # fmt: skip
    return q
