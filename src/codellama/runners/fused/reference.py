"""What every kernel computes, in plain PyTorch: their meaning, and their body on a CPU.

Shapes: T tokens, H query heads, K key/value heads, E head_dim, D dim, F ffn_dim.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from codellama.model.transformer import apply_rope
from codellama.runners.fused.cache import LayerCache
from codellama.runners.fused.inputs import Rows, Tiles
from codellama.runners.fused.weights import Blocks, Fp8, Matrix


def numbers(matrix: Matrix) -> Tensor:
    """The numbers [N, K] of a matrix: in float32, or as they are where they are plain."""
    if isinstance(matrix, Blocks):
        return _dequantised(matrix)
    if isinstance(matrix, Fp8):
        return matrix.value.float() * matrix.scale[:, None]
    return matrix.value


def product(x: Tensor, matrix: Matrix) -> Tensor:
    """x [T, K] times the rows of a matrix [N, K], as [T, N]."""
    return F.linear(x, numbers(matrix).to(x.dtype))


def add_and_norm(x: Tensor, delta: Tensor | None, gain: Tensor, eps: float) -> Tensor:
    """Adds `delta` to the residual stream `x` [T, D] in place; returns its RMS norm."""
    if delta is not None:
        x += delta
    wide = x.float()
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return wide.to(x.dtype) * gain


def silu_and_multiply(gate_up: Tensor) -> Tensor:
    """silu of the first half [T, F] of each row, times the second."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


def rotate_and_store(
    qkv: Tensor, cos: Tensor, sin: Tensor, slots: Tensor, cache: LayerCache, n_heads: int
) -> Tensor:
    """Turns queries and keys of qkv [T, (H + 2 K) E] and stores keys and values at `slots` [T].

    `cos` and `sin` are [T, 1, E / 2]. Returns the queries [T, H, E].
    """
    _, n_kv, head_dim = cache.k.shape
    heads = qkv.view(len(qkv), -1, head_dim)
    q, k, v = torch.split(heads, [n_heads, n_kv, n_kv], dim=1)
    at = slots.long()
    for x, store, scales in (
        (apply_rope(k, (cos, sin)), cache.k, cache.k_scale),
        (v, cache.v, cache.v_scale),
    ):
        if scales is not None:
            peak = x.float().abs().amax(-1)
            inverse = torch.where(peak > 0, 127 / peak, 0)
            scales[at] = peak / 127
            store[at] = torch.floor(x.float() * inverse[..., None] + 0.5).to(store.dtype)
        elif cache.largest:
            clamped = x.float().clamp(-cache.largest, cache.largest).to(store.dtype)
            store.view(torch.uint8)[at] = clamped.view(torch.uint8)
        else:
            store[at] = x.to(store.dtype)
    return apply_rope(q, (cos, sin)).contiguous()


def attend_rows(
    q: Tensor, cache: LayerCache, rows: Rows, tables: Tensor, block_size: int, out: Tensor
) -> None:
    """Fills `out` [T, H, E] for single tokens, each of which sees its first `length` positions."""
    for token, sequence, length in zip(
        rows.token.tolist(), rows.sequence.tolist(), rows.length.tolist(), strict=True
    ):
        out[token] = 0
        if length:
            one = q[token : token + 1]
            out[token] = _attended(one, cache, tables[sequence], length, block_size)[0]


def attend_tiles(
    q: Tensor, cache: LayerCache, tiles: Tiles, tables: Tensor, block_size: int, out: Tensor
) -> None:
    """Fills `out` [T, H, E] for runs of tokens, each of which sees up to its own position."""
    for token, count, sequence, first in zip(
        tiles.token.tolist(), tiles.count.tolist(), tiles.sequence.tolist(), tiles.first.tolist(),
        strict=True,
    ):  # fmt: skip
        those = slice(token, token + count)
        out[those] = _attended(q[those], cache, tables[sequence], first + count, block_size)


def _attended(q: Tensor, cache: LayerCache, table: Tensor, length: int, size: int) -> Tensor:
    """Attention [n, H, E] of the last n of `length` positions."""
    positions = torch.arange(length, device=q.device)
    slots = table[positions // size].long() * size + positions % size
    k, v = _stored(cache.k, cache.k_scale, slots), _stored(cache.v, cache.v_scale, slots)
    mask = positions[None] <= positions[length - len(q) :, None]
    out = F.scaled_dot_product_attention(
        q.float().transpose(0, 1)[None], k.transpose(0, 1)[None], v.transpose(0, 1)[None],
        attn_mask=mask, enable_gqa=q.shape[1] != k.shape[1],
    )  # fmt: skip
    return out[0].transpose(0, 1).to(q.dtype)


def _stored(x: Tensor, scales: Tensor | None, slots: Tensor) -> Tensor:
    """Keys or values [n, K, E] in float32."""
    if x.dtype == torch.float8_e4m3fn:
        return x.view(torch.uint8)[slots].view(x.dtype).float()
    found = x[slots].float()
    return found if scales is None else found * scales[slots][..., None]


def _dequantised(matrix: Blocks) -> Tensor:
    """As `quant.planes.dequantise`."""
    layout, n = matrix.layout, len(matrix.low)
    if layout.bits == 8:
        q = matrix.low.view(torch.int8).float()
    else:
        low = matrix.low.reshape(n, -1, 1, layout.half)
        whole = torch.cat([low & 15, low >> 4], dim=2)
        if matrix.high is not None:
            whole |= _upper(matrix, layout.bits - 4) << 4
        q = whole.reshape(n, -1).float()
    out = _scales(matrix.d, matrix.s, layout.block, layout.group) * (q - layout.offset)
    if matrix.dmin is not None:
        out += _scales(matrix.dmin, matrix.m, layout.block, layout.group)
    return out


def _upper(matrix: Blocks, n_bits: int) -> Tensor:
    """The bits above four [N, runs, 2, half]."""
    assert matrix.high is not None, "only where there are such bits"
    shifts = torch.arange(0, 8, n_bits, dtype=torch.uint8, device=matrix.high.device)
    fields = (matrix.high[:, :, None] >> shifts) & (1 << n_bits) - 1
    return fields.reshape(len(fields), -1, matrix.layout.half, 2).transpose(2, 3)


def _scales(d: Tensor, s: Tensor | None, block: int, group: int) -> Tensor:
    scales = d.float().repeat_interleave(block, dim=1)
    return scales if s is None else scales * s.float().repeat_interleave(group, dim=1)
