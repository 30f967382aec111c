"""Drawing tokens where the logits are: greedy, temperature, top-k, top-p and min-p.

The CPU's sampler walks through the tokens by falling logit until their weights exceed a random
share of the whole. What it would find is found here without sorting. Let F(t) be the weight of all
tokens with a larger logit than t: the token is at the smallest logit for which F is not above the
target, and bisection finds it, since floats sort as the whole numbers of their bits. Where top-k
and top-p cut is found in the same way; among equal logits the lower id comes first.

Weights are float32 as on the CPU and sums float64, so that a draw differs from the CPU's only when
the target lies within rounding of the border of two tokens. The random number is the CPU's, bit
for bit: SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) of seed and counter.

A row is gone through some 4000 logits at a time, which lie in the processor's own cache after the
first time: all of them at once would take more registers than a program has.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from codellama.runners.triton.launch import OPTIONS, power_of_2

_CHUNK = 4096


@triton.jit
def _mixed(x):
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB
    return x ^ (x >> 31)


@triton.jit
def _uniform(seed, counter):
    """A float64 in [0, 1) of 53 random bits."""
    step = tl.full([], 0x9E3779B97F4A7C15, tl.uint64)
    state = _mixed(seed + step)
    bits = _mixed(state + (counter + tl.full([], 1, tl.uint64)) * step) >> 11
    return bits.to(tl.int64).to(tl.float64) * 1.1102230246251565e-16  # 2 ** -53


@triton.jit
def _keys(logits, start, n_ids, CHUNK: tl.constexpr):
    """Some of a row's logits as whole numbers that sort as they do; both zeros are one."""
    i = start + tl.arange(0, CHUNK)
    x = tl.load(logits + i, mask=i < n_ids, other=float("-inf")).to(tl.float32) + 0.0
    bits = x.to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def _weight(key, top, temperature):
    """The weight of a token by its key."""
    bits = key ^ ((key >> 31) & 0x7FFFFFFF)
    distance = bits.to(tl.float32, bitcast=True) - top
    is_near = distance >= -88.0 * temperature
    return tl.where(is_near, tl.exp(tl.where(is_near, distance / temperature, 0.0)), 0.0)


@triton.jit
def _above(logits, n_ids, top, temperature, at, CHUNK: tl.constexpr):
    """The weight of the tokens whose key is above `at`."""
    total = tl.zeros([CHUNK], tl.float64)
    for start in tl.range(0, n_ids, CHUNK):
        key = _keys(logits, start, n_ids, CHUNK)
        total += tl.where(key > at, _weight(key, top, temperature), 0.0).to(tl.float64)
    return tl.sum(total, 0)


@triton.jit
def _n_above(logits, n_ids, at, CHUNK: tl.constexpr):
    """How many tokens have a key above `at`."""
    total = tl.zeros([CHUNK], tl.int32)
    for start in tl.range(0, n_ids, CHUNK):
        total += tl.where(_keys(logits, start, n_ids, CHUNK) > at, 1, 0)
    return tl.sum(total, 0)


@triton.jit
def _n_at(logits, n_ids, at, CHUNK: tl.constexpr):
    """How many tokens have the key `at`, as a float64."""
    n = _n_above(logits, n_ids, at - 1, CHUNK) - _n_above(logits, n_ids, at, CHUNK)
    return n.to(tl.float64)


@triton.jit
def _least(logits, n_ids, top, temperature, bound, CHUNK: tl.constexpr):
    """The smallest key that has a weight, and no less than `bound`."""
    least = tl.full([CHUNK], 0x7FFFFFFF, tl.int32)
    for start in tl.range(0, n_ids, CHUNK):
        key = _keys(logits, start, n_ids, CHUNK)
        weight = _weight(key, top, temperature)
        is_kept = (weight > 0.0) & (weight >= bound)
        least = tl.minimum(least, tl.where(is_kept, key, 0x7FFFFFFF))
    return tl.min(least, 0)


