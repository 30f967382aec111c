"""Rounding to Q4_K, Q5_K and Q6_K: a search for the scales that lose least.

A number x weighs w in the squared error that is made small: where x is large, an error moves a
product more. In Q4_K and Q5_K w = |x| + the root mean square of the group, in Q6_K w = x².

1. For each group, several step sizes around the one that just covers its range are tried. Each
   gives whole numbers q; the scale (and minimum) that fit x best for those q is a small
   least-squares problem, whose solution also says what the error is. The best one is kept.
2. With that scale, q is rounded again and the fit repeated, as long as it helps.
3. The groups' scales are rounded to 6 or 8 bits of the block's own d (and dmin).
4. q is rounded again for what is now stored, and d (and dmin) are fitted once more to all 256
   numbers and rounded to F16, which is kept where the error falls.
5. Each group moves its rounded scale (and minimum) by one where that lowers its error; then 4
   again.

That weights and a search for the scale lose less than the range alone is how llama.cpp makes these
formats (k-quants, github.com/ggml-org/llama.cpp pull request 1684); steps 2, 4 and 5 are ours. Sums
run in the order of the numbers, one by one in float32, so that `native/quantise_blocks.h`, which is
what one uses for whole models, gives the same bits.

Shapes: N blocks, G groups of a block, E numbers of a group; x, w and q are [E, N, G].
"""

from __future__ import annotations

from functools import reduce
from typing import NamedTuple

import numpy as np

from codellama.quant.halves import Bytes, Floats, demand_finite, stored_scales

_HALF = np.float32(0.5)
_ZERO = np.float32(0)
_TRIES = 25  # step sizes: as if there were four steps fewer to two more, in quarters
_TRIES_AROUND_ZERO = 17  # from one fewer to one more, in eighths
_AGAIN = 2


class _Fit(NamedTuple):
    """x is about scale * q + low; `gain` is how much of the weighted square of x that explains."""

    scale: Floats
    low: Floats
    gain: Floats


def encode_q4_k(x: Floats) -> Bytes:
    found = _with_minima(x, 15, "Q4_K")
    return np.concatenate([*_scales(found), _nibbles(_flat(found.q))], axis=1)


def encode_q5_k(x: Floats) -> Bytes:
    found = _with_minima(x, 31, "Q5_K")
    q = _flat(found.q)
    fifth = np.packbits((q >> np.uint8(4)).reshape(-1, 8, 32), axis=1, bitorder="little")
    low = _nibbles(q & np.uint8(15))
    return np.concatenate([*_scales(found), fifth.reshape(-1, 32), low], axis=1)


def encode_q6_k(x: Floats) -> Bytes:
    found = _around_zero(x, "Q6_K")
    q = _flat(found.q + np.float32(32))
    low = (q & np.uint8(15)).reshape(-1, 2, 2, 64)
    high = (q >> np.uint8(4)).reshape(-1, 2, 4, 32)
    pairs = reduce(np.bitwise_or, (high[:, :, k] << np.uint8(2 * k) for k in range(4)))
    return np.concatenate(
        [
            (low[:, :, 0] | (low[:, :, 1] << np.uint8(4))).reshape(-1, 128),
            pairs.reshape(-1, 64),
            found.s.astype(np.int8).view(np.uint8),
            found.d,
        ],
        axis=1,
    )


class _Stored(NamedTuple):
    """A block as it may be stored: q [E, N, G] for s and m [N, G] and F16 d and dmin [N, 2].

    `errors` [N, G] are the groups' weighted squared errors.
    """

    q: Floats
    s: Floats
    m: Floats
    d: Bytes
    dmin: Bytes
    errors: Floats


class _Range(NamedTuple):
    """q goes from -zero to top - zero, s from least to most, m from 0 to most_m."""

    zero: int
    top: int
    least: int
    most: int
    most_m: int


def _with_minima(x: Floats, top: int, format: str) -> _Stored:
    demand_finite(x, format)
    groups = np.ascontiguousarray(x.reshape(len(x), 8, 32).transpose(2, 0, 1))
    # Too large for any scale, and its square might not be finite.
    stored_scales(np.abs(x).max(axis=1, keepdims=True) / np.float32(64 * top), x, format)
    w = np.abs(groups) + np.sqrt(_sum(groups * groups) / np.float32(32))
    best = _search(groups, w, top)
    d, s = _divided(best.scale, 63)
    dmin, m = _divided(_ZERO - best.low, 63)
    halves = stored_scales(d, x, format), stored_scales(dmin, x, format)
    return _improved(groups, w, s, m, *halves, _Range(0, top, 0, 63, 63))


