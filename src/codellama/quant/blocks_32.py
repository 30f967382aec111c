"""Formats in blocks of 32 numbers. Bytes in their order; d and m are F16.

    Q8_0  34 bytes   d, then 32 signed bytes q: a number is d * q
    Q4_0  18 bytes   d, 16 bytes of nibbles: d * (nibble - 8)
    Q4_1  20 bytes   d, m, 16 bytes of nibbles: d * nibble + m
    Q5_0  22 bytes   d, 4 bytes of fifth bits, 16 bytes of nibbles: d * (q - 16)
    Q5_1  24 bytes   d, m, 4 bytes of fifth bits, 16 bytes of nibbles: d * q + m

Byte j of the nibbles holds number j in its low half and number j + 16 in its high one. The fifth
bits are one little-endian u32: bit i is worth 16 in number i, so q is nibble + 16 * bit.

Encoders scale a block by its extremes: by the largest magnitude (Q8_0), by the largest number with
its sign, so that it is stored exactly at the end of the range that has one step more (Q4_0, Q5_0),
or by the distance from the smallest to the largest number (Q4_1, Q5_1).
"""

from __future__ import annotations

import numpy as np

from codellama.quant.halves import Bytes, Floats, demand_finite, scales_at, stored_scales


def decode_q8_0(blocks: Bytes) -> Floats:
    return blocks[:, 2:].view(np.int8).astype(np.float32) * scales_at(blocks, 0)


def decode_q4_0(blocks: Bytes) -> Floats:
    return scales_at(blocks, 0) * (_nibbles(blocks[:, 2:]).astype(np.float32) - np.float32(8))


def decode_q4_1(blocks: Bytes) -> Floats:
    q = _nibbles(blocks[:, 4:]).astype(np.float32)
    return scales_at(blocks, 0) * q + scales_at(blocks, 2)


def decode_q5_0(blocks: Bytes) -> Floats:
    q = _fives(blocks[:, 2:]).astype(np.float32)
    return scales_at(blocks, 0) * (q - np.float32(16))


def decode_q5_1(blocks: Bytes) -> Floats:
    q = _fives(blocks[:, 4:]).astype(np.float32)
    return scales_at(blocks, 0) * q + scales_at(blocks, 2)


def encode_q8_0(x: Floats) -> Bytes:
    demand_finite(x, "Q8_0")
    d = np.abs(x).max(axis=1, keepdims=True) / np.float32(127)
    ratios = x * _inverse(d)
    whole = np.trunc(ratios)
    rounded = whole + np.trunc(2 * (ratios - whole))  # halves away from zero
    return np.concatenate([stored_scales(d, x, "Q8_0"), rounded.astype(np.int8).view(np.uint8)], 1)


def encode_q4_0(x: Floats) -> Bytes:
    d, q = _around_zero(x, 8, "Q4_0")
    return np.concatenate([d, _packed(q)], axis=1)


def encode_q4_1(x: Floats) -> Bytes:
    d, m, q = _above_minimum(x, 15, "Q4_1")
    return np.concatenate([d, m, _packed(q)], axis=1)


def encode_q5_0(x: Floats) -> Bytes:
    d, q = _around_zero(x, 16, "Q5_0")
    return np.concatenate([d, _fifth_bits(q), _packed(q & np.uint8(15))], axis=1)


def encode_q5_1(x: Floats) -> Bytes:
    d, m, q = _above_minimum(x, 31, "Q5_1")
    return np.concatenate([d, m, _fifth_bits(q), _packed(q & np.uint8(15))], axis=1)


def _nibbles(pairs: Bytes) -> Bytes:
    """[n, 16] bytes of two numbers as [n, 32]."""
    return np.concatenate([pairs & np.uint8(15), pairs >> np.uint8(4)], axis=1)


def _packed(nibbles: Bytes) -> Bytes:
    return nibbles[:, :16] | (nibbles[:, 16:] << np.uint8(4))


def _fives(raw: Bytes) -> Bytes:
    """[n, 4 + 16] bytes, fifth bits first, as numbers of five bits [n, 32]."""
    fifth = np.unpackbits(raw[:, :4], axis=1, bitorder="little")
    return _nibbles(raw[:, 4:]) | (fifth << np.uint8(4))


def _fifth_bits(q: Bytes) -> Bytes:
    return np.packbits(q >> np.uint8(4), axis=1, bitorder="little")


def _around_zero(x: Floats, half: int, format: str) -> tuple[Bytes, Bytes]:
    """Scales [n, 2] and q [n, 32] from 0 to 2 * half - 1; the extreme of a block becomes q = 0."""
    demand_finite(x, format)
    largest = np.take_along_axis(x, np.abs(x).argmax(axis=1, keepdims=True), axis=1)
    d = largest / np.float32(-half)
    q = np.trunc(x * _inverse(d) + np.float32(half + 0.5)).clip(0, 2 * half - 1)
    return stored_scales(d, x, format), q.astype(np.uint8)


def _above_minimum(x: Floats, steps: int, format: str) -> tuple[Bytes, Bytes, Bytes]:
    """Scales [n, 2], minima [n, 2] and q [n, 32] from 0 to `steps`."""
    demand_finite(x, format)
    zero = np.float32(0)  # added to make the zero below zero, which some would find, the usual one
    low = x.min(axis=1, keepdims=True) + zero
    with np.errstate(over="ignore"):
        d = (x.max(axis=1, keepdims=True) - low + zero) / np.float32(steps)
    halves = stored_scales(d, x, format), stored_scales(low, x, format)
    q = np.trunc((x - low) * _inverse(d) + np.float32(0.5)).clip(0, steps)
    return *halves, q.astype(np.uint8)


def _inverse(d: Floats) -> Floats:
    """1 / d, but 0 for a scale of zero or one so small that its inverse overflows."""
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.float32(1) / d
    return np.where(np.isfinite(inverse), inverse, np.float32(0))