@triton.jit
def _lowest(logits, n_ids, top, temperature, target, least, most, CHUNK: tl.constexpr):
    """The smallest key from `least` on above which tokens weigh no more than `target`."""
    low, high = least.to(tl.int64), most.to(tl.int64)
    while low < high:
        middle = (low + high) >> 1
        above = _above(logits, n_ids, top, temperature, middle.to(tl.int32), CHUNK)
        high = tl.where(above <= target, middle, high)
        low = tl.where(above <= target, low, middle + 1)
    return low.to(tl.int32)


@triton.jit
def _lowest_of(logits, n_ids, n, least, most, CHUNK: tl.constexpr):
    """The smallest key from `least` on above which there are no more than n tokens."""
    low, high = least.to(tl.int64), most.to(tl.int64)
    while low < high:
        middle = (low + high) >> 1
        above = _n_above(logits, n_ids, middle.to(tl.int32), CHUNK)
        high = tl.where(above <= n, middle, high)
        low = tl.where(above <= n, low, middle + 1)
    return low.to(tl.int32)


@triton.jit
def _n_within(target, above, weight):
    """How many equal weights, begun at the sum `above`, begin no later than `target`."""
    n = tl.floor((target - above) / weight)
    n = tl.where(above + n * weight > target, n - 1, n)
    n = tl.where(above + (n + 1) * weight <= target, n + 1, n)
    return n + 1


@triton.jit
def _place(logits, n_ids, at, rank, CHUNK: tl.constexpr):
    """The id of the token that is number `rank`, from 1, of those with the key `at`."""
    found = tl.full([CHUNK], 0x7FFFFFFF, tl.int32)
    n = tl.zeros([1], tl.int32)
    for start in tl.range(0, n_ids, CHUNK):
        is_it = _keys(logits, start, n_ids, CHUNK) == at
        place = n + tl.cumsum(tl.where(is_it, 1, 0), 0)
        found = tl.where(is_it & (place == rank), start + tl.arange(0, CHUNK), found)
        n += tl.sum(tl.where(is_it, 1, 0), 0)
    return tl.min(found, 0)


