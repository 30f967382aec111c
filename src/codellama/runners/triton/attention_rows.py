"""Attention of single tokens over the paged cache: decoding, and guesses behind it.

Every query goes through the keys of its own sequence up to its own length, `TILE` positions at a
time, with a running maximum (the online softmax of Milakov and Gimelshein, arXiv:1805.02867). The
query heads that share a key/value head share what is read. Long contexts are split over several
programs, whose parts a second kernel puts together (flash decoding: Dao and others,
crfm.stanford.edu/2023/10/12/flashdecoding.html). The number of splits does not depend on the
lengths, so that a recorded launch serves any.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from codellama.runners.fused.cache import LayerCache
from codellama.runners.fused.inputs import Rows
from codellama.runners.triton.launch import OPTIONS, PRECISION, dot_type, n_processors, power_of_2

_TILE = 64
_MOST_SPLITS = 64
_LEAST_OF_A_SPLIT = 256  # positions: less is not worth a program


@triton.jit(do_not_specialize=["table_width"])
def _attend(
    q, k, v, k_scale, v_scale, out, part, part_max, part_sum,
    token, sequence, length, tables, table_width, scale,
    N_HEADS: tl.constexpr, N_KV: tl.constexpr, E: tl.constexpr, E_PAD: tl.constexpr,
    GROUP: tl.constexpr, GROUP_PAD: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr,
    SPLITS: tl.constexpr, HAS_SCALES: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    row, kv_head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    at_token = tl.load(token + row).to(tl.int64)
    n = tl.load(length + row)
    table = tables + tl.load(sequence + row).to(tl.int64) * table_width
    share = tl.cdiv(tl.cdiv(n, TILE), SPLITS) * TILE
    begin = split * share
    end = tl.minimum(n, begin + share)
    g = tl.arange(0, GROUP_PAD)
    e = tl.arange(0, E_PAD)
    heads = kv_head * GROUP + g
    at_q = (at_token * N_HEADS + heads[:, None]) * E + e[None, :]
    is_mine = (g[:, None] < GROUP) & (e[None, :] < E)
    query = tl.load(q + at_q, mask=is_mine, other=0.0)
    top = tl.full([GROUP_PAD], float("-inf"), tl.float32)
    total = tl.zeros([GROUP_PAD], tl.float32)
    acc = tl.zeros([GROUP_PAD, E_PAD], tl.float32)
    for start in tl.range(begin, end, TILE):
        position = start + tl.arange(0, TILE)
        is_live = position < end
        block = tl.load(table + position // BLOCK, mask=is_live, other=0).to(tl.int64)
        line = (block * BLOCK + position % BLOCK) * N_KV + kv_head
        at = line[:, None] * E + e[None, :]
        is_read = is_live[:, None] & (e[None, :] < E)
        key = tl.load(k + at, mask=is_read, other=0.0)
        value = tl.load(v + at, mask=is_read, other=0.0)
        if GROUP_PAD == 1:
            scores = tl.sum(key.to(tl.float32) * query.to(tl.float32), 1)[None, :]
        else:
            scores = tl.dot(query.to(DOT), tl.trans(key.to(DOT)), input_precision=PRECISION)
        scores *= scale
        if HAS_SCALES:
            scores *= tl.load(k_scale + line, mask=is_live, other=0.0)[None, :]
        scores = tl.where(is_live[None, :], scores, float("-inf"))
        new_top = tl.maximum(top, tl.max(scores, 1))
        weight = tl.exp2(scores - new_top[:, None])
        fade = tl.exp2(top - new_top)
        total = total * fade + tl.sum(weight, 1)
        if HAS_SCALES:
            weight *= tl.load(v_scale + line, mask=is_live, other=0.0)[None, :]
        acc *= fade[:, None]
        if GROUP_PAD == 1:
            acc += tl.sum(tl.trans(weight) * value.to(tl.float32), 0)[None, :]
        else:
            acc += tl.dot(weight.to(DOT), value.to(DOT), input_precision=PRECISION)
        top = new_top
    if SPLITS == 1:
        result = acc / tl.where(total == 0.0, 1.0, total)[:, None]
        tl.store(out + at_q, result.to(out.dtype.element_ty), mask=is_mine)
    else:
        at_part = (row.to(tl.int64) * N_HEADS + heads) * SPLITS + split
        tl.store(part + at_part[:, None] * E + e[None, :], acc, mask=is_mine)
        tl.store(part_max + at_part, top, mask=g < GROUP)
        tl.store(part_sum + at_part, total, mask=g < GROUP)


@triton.jit
def _join(
    part, part_max, part_sum, out, token,
    N_HEADS: tl.constexpr, E: tl.constexpr, E_PAD: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    row, head = tl.program_id(0), tl.program_id(1)
    e = tl.arange(0, E_PAD)
    at = (row.to(tl.int64) * N_HEADS + head) * SPLITS + tl.arange(0, SPLITS)
    top = tl.load(part_max + at)
    highest = tl.max(top, 0)
    # A sequence without tokens has no maximum, and all its sums are 0.
    weight = tl.exp2(top - tl.where(highest == float("-inf"), 0.0, highest))
    total = tl.sum(weight * tl.load(part_sum + at), 0)
    values = tl.load(part + at[:, None] * E + e[None, :], mask=e[None, :] < E, other=0.0)
    result = tl.sum(values * weight[:, None], 0) / tl.where(total == 0.0, 1.0, total)
    at_out = (tl.load(token + row).to(tl.int64) * N_HEADS + head) * E + e
    tl.store(out + at_out, result.to(out.dtype.element_ty), mask=e < E)


def n_splits(n_rows: int, n_kv_heads: int, longest: int, processors: int) -> int:
    """Programs over which one context is split: enough to occupy the device twice, no more.

    A power of 2, since kernels are compiled for each number there is.
    """
    wanted = -(-2 * processors // (n_rows * n_kv_heads))
    most = max(1, min(wanted, _MOST_SPLITS, -(-longest // _LEAST_OF_A_SPLIT)))
    return 1 << (most.bit_length() - 1)


def attend_rows(
    q: Tensor, cache: LayerCache, rows: Rows, tables: Tensor, block_size: int, out: Tensor,
    *, splits: int | None = None,
) -> None:  # fmt: skip
    """Fills `out` [T, H, E] for the tokens of `rows`; see `reference.attend_rows`.

    Sums are kept in float32. `splits`, a power of 2, is chosen by the longest context the tables
    can hold.
    """
    _, n_heads, head_dim = q.shape
    n_kv = cache.k.shape[1]
    group = n_heads // n_kv
    n_rows = len(rows.token)
    if splits is None:
        longest = tables.shape[1] * block_size
        splits = n_splits(n_rows, n_kv, longest, n_processors(q))
    part = part_max = part_sum = out
    if splits > 1:
        part = torch.empty(n_rows, n_heads, splits, head_dim, device=q.device)
        part_max, part_sum = torch.empty(2, n_rows, n_heads, splits, device=q.device)
    has_scales = cache.k_scale is not None
    pad = power_of_2(head_dim, 16)
    _attend[n_rows, n_kv, splits](
        q, cache.k, cache.v, cache.k_scale if has_scales else q, cache.v_scale if has_scales else q,
        out, part, part_max, part_sum, rows.token, rows.sequence, rows.length, tables,
        tables.stride(0), math.log2(math.e) * head_dim**-0.5,
        N_HEADS=n_heads, N_KV=n_kv, E=head_dim, E_PAD=pad, GROUP=group,
        GROUP_PAD=1 if group == 1 else power_of_2(group, 16), BLOCK=block_size, TILE=_TILE,
        SPLITS=splits, HAS_SCALES=has_scales, DOT=dot_type(q.dtype), num_warps=4, **OPTIONS,
    )  # fmt: skip
    if splits > 1:
        _join[n_rows, n_heads](
            part, part_max, part_sum, out, rows.token, N_HEADS=n_heads, E=head_dim, E_PAD=pad,
            SPLITS=splits, num_warps=4, **OPTIONS,
        )  # fmt: skip
