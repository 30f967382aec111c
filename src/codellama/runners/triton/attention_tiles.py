"""Attention of prompts over the paged cache: a tile of a sequence's queries at a time.

The keys of the chunk itself are in the cache already, so that a prompt read whole, in chunks or
behind a shared beginning is the same. Online softmax as in `attention_rows`.
"""

from __future__ import annotations

import math

import triton
import triton.language as tl
from torch import Tensor

from codellama.runners.fused.cache import LayerCache
from codellama.runners.fused.inputs import Tiles
from codellama.runners.triton.launch import OPTIONS, PRECISION, dot_type, n_stages, power_of_2

# Of a program, by the bytes of a number.
_KEYS = {2: 64, 4: 32}
_QUERIES = {2: 128, 4: 32}


@triton.jit(do_not_specialize=["table_width"])
def _attend(
    q, k, v, k_scale, v_scale, out, token, count, sequence, first, tables, table_width, scale,
    N_HEADS: tl.constexpr, N_KV: tl.constexpr, E: tl.constexpr, E_PAD: tl.constexpr,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, BLOCK: tl.constexpr, HAS_SCALES: tl.constexpr,
    DOT: tl.constexpr,
):  # fmt: skip
    # The last tiles see most keys: begun first, they do not run on alone at the end.
    tile, head = tl.num_programs(0) - 1 - tl.program_id(0), tl.program_id(1)
    before = tl.program_id(2) * QUERIES  # of the tile's tokens
    kv_head = head // (N_HEADS // N_KV)
    n = tl.minimum(tl.load(count + tile) - before, QUERIES)
    position = tl.load(first + tile) + before
    table = tables + tl.load(sequence + tile).to(tl.int64) * table_width
    i = tl.arange(0, QUERIES)
    e = tl.arange(0, E_PAD)
    at_token = tl.load(token + tile).to(tl.int64) + before + i
    at_q = (at_token[:, None] * N_HEADS + head) * E + e[None, :]
    is_mine = (i[:, None] < n) & (e[None, :] < E)
    query = tl.load(q + at_q, mask=is_mine, other=0.0).to(DOT)
    top = tl.full([QUERIES], float("-inf"), tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    acc = tl.zeros([QUERIES, E_PAD], tl.float32)
    end = tl.where(n > 0, position + n, 0)
    for start in tl.range(0, end, KEYS):
        seen = start + tl.arange(0, KEYS)
        is_live = seen < end
        block = tl.load(table + seen // BLOCK, mask=is_live, other=0).to(tl.int64)
        line = (block * BLOCK + seen % BLOCK) * N_KV + kv_head
        at = line[:, None] * E + e[None, :]
        is_read = is_live[:, None] & (e[None, :] < E)
        key = tl.load(k + at, mask=is_read, other=0.0).to(DOT)
        scores = tl.dot(query, tl.trans(key), input_precision=PRECISION) * scale
        if HAS_SCALES:
            scores *= tl.load(k_scale + line, mask=is_live, other=0.0)[None, :]
        scores = tl.where(seen[None, :] <= position + i[:, None], scores, float("-inf"))
        new_top = tl.maximum(top, tl.max(scores, 1))
        weight = tl.exp2(scores - new_top[:, None])
        fade = tl.exp2(top - new_top)
        total = total * fade + tl.sum(weight, 1)
        if HAS_SCALES:
            weight *= tl.load(v_scale + line, mask=is_live, other=0.0)[None, :]
        value = tl.load(v + at, mask=is_read, other=0.0).to(DOT)
        acc = acc * fade[:, None] + tl.dot(weight.to(DOT), value, input_precision=PRECISION)
        top = new_top
    tl.store(out + at_q, (acc / total[:, None]).to(out.dtype.element_ty), mask=is_mine)


def attend_tiles(
    q: Tensor, cache: LayerCache, tiles: Tiles, tables: Tensor, block_size: int, out: Tensor
) -> None:
    """Fills `out` [T, H, E] for the tokens of `tiles`; see `reference.attend_tiles`.

    Sums are kept in float32.
    """
    _, n_heads, head_dim = q.shape
    has_scales = cache.k_scale is not None
    pad = power_of_2(head_dim, 16)
    line = pad * q.element_size()
    keys, queries = _KEYS[q.element_size()], min(tiles.width, _QUERIES[q.element_size()])
    _attend[len(tiles.token), n_heads, triton.cdiv(tiles.width, queries)](
        q, cache.k, cache.v, cache.k_scale if has_scales else q, cache.v_scale if has_scales else q,
        out, tiles.token, tiles.count, tiles.sequence, tiles.first, tables, tables.stride(0),
        math.log2(math.e) * head_dim**-0.5,
        N_HEADS=n_heads, N_KV=cache.k.shape[1], E=head_dim, E_PAD=pad,
        QUERIES=queries, KEYS=keys, BLOCK=block_size, HAS_SCALES=has_scales,
        DOT=dot_type(q.dtype), num_warps=8 if queries > 64 else 4, **OPTIONS,
        num_stages=n_stages(q, queries * line, 2 * keys * line),
    )  # fmt: skip