@triton.jit
def _sample(
    all_logits, all_raw, ids, logprobs, temperatures, top_ks, top_ps, min_ps, seeds, counters,
    n_ids, stride, raw_stride, CHUNK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    logits, raw = all_logits + row * stride, all_raw + row * raw_stride
    tops = tl.full([CHUNK], float("-inf"), tl.float32)
    raw_tops = tl.full([CHUNK], float("-inf"), tl.float32)
    faults = tl.zeros([CHUNK], tl.int32)
    for start in tl.range(0, n_ids, CHUNK):
        i = start + tl.arange(0, CHUNK)
        original = tl.load(raw + i, mask=i < n_ids, other=0.0).to(tl.float32)
        # Zero times an infinity is no number either.
        faults += tl.where(original * 0.0 == 0.0, 0, 1)
        raw_tops = tl.maximum(raw_tops, tl.where(i < n_ids, original, float("-inf")))
        x = tl.load(logits + i, mask=i < n_ids, other=float("-inf")).to(tl.float32)
        tops = tl.maximum(tops, x)
    top = tl.max(tops, 0) + 0.0
    is_lost = (tl.sum(faults, 0) > 0) | (top == float("inf")) | (top == float("-inf"))
    temperature = tl.where(is_lost, 0.0, tl.load(temperatures + row))
    bits = top.to(tl.int32, bitcast=True)
    most = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    drawn = most
    rank = tl.full([], 1, tl.int32)
    if temperature > 0.0:
        least = _least(logits, n_ids, top, temperature, 0.0, CHUNK)
        whole = _above(logits, n_ids, top, temperature, least - 1, CHUNK)
        cut = least  # tokens whose key is above `cut` are kept, and `n_tied` of those at it
        n_tied = _n_at(logits, n_ids, least, CHUNK)
        top_k = tl.load(top_ks + row)
        if (top_k > 0) & (top_k < n_ids):
            k = tl.minimum(top_k, _n_above(logits, n_ids, least - 1, CHUNK))
            cut = _lowest_of(logits, n_ids, k - 1, least, most, CHUNK)
            n_tied = (k - _n_above(logits, n_ids, cut, CHUNK)).to(tl.float64)
            at_cut = _weight(cut, top, temperature).to(tl.float64)
            whole = _above(logits, n_ids, top, temperature, cut, CHUNK) + n_tied * at_cut
        top_p = tl.load(top_ps + row)
        if top_p < 1.0:
            enough = top_p.to(tl.float64) * whole
            found = _lowest(logits, n_ids, top, temperature, enough, least, most, CHUNK)
            above = _above(logits, n_ids, top, temperature, found, CHUNK)
            at_found = _weight(found, top, temperature).to(tl.float64)
            n_found = _n_within(enough, above, at_found)
            n_found = tl.minimum(n_found, _n_at(logits, n_ids, found, CHUNK))
            n_found = tl.maximum(n_found, 1.0)
            n_both = tl.where(found == cut, tl.minimum(n_tied, n_found), n_tied)
            n_tied = tl.where(found > cut, n_found, n_both)
            cut = tl.maximum(cut, found)
        min_p = tl.load(min_ps + row)
        if min_p > 0.0:
            found = tl.minimum(_least(logits, n_ids, top, temperature, min_p, CHUNK), most)
            n_tied = tl.where(found > cut, _n_at(logits, n_ids, found, CHUNK), n_tied)
            cut = tl.maximum(cut, found)
        at_cut = _weight(cut, top, temperature).to(tl.float64)
        mass = _above(logits, n_ids, top, temperature, cut, CHUNK) + n_tied * at_cut
        seed = tl.load(seeds + row).to(tl.uint64, bitcast=True)
        counter = tl.load(counters + row).to(tl.uint64, bitcast=True)
        target = _uniform(seed, counter) * mass
        lowest = _lowest(logits, n_ids, top, temperature, target, least, most, CHUNK)
        drawn = tl.maximum(lowest, cut)
        above = _above(logits, n_ids, top, temperature, drawn, CHUNK)
        n = _n_within(target, above, _weight(drawn, top, temperature).to(tl.float64))
        n = tl.minimum(n, tl.where(drawn == cut, n_tied, _n_at(logits, n_ids, drawn, CHUNK)))
        rank = tl.maximum(n, 1.0).to(tl.int32)
    token = _place(logits, n_ids, drawn, rank, CHUNK)
    # Log-probabilities are those of the logits as they came.
    highest = tl.max(raw_tops, 0)
    totals = tl.zeros([CHUNK], tl.float64)
    for start in tl.range(0, n_ids, CHUNK):
        i = start + tl.arange(0, CHUNK)
        original = tl.load(raw + i, mask=i < n_ids, other=float("-inf")).to(tl.float32)
        totals += tl.exp(original - highest).to(tl.float64)
    mine = tl.load(raw + tl.where(is_lost, 0, token)).to(tl.float32)
    logprob = mine - highest - tl.log(tl.sum(totals, 0).to(tl.float32))
    tl.store(ids + row, tl.where(is_lost, -1, token))
    tl.store(logprobs + row, tl.where(is_lost, float("nan"), logprob))


def sample(
    logits: Tensor,
    raw: Tensor,
    *,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    min_p: Tensor,
    seed: Tensor,
    counter: Tensor,
) -> tuple[Tensor, Tensor]:
    """Ids [R], int32, and log-probabilities [R], float32; -1 and NaN for a row that has a NaN.

    Args:
        logits: [R, V], after biases and penalties.
        raw: [R, V], as the model gave them.
        temperature: [R], float32 as `top_p` and `min_p`; 0 takes the likeliest token.
        top_k: [R], int32; 0 keeps all tokens.
        seed: [R], int64 of the same bits, as `counter`.
    """
    n_rows, n_ids = logits.shape
    ids = torch.empty(n_rows, dtype=torch.int32, device=logits.device)
    logprobs = torch.empty(n_rows, dtype=torch.float32, device=logits.device)
    chunk = min(_CHUNK, power_of_2(n_ids))
    _sample[(n_rows,)](
        logits, raw, ids, logprobs, temperature, top_k, top_p, min_p, seed, counter, n_ids,
        logits.stride(0), raw.stride(0), CHUNK=chunk, num_warps=16 if chunk == _CHUNK else 4,
        **OPTIONS,
    )  # fmt: skip
    return ids, logprobs