def _search(x: Floats, w: Floats, top: int) -> _Fit:
    """The best fit of each group found by trying step sizes. `low` is never above zero."""
    low = np.minimum(reduce(np.minimum, x), _ZERO) + _ZERO  # never the zero below zero
    span = reduce(np.maximum, x) - low + _ZERO
    sum_w, sum_x = _sum(w), _sum(w * x)
    best = _Fit(span / np.float32(top), low, np.full_like(low, -np.inf))
    for i in range(_TRIES):
        inverse = _over(np.float32(top - 4 + i / 4), span)
        best = _best(best, _fit(x, w, sum_w, sum_x, _whole((x - low) * inverse, top)))
    for _ in range(_AGAIN):
        q = _whole((x - best.low) * _over(np.float32(1), best.scale), top)
        best = _best(best, _fit(x, w, sum_w, sum_x, q))
    return best


def _fit(x: Floats, w: Floats, sum_w: Floats, sum_x: Floats, q: Floats) -> _Fit:
    """The scale and minimum that suit whole numbers q best; gain is -inf where none does."""
    wq = w * q
    sum_q, sum_qq, sum_qx = _sum(wq), _sum(wq * q), _sum(wq * x)
    det = sum_w * sum_qq - sum_q * sum_q
    inverse = _over(np.float32(1), det)
    scale = (sum_w * sum_qx - sum_x * sum_q) * inverse
    low = (sum_qq * sum_x - sum_q * sum_qx) * inverse
    is_flat = ~(det > 0) | (low > 0)  # then the minimum is zero
    scale = np.where(is_flat, sum_qx * _over(np.float32(1), sum_qq), scale)
    low = np.where(is_flat, _ZERO, low)
    gain = scale * sum_qx + low * sum_x
    return _Fit(scale, low, np.where(scale > 0, gain, np.float32(-np.inf)))


def _best(a: _Fit, b: _Fit) -> _Fit:
    return _Fit(*(np.where(b.gain > a.gain, new, old) for old, new in zip(a, b, strict=True)))


def _around_zero(x: Floats, format: str) -> _Stored:
    demand_finite(x, format)
    stored_scales(np.abs(x).max(axis=1, keepdims=True) / np.float32(128 * 32), x, format)
    groups = np.ascontiguousarray(x.reshape(len(x), 16, 16).transpose(2, 0, 1))
    w = groups * groups
    largest = reduce(_further, groups)
    scale, gain = largest / np.float32(-32), np.full_like(largest, -np.inf)
    for i in range(_TRIES_AROUND_ZERO + _AGAIN):
        if i < _TRIES_AROUND_ZERO:
            inverse = _over(np.float32(-31 - i / 8), largest)
        else:
            inverse = _over(np.float32(1), scale)
        q = _whole(groups * inverse + np.float32(32), 63) - np.float32(32)
        wq = w * q
        sum_qx = _sum(wq * groups)
        new = sum_qx * _over(np.float32(1), _sum(wq * q))
        worth = new * sum_qx > gain
        scale, gain = np.where(worth, new, scale), np.where(worth, new * sum_qx, gain)
    d = reduce(_further, scale.T)[:, None] / np.float32(-128)
    s = _whole(scale * _over(np.float32(1), d) + np.float32(128), 255) - np.float32(128)
    d_bytes = stored_scales(d, x, format)
    none = np.zeros_like(s)
    return _improved(
        groups, w, s, none, d_bytes, np.zeros_like(d_bytes), _Range(32, 63, -128, 127, 0)
    )


def _improved(
    x: Floats, w: Floats, s: Floats, m: Floats, d: Bytes, dmin: Bytes, of: _Range
) -> _Stored:
    """Steps 4 and 5."""
    best = _rounded(x, w, s, m, d, dmin, of)
    best = _fitted(x, w, best, of)
    best = _moved(x, w, best, of)
    return _fitted(x, w, best, of)


def _rounded(
    x: Floats, w: Floats, s: Floats, m: Floats, d: Bytes, dmin: Bytes, of: _Range
) -> _Stored:
    scale, low, zero = _numbers(d) * s, _numbers(dmin) * m, np.float32(of.zero)
    q = _whole((x + low) * _over(np.float32(1), scale) + zero, of.top) - zero
    off = x - (scale * q - low)
    return _Stored(q, s, m, d, dmin, _sum(w * off * off))


