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

That weights and a search for the scale lose less than the range alone is how llama.cpp makes these
formats (k-quants, github.com/ggml-org/llama.cpp pull request 1684); fitting again in 2 and 4 is
ours. Sums run in the order of the numbers, one by one in float32, so that `native/quantise.cpp`,
which is what one uses for whole models, gives the same bits.

Shapes: N blocks, G groups of a block, E numbers of a group; x, w and q are [E, N, G].
"""

from __future__ import annotations

from functools import reduce
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from codellama.quant.halves import Bytes, Floats, demand_finite, stored_scales

_HALF = np.float32(0.5)
_ZERO = np.float32(0)
_TRIES = 17  # step sizes: from one step fewer to one more than there are, in eighths
_AGAIN = 2


class _Fit(NamedTuple):
    """x is about scale * q + low; `gain` is how much of the weighted square of x that explains."""

    scale: Floats
    low: Floats
    gain: Floats


def encode_q4_k(x: Floats) -> Bytes:
    s, m, d, dmin, q = _with_minima(x, 15, "Q4_K")
    return np.concatenate([d, dmin, _six_bits(s, m), _nibbles(q)], axis=1)


def encode_q5_k(x: Floats) -> Bytes:
    s, m, d, dmin, q = _with_minima(x, 31, "Q5_K")
    fifth = np.packbits((q >> np.uint8(4)).reshape(-1, 8, 32), axis=1, bitorder="little")
    return np.concatenate(
        [d, dmin, _six_bits(s, m), fifth.reshape(-1, 32), _nibbles(q & np.uint8(15))], axis=1
    )


def encode_q6_k(x: Floats) -> Bytes:
    s, d, q = _around_zero(x, "Q6_K")
    low = (q & np.uint8(15)).reshape(-1, 2, 2, 64)
    high = (q >> np.uint8(4)).reshape(-1, 2, 4, 32)
    return np.concatenate(
        [
            (low[:, :, 0] | (low[:, :, 1] << np.uint8(4))).reshape(-1, 128),
            reduce(np.bitwise_or, (high[:, :, k] << np.uint8(2 * k) for k in range(4))).reshape(
                -1, 64
            ),
            s.view(np.uint8),
            d,
        ],
        axis=1,
    )


def _with_minima(x: Floats, top: int, format: str) -> tuple[Bytes, Bytes, Bytes, Bytes, Bytes]:
    """s and m [N, 8], d and dmin [N, 2] as F16 bytes, q [N, 256] from 0 to `top`."""
    demand_finite(x, format)
    groups = np.ascontiguousarray(x.reshape(len(x), 8, 32).transpose(2, 0, 1))
    # Too large for any scale, and its square might not be finite.
    stored_scales(np.abs(x).max(axis=1, keepdims=True) / np.float32(64 * top), x, format)
    w = np.abs(groups) + np.sqrt(_sum(groups * groups) / np.float32(32))
    best = _search(groups, w, top)
    d, s = _divided(best.scale, 63)
    dmin, m = _divided(_ZERO - best.low, 63)
    halves = stored_scales(d, x, format), stored_scales(dmin, x, format)
    q = _rounded(groups, w, s, m, *halves, top)
    for _ in range(_AGAIN):
        d, dmin = _fit_block(groups, w, s, m, q.q)
        trial = _rounded(groups, w, s, m, _halves(d), _halves(dmin), top)
        q = _better(q, trial)
    return s.astype(np.uint8), m.astype(np.uint8), q.d, q.dmin, _flat(q.q)


def _search(x: Floats, w: Floats, top: int) -> _Fit:
    """The best fit of each group found by trying step sizes. `low` is never above zero."""
    low = np.minimum(reduce(np.minimum, x), _ZERO) + _ZERO  # never the zero below zero
    span = reduce(np.maximum, x) - low + _ZERO
    sum_w, sum_x = _sum(w), _sum(w * x)
    best = _Fit(span / np.float32(top), low, np.full_like(low, -np.inf))
    for i in range(_TRIES):
        inverse = _over(np.float32(top - 1 + i / 8), span)
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


class _Stored(NamedTuple):
    """q for F16 scales d and dmin, and the weighted squared error of the block [N, 1]."""

    q: Floats
    d: Bytes
    dmin: Bytes
    error: Floats


def _rounded(
    x: Floats, w: Floats, s: Floats, m: Floats, d: Bytes, dmin: Bytes, top: int
) -> _Stored:
    scale, low = _numbers(d) * s, _numbers(dmin) * m
    q = _whole((x + low) * _over(np.float32(1), scale), top)
    off = x - (scale * q - low)
    return _Stored(q, d, dmin, _total(_sum(w * off * off)))


def _better(a: _Stored, b: _Stored) -> _Stored:
    worth = b.error < a.error
    return _Stored(
        np.where(worth, b.q, a.q),
        np.where(worth, b.d, a.d),
        np.where(worth, b.dmin, a.dmin),
        np.where(worth, b.error, a.error),
    )


def _fit_block(x: Floats, w: Floats, s: Floats, m: Floats, q: Floats) -> tuple[Floats, Floats]:
    """d and dmin [N, 1] that suit s, m and q best, with dmin no less than zero."""
    sq = s * q
    wsq = w * sq
    aa, ab, bb = _total(_sum(wsq * sq)), _total(_sum(wsq * m)), _total(_sum(w * m * m))
    ax, bx = _total(_sum(wsq * x)), _total(_sum(w * m * x))
    inverse = _over(np.float32(1), aa * bb - ab * ab)
    d = (ax * bb - ab * bx) * inverse
    dmin = (ax * ab - aa * bx) * inverse
    is_flat = ~(aa * bb - ab * ab > 0) | (dmin < 0)
    d = np.where(is_flat, ax * _over(np.float32(1), aa), d)
    return d, np.where(is_flat, _ZERO, dmin)


def _around_zero(x: Floats, format: str) -> tuple[NDArray[np.int8], Bytes, Bytes]:
    """s [N, 16], d [N, 2] as F16 bytes, q [N, 256] from 0 to 63."""
    demand_finite(x, format)
    stored_scales(np.abs(x).max(axis=1, keepdims=True) / np.float32(128 * 32), x, format)
    groups = np.ascontiguousarray(x.reshape(len(x), 16, 16).transpose(2, 0, 1))
    w = groups * groups
    largest = reduce(_further, groups)
    scale, gain = largest / np.float32(-32), np.full_like(largest, -np.inf)
    for i in range(_TRIES + _AGAIN):
        if i < _TRIES:
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
    none = np.zeros_like(s)
    stored = _rounded_around_zero(groups, w, s, stored_scales(d, x, format))
    for _ in range(_AGAIN):
        d, _ = _fit_block(groups, w, s, none, stored.q)
        stored = _better(stored, _rounded_around_zero(groups, w, s, _halves(d)))
    return s.astype(np.int8), stored.d, _flat(stored.q + np.float32(32))


def _rounded_around_zero(x: Floats, w: Floats, s: Floats, d: Bytes) -> _Stored:
    scale = _numbers(d) * s
    q = _whole(x * _over(np.float32(1), scale) + np.float32(32), 63) - np.float32(32)
    off = x - scale * q
    return _Stored(q, d, d, _total(_sum(w * off * off)))


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


def _six_bits(s: Bytes, m: Bytes) -> Bytes:
    """Scales and minima [N, 8] as 12 bytes: see `blocks_k`."""
    four, six = np.uint8(4), np.uint8(6)
    return np.concatenate(
        [
            s[:, :4] | ((s[:, 4:] >> four) << six),
            m[:, :4] | ((m[:, 4:] >> four) << six),
            (s[:, 4:] & np.uint8(15)) | ((m[:, 4:] & np.uint8(15)) << four),
        ],
        axis=1,
    )
