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

from codellama.runners.triton.launch import power_of_2


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
def _above(key, value, at):
    """The sum of the values whose key is above `at`."""
    return tl.sum(tl.where(key > at, value, 0.0), 0)


@triton.jit
def _lowest(key, value, target, low, high):
    """The smallest key from `low` on above which values sum to no more than `target`."""
    while low < high:
        middle = (low + high) >> 1
        is_enough = _above(key, value, middle) <= target
        high = tl.where(is_enough, middle, high)
        low = tl.where(is_enough, low, middle + 1)
    return low


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
        is_near = x - top >= -88.0 * temperature
        weight = tl.where(is_near, tl.exp(tl.where(is_near, (x - top) / temperature, 0.0)), 0.0)
        value = weight.to(tl.float64)
        bits = (x + 0.0).to(tl.int32, bitcast=True)
        key = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.int64)
        least = tl.min(tl.where(weight > 0.0, key, 1 << 40), 0)
        most = tl.max(key, 0)
        cut = least  # tokens whose logit is above `cut` are kept, and `n_tied` of those at it
        n_tied = tl.sum(tl.where(key == least, 1.0, 0.0).to(tl.float64), 0)
        whole = tl.sum(value, 0)
        top_k = tl.load(top_ks + row)
        if (top_k > 0) & (top_k < n_ids):
            one = tl.where(weight > 0.0, 1.0, 0.0).to(tl.float64)
            k = tl.minimum(top_k.to(tl.float64), tl.sum(one, 0))
            cut = _lowest(key, one, k - 1.0, least, most)
            n_tied = k - _above(key, one, cut)
            at_cut = tl.max(tl.where(key == cut, value, 0.0), 0)
            whole = _above(key, value, cut) + n_tied * at_cut
        top_p = tl.load(top_ps + row)
        if top_p < 1.0:
            enough = top_p.to(tl.float64) * whole
            found = _lowest(key, value, enough, least, most)
            at_found = tl.max(tl.where(key == found, value, 0.0), 0)
            n_found = _n_within(enough, _above(key, value, found), at_found)
            n_all = tl.sum(tl.where(key == found, 1.0, 0.0).to(tl.float64), 0)
            n_found = tl.maximum(tl.minimum(n_found, n_all), 1.0)
            n_both = tl.where(found == cut, tl.minimum(n_tied, n_found), n_tied)
            n_tied = tl.where(found > cut, n_found, n_both)
            cut = tl.maximum(cut, found)
        min_p = tl.load(min_ps + row)
        if min_p > 0.0:
            found = tl.min(tl.where((weight >= min_p) | (key == most), key, 1 << 40), 0)
            n_all = tl.sum(tl.where(key == found, 1.0, 0.0).to(tl.float64), 0)
            n_tied = tl.where(found > cut, n_all, n_tied)
            cut = tl.maximum(cut, found)
        at_cut = tl.max(tl.where(key == cut, value, 0.0), 0)
        mass = _above(key, value, cut) + n_tied * at_cut
        seed = tl.load(seeds + row).to(tl.uint64, bitcast=True)
        counter = tl.load(counters + row).to(tl.uint64, bitcast=True)
        target = _uniform(seed, counter) * mass
        drawn = tl.maximum(_lowest(key, value, target, least, most), cut)
        at_drawn = tl.max(tl.where(key == drawn, value, 0.0), 0)
        n_all = tl.sum(tl.where(key == drawn, 1.0, 0.0).to(tl.float64), 0)
        rank = _n_within(target, _above(key, value, drawn), at_drawn)
        rank = tl.minimum(rank, tl.where(drawn == cut, n_tied, n_all))
        rank = tl.maximum(rank, 1.0).to(tl.int32)
        place = tl.cumsum(tl.where(key == drawn, 1, 0), 0)
        token = tl.min(tl.where((key == drawn) & (place == rank), i, WIDTH), 0)
    # Log-probabilities are those of the logits as they came.
    original = tl.where(is_id & (spoiled == 0), original, float("-inf"))
    highest = tl.where(spoiled > 0, 0.0, tl.max(original, 0))
    mass = tl.sum(tl.exp(original - highest).to(tl.float64), 0)
    mine = tl.max(tl.where(i == token, original, float("-inf")), 0)
    logprob = (mine - highest).to(tl.float64) - tl.log(tl.where(spoiled > 0, 1.0, mass))
    is_lost = (spoiled > 0) | (top == float("inf")) | (top == float("-inf"))
    tl.store(ids + row, tl.where(is_lost, -1, token))
    tl.store(logprobs + row, tl.where(is_lost, float("nan"), logprob.to(tl.float32)))


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
    )  # fmt: skip
    return ids, logprobs