def _fitted(x: Floats, w: Floats, best: _Stored, of: _Range) -> _Stored:
    """With d and dmin that suit s, m and q best, in the blocks whose error that lowers."""
    for _ in range(_AGAIN):
        d, dmin = _fit_block(x, w, best)
        trial = _rounded(x, w, best.s, best.m, _halves(d), _halves(dmin), of)
        worth = _total(trial.errors) < _total(best.errors)
        best = best._replace(
            q=np.where(worth, trial.q, best.q),
            d=np.where(worth, trial.d, best.d),
            dmin=np.where(worth, trial.dmin, best.dmin),
            errors=np.where(worth, trial.errors, best.errors),
        )
    return best


def _moved(x: Floats, w: Floats, start: _Stored, of: _Range) -> _Stored:
    """With s and m one more or less, in the groups whose error that lowers."""
    best = start
    for up in (-1, 0, 1):
        s = np.clip(start.s + np.float32(up), np.float32(of.least), np.float32(of.most))
        for up_m in (-1, 0, 1) if of.most_m else (0,):
            m = np.clip(start.m + np.float32(up_m), _ZERO, np.float32(of.most_m))
            trial = _rounded(x, w, s, m, start.d, start.dmin, of)
            worth = trial.errors < best.errors
            best = best._replace(
                q=np.where(worth, trial.q, best.q),
                s=np.where(worth, s, best.s),
                m=np.where(worth, m, best.m),
                errors=np.where(worth, trial.errors, best.errors),
            )
    return best


def _fit_block(x: Floats, w: Floats, of: _Stored) -> tuple[Floats, Floats]:
    """d and dmin [N, 1] that suit s, m and q best, with dmin no less than zero."""
    sq = of.s * of.q
    wsq, wm = w * sq, w * of.m
    aa, ab, bb = _total(_sum(wsq * sq)), _total(_sum(wsq * of.m)), _total(_sum(wm * of.m))
    ax, bx = _total(_sum(wsq * x)), _total(_sum(wm * x))
    det = aa * bb - ab * ab
    inverse = _over(np.float32(1), det)
    d = (ax * bb - ab * bx) * inverse
    dmin = (ax * ab - aa * bx) * inverse
    is_flat = ~(det > 0) | (dmin < 0)
    d = np.where(is_flat, ax * _over(np.float32(1), aa), d)
    return d, np.where(is_flat, _ZERO, dmin)


def _further(a: Floats, b: Floats) -> Floats:
    """Whichever lies further from zero, the first of equals."""
    return np.where(np.abs(b) > np.abs(a), b, a)


def _divided(x: Floats, top: int) -> tuple[Floats, Floats]:
    """The step d [N, 1] that covers x [N, G] in `top` steps, and x in whole steps."""
    d = reduce(np.maximum, x.T)[:, None] / np.float32(top)
    return d, _whole(x * _over(np.float32(1), d), top)


def _over(a: np.float32, b: Floats) -> Floats:
    """a / b, but 0 where that is not finite: nothing is there to divide."""
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        quotient = a / b
    return np.where(np.isfinite(quotient), quotient, _ZERO)


def _whole(x: Floats, top: int) -> Floats:
    """x, cut to 0..top, rounded to the nearest whole number, halves upwards."""
    rounded: Floats = np.trunc(np.clip(x, _ZERO, np.float32(top)) + _HALF)
    return rounded


def _sum(x: Floats) -> Floats:
    """Over the first axis, one by one."""
    total: Floats = reduce(np.add, x)
    return total


def _total(x: Floats) -> Floats:
    """Over the groups of a block, one by one: [N, G] to [N, 1]."""
    return _sum(x.T)[:, None]


def _halves(x: Floats) -> Bytes:
    with np.errstate(over="ignore"):
        return x.astype("<f2").view(np.uint8)


def _numbers(halves: Bytes) -> Floats:
    return halves.view("<f2").astype(np.float32)


def _flat(q: Floats) -> Bytes:
    """[E, N, G] as [N, 256]."""
    return q.astype(np.uint8).transpose(1, 2, 0).reshape(q.shape[1], -1)


def _nibbles(q: Bytes) -> Bytes:
    pairs = q.reshape(-1, 4, 2, 32)
    return (pairs[:, :, 0] | (pairs[:, :, 1] << np.uint8(4))).reshape(-1, 128)


def _scales(of: _Stored) -> tuple[Bytes, Bytes, Bytes]:
    """d, dmin and the 12 bytes of s and m: see `blocks_k`."""
    s, m = of.s.astype(np.uint8), of.m.astype(np.uint8)
    four, six = np.uint8(4), np.uint8(6)
    packed = [
        s[:, :4] | ((s[:, 4:] >> four) << six),
        m[:, :4] | ((m[:, 4:] >> four) << six),
        (s[:, 4:] & np.uint8(15)) | ((m[:, 4:] & np.uint8(15)) << four),
    ]
    return of.d, of.dmin, np.concatenate(packed, axis=1)
