"""Drawing tokens where the logits are: greedy, temperature, top-k, top-p and min-p.

The CPU's sampler walks through the tokens by falling logit until their weights exceed a random
share of the whole. What it would find is found here without sorting. Let F(t) be the weight of all
tokens with a larger logit than t: the token is at the smallest logit for which F is not above the
target, and bisection finds it, since floats sort as the whole numbers of their bits. Where top-k
and top-p cut is found in the same way; among equal logits the lower id comes first.

Weights are float32 as on the CPU and sums float64, so that a draw differs from the CPU's only when
the target lies within rounding of the border of two tokens. The random number is the CPU's, bit
for bit: SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) of seed and counter.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from codellama.runners.triton.launch import OPTIONS, power_of_2


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
def _weight(key, top, temperature):
    """The weight of a token, made anew from its key: to keep both would take too many registers."""
    bits = key ^ ((key >> 31) & 0x7FFFFFFF)
    distance = bits.to(tl.float32, bitcast=True) - top
    is_near = distance >= -88.0 * temperature
    return tl.where(is_near, tl.exp(tl.where(is_near, distance / temperature, 0.0)), 0.0)


@triton.jit
def _above(key, top, temperature, at):
    """The weight of the tokens whose key is above `at`."""
    weight = tl.where(key > at, _weight(key, top, temperature), 0.0)
    return tl.sum(weight.to(tl.float64), 0)


@triton.jit
def _n_at(key, at):
    """How many tokens have the key `at`, as a float64."""
    return tl.sum(tl.where(key == at, 1, 0), 0).to(tl.float64)


@triton.jit
def _lowest(key, top, temperature, target, least, most):
    """The smallest key from `least` on above which tokens weigh no more than `target`."""
    low, high = least.to(tl.int64), most.to(tl.int64)
    while low < high:
        middle = (low + high) >> 1
        is_enough = _above(key, top, temperature, middle.to(tl.int32)) <= target
        high = tl.where(is_enough, middle, high)
        low = tl.where(is_enough, low, middle + 1)
    return low.to(tl.int32)


@triton.jit
def _lowest_of(key, n, least, most):
    """The smallest key from `least` on above which there are no more than n tokens."""
    low, high = least.to(tl.int64), most.to(tl.int64)
    while low < high:
        middle = (low + high) >> 1
        is_enough = tl.sum(tl.where(key > middle.to(tl.int32), 1, 0), 0) <= n
        high = tl.where(is_enough, middle, high)
        low = tl.where(is_enough, low, middle + 1)
    return low.to(tl.int32)


@triton.jit
def _n_within(target, above, weight):
    """How many equal weights, begun at the sum `above`, begin no later than `target`."""
    n = tl.floor((target - above) / weight)
    n = tl.where(above + n * weight > target, n - 1, n)
    n = tl.where(above + (n + 1) * weight <= target, n + 1, n)
    return n + 1


@triton.jit
def _sample(
    logits, raw, ids, logprobs, temperatures, top_ks, top_ps, min_ps, seeds, counters,
    n_ids, stride, raw_stride, WIDTH: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, WIDTH)
    is_id = i < n_ids
    original = tl.load(raw + row * raw_stride + i, mask=is_id, other=0.0).to(tl.float32)
    # Zero times an infinity is no number either.
    spoiled = tl.sum(tl.where(original * 0.0 == 0.0, 0, 1), 0)
    x = tl.load(logits + row * stride + i, mask=is_id, other=float("-inf")).to(tl.float32) + 0.0
    x = tl.where(spoiled > 0, tl.where(is_id, 0.0, float("-inf")), x)
    top = tl.max(x, 0)
    temperature = tl.load(temperatures + row)
    token = tl.min(tl.where(x == top, i, WIDTH), 0)
    if temperature > 0.0:
        bits = x.to(tl.int32, bitcast=True)
        key = bits ^ ((bits >> 31) & 0x7FFFFFFF)
        is_weighty = _weight(key, top, temperature) > 0.0
        least = tl.min(tl.where(is_weighty, key, 0x7FFFFFFF), 0)
        most = tl.max(key, 0)
        whole = _above(key, top, temperature, least - 1)
        cut = least  # tokens whose key is above `cut` are kept, and `n_tied` of those at it
        n_tied = _n_at(key, least)
        top_k = tl.load(top_ks + row)
        if (top_k > 0) & (top_k < n_ids):
            k = tl.minimum(top_k, tl.sum(tl.where(is_weighty, 1, 0), 0))
            cut = _lowest_of(key, k - 1, least, most)
            n_tied = (k - tl.sum(tl.where(key > cut, 1, 0), 0)).to(tl.float64)
            at_cut = _weight(cut, top, temperature).to(tl.float64)
            whole = _above(key, top, temperature, cut) + n_tied * at_cut
        top_p = tl.load(top_ps + row)
        if top_p < 1.0:
            enough = top_p.to(tl.float64) * whole
            found = _lowest(key, top, temperature, enough, least, most)
            at_found = _weight(found, top, temperature).to(tl.float64)
            n_found = _n_within(enough, _above(key, top, temperature, found), at_found)
            n_found = tl.maximum(tl.minimum(n_found, _n_at(key, found)), 1.0)
            n_both = tl.where(found == cut, tl.minimum(n_tied, n_found), n_tied)
            n_tied = tl.where(found > cut, n_found, n_both)
            cut = tl.maximum(cut, found)
        min_p = tl.load(min_ps + row)
        if min_p > 0.0:
            is_kept = (_weight(key, top, temperature) >= min_p) | (key == most)
            found = tl.min(tl.where(is_kept, key, 0x7FFFFFFF), 0)
            n_tied = tl.where(found > cut, _n_at(key, found), n_tied)
            cut = tl.maximum(cut, found)
        at_cut = _weight(cut, top, temperature).to(tl.float64)
        mass = _above(key, top, temperature, cut) + n_tied * at_cut
        seed = tl.load(seeds + row).to(tl.uint64, bitcast=True)
        counter = tl.load(counters + row).to(tl.uint64, bitcast=True)
        target = _uniform(seed, counter) * mass
        drawn = tl.maximum(_lowest(key, top, temperature, target, least, most), cut)
        at_drawn = _weight(drawn, top, temperature).to(tl.float64)
        rank = _n_within(target, _above(key, top, temperature, drawn), at_drawn)
        rank = tl.minimum(rank, tl.where(drawn == cut, n_tied, _n_at(key, drawn)))
        rank = tl.maximum(rank, 1.0).to(tl.int32)
        place = tl.cumsum(tl.where(key == drawn, 1, 0), 0)
        token = tl.min(tl.where((key == drawn) & (place == rank), i, WIDTH), 0)
    # Log-probabilities are those of the logits as they came.
    original = tl.where(is_id & (spoiled == 0), original, float("-inf"))
    highest = tl.where(spoiled > 0, 0.0, tl.max(original, 0))
    total = tl.sum(tl.exp(original - highest).to(tl.float64), 0).to(tl.float32)
    mine = tl.max(tl.where(i == token, original, float("-inf")), 0)
    logprob = mine - highest - tl.log(tl.where(spoiled > 0, 1.0, total))
    is_lost = (spoiled > 0) | (top == float("inf")) | (top == float("-inf"))
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
    width = power_of_2(n_ids)
    _sample[(n_rows,)](
        logits, raw, ids, logprobs, temperature, top_k, top_p, min_p, seed, counter, n_ids,
        logits.stride(0), raw.stride(0), WIDTH=width, num_warps=min(32, max(4, width // 1024)),
        **OPTIONS,
    )  # fmt: skip
    return ids, logprobs
